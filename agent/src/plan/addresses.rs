//! Whose address is whose: the identity of every address in the cluster and of
//! every range that a policy names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use weft_core::model::{Labels, NumericIdentity};
use weft_core::policy::{Rule, cidrs_of};
use weft_datapath::IPCACHE_ENTRIES;

use super::room::{Claim, give_way};
use crate::identity::{CidrIdentities, Numbers, pod_labels};
use crate::state::{ClusterState, Node, ObjectKey};

/// What an address or range stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Its identity.
    pub identity: NumericIdentity,
    /// The other node that a pod is on; none for this node's pods and for
    /// everything that is no pod.
    pub node: Option<Ipv4Addr>,
}

/// Most ranges that get an identity for a policy's sake: a quarter of the
/// kernel's table of addresses, so that pods and nodes always find room in it.
pub const MAX_RANGES: usize = IPCACHE_ENTRIES as usize / 4;

/// The ranges that need an identity because a rule names them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ranges {
    /// Those that get one.
    pub numbered: BTreeSet<Ipv4Net>,
    /// Rules for all of whose ranges there is no room: of the namespaces with the
    /// most.
    pub refused: Vec<Unnumbered>,
}

/// A rule for whose ranges there is no room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unnumbered {
    /// The rule.
    pub rule: Arc<Rule>,
    /// How many ranges it names.
    pub ranges: usize,
}

/// The IPv4 ranges that need an identity because a rule names them that selects
/// a pod of this node: pods with such labels are `local`. `known` are those that
/// have one.
pub fn ranges(
    rules: &[Arc<Rule>],
    local: &BTreeSet<Labels>,
    known: &CidrIdentities,
    room: usize,
) -> Ranges {
    let selects = |rule: &Rule| local.iter().any(|labels| rule.subject.matches(labels));
    let named: Vec<(&Arc<Rule>, BTreeSet<Ipv4Net>)> = rules
        .iter()
        .map(|rule| (rule, ranges_of([rule.as_ref()])))
        .filter(|(rule, own)| !own.is_empty() && selects(rule))
        .collect();
    let mut result = Ranges::default();
    for (_, own) in &named {
        result.numbered.extend(own);
    }
    if result.numbered.len() <= room {
        return result;
    }
    // What several rules name counts for each of them.
    let claims = named.iter().enumerate().map(|(index, (rule, own))| Claim {
        of: index,
        tenant: &rule.origin.namespace,
        size: own.len(),
        new: own.iter().any(|range| known.get(range).is_none()),
    });
    let leaving = give_way(&claims.collect::<Vec<_>>(), room);
    let (mut leaving, staying): (Vec<_>, Vec<_>) = named
        .into_iter()
        .enumerate()
        .partition(|(index, _)| leaving.contains(index));
    result.numbered = staying.into_iter().flat_map(|(_, (_, own))| own).collect();
    // So some of it may fit all the same.
    leaving.sort_by_key(|(_, (_, own))| own.len());
    for (_, (rule, own)) in leaving {
        let more = own.difference(&result.numbered).count();
        if result.numbered.len() + more <= room {
            result.numbered.extend(own);
        } else {
            result.refused.push(Unnumbered {
                rule: rule.clone(),
                ranges: own.len(),
            });
        }
    }
    result
}

fn ranges_of<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> BTreeSet<Ipv4Net> {
    cidrs_of(rules)
        .into_iter()
        .filter_map(|range| match range {
            IpNet::V4(range) => Some(range),
            IpNet::V6(_) => None,
        })
        .collect()
}

/// Every address of the cluster and every range with an identity. Pods and
/// nodes come before ranges: a range in a policy never means them. `own` are
/// the addresses of this node, of which its object in the API names a few.
pub fn addresses(
    state: &ClusterState,
    this_node: &str,
    own: &BTreeSet<Ipv4Net>,
    cluster: &str,
    numbers: &Numbers,
    cidrs: &CidrIdentities,
) -> BTreeMap<Ipv4Net, Address> {
    let mut result = BTreeMap::new();
    for (range, id) in cidrs.iter() {
        put(&mut result, range, NumericIdentity(id), None);
    }
    // An address in a node's pod range that no pod is known to have is of the
    // cluster all the same: it must not count as the world.
    for node in state.nodes.values() {
        for range in node.pod_ranges() {
            let other = other_node(node, this_node);
            put(&mut result, range, NumericIdentity::UNMANAGED, other);
        }
    }
    for ip in api_servers(state) {
        put(
            &mut result,
            ip.into(),
            NumericIdentity::KUBE_APISERVER,
            None,
        );
    }
    // A service's address may be on an interface of the node, for another
    // proxy's sake: it is the service's all the same.
    let services: BTreeSet<Ipv4Net> = service_addresses(state).map(Ipv4Net::from).collect();
    for range in own.difference(&services).copied().chain([EVERYBODY]) {
        put(&mut result, range, NumericIdentity::HOST, None);
    }
    for pod in state.pods.values() {
        let Some(ip) = pod.own_ip() else { continue };
        let node = state
            .nodes
            .get(&ObjectKey::new("", &pod.node))
            .and_then(|node| other_node(node, this_node));
        let identity = pod_labels(pod, state, cluster)
            .and_then(|labels: Labels| numbers.of(&labels))
            .unwrap_or(NumericIdentity::INIT);
        // While an old pod lingers beside the one that got its address, the
        // living one has it.
        if pod.deleting && holds_pod(&result, ip) {
            continue;
        }
        put(&mut result, ip.into(), identity, node);
    }
    for node in state.nodes.values() {
        let identity = if node.name == this_node {
            NumericIdentity::HOST
        } else {
            NumericIdentity::REMOTE_NODE
        };
        for ip in &node.addresses {
            put(&mut result, (*ip).into(), identity, None);
        }
    }
    result
}

fn put(
    to: &mut BTreeMap<Ipv4Net, Address>,
    range: Ipv4Net,
    identity: NumericIdentity,
    node: Option<Ipv4Addr>,
) {
    to.insert(range.trunc(), Address { identity, node });
}

fn holds_pod(addresses: &BTreeMap<Ipv4Net, Address>, ip: Ipv4Addr) -> bool {
    addresses
        .get(&Ipv4Net::from(ip))
        .is_some_and(|address| address.identity.is_cluster())
}

fn other_node(node: &Node, this_node: &str) -> Option<Ipv4Addr> {
    if node.name == this_node {
        None
    } else {
        node.addresses.first().copied()
    }
}

/// The address of everybody on a link: whoever gets a packet for it takes it,
/// and from a pod that is the node.
const EVERYBODY: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::BROADCAST, 32);

fn service_addresses(state: &ClusterState) -> impl Iterator<Item = Ipv4Addr> + '_ {
    let services = state.services.values();
    services.flat_map(|service| service.cluster_ips.iter().copied())
}

/// Where the API servers listen: behind the service `default/kubernetes`.
fn api_servers(state: &ClusterState) -> impl Iterator<Item = Ipv4Addr> + '_ {
    state
        .slices
        .values()
        .filter(|slice| slice.key.namespace == "default" && slice.service == "kubernetes")
        .flat_map(|slice| slice.backends.iter().map(|backend| backend.ip))
}

#[cfg(test)]
mod tests;
