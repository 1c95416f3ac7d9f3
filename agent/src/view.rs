//! A read view of what the agent knows, for naming the ends of a flow.
//!
//! Built by the reconciler, replaced as a whole, read with one atomic load.

mod http;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use ipnet::Ipv4Net;
use weft_core::model::{NumericIdentity, PrefixMap};
use weft_core::policy::RuleRef;

pub use crate::state::Workload;
pub use http::HttpPolicies;

/// This node, as flows name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// Name of its Node object.
    pub name: String,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Name of the cluster.
    pub cluster: String,
    /// Its labels as `key=value`, sorted.
    pub labels: Vec<String>,
}

impl Default for NodeInfo {
    fn default() -> Self {
        Self {
            name: String::new(),
            ip: Ipv4Addr::UNSPECIFIED,
            cluster: String::new(),
            labels: Vec::new(),
        }
    }
}

/// What an address belongs to: a pod or a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressInfo {
    /// The address.
    pub ip: Ipv4Addr,
    /// Its identity.
    pub identity: u32,
    /// Number of the endpoint on this node, 0 when it is not one of its pods.
    pub endpoint_id: u32,
    /// Namespace of the pod, empty for nodes.
    pub namespace: String,
    /// Name of the pod, empty for nodes.
    pub pod: String,
    /// `source:key=value`, sorted.
    pub labels: Arc<[String]>,
    /// What owns the pod.
    pub workloads: Vec<Workload>,
    /// Node on which it is.
    pub node: String,
}

/// Name of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceInfo {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Everything that a flow needs to be named.
#[derive(Debug, Default)]
pub struct View {
    /// This node.
    pub node: NodeInfo,
    /// Counts the changes that reached the maps.
    pub revision: u64,
    pub(crate) addresses: HashMap<Ipv4Addr, AddressInfo>,
    pub(crate) ranges: PrefixMap<u32>,
    /// Ranges that nodes give their pods addresses of.
    pub(crate) pod_ranges: Vec<Ipv4Net>,
    pub(crate) endpoints: BTreeMap<u32, Ipv4Addr>,
    /// First address of each node: internal ones come first.
    pub(crate) nodes: BTreeMap<String, Ipv4Addr>,
    pub(crate) identities: HashMap<u32, Arc<[String]>>,
    pub(crate) services: HashMap<(Ipv4Addr, u16, u8), ServiceInfo>,
    pub(crate) rules: HashMap<u32, RuleRef>,
    pub(crate) namespaces: BTreeSet<String>,
    /// Who judges requests.
    pub(crate) http: HttpPolicies,
}

impl View {
    /// The pod or node that has this address.
    pub fn address(&self, ip: Ipv4Addr) -> Option<&AddressInfo> {
        self.addresses.get(&ip)
    }

    /// The identity of an address: of its pod or node, else of the longest
    /// range that holds it, else world.
    pub fn identity_of(&self, ip: Ipv4Addr) -> u32 {
        self.addresses
            .get(&ip)
            .map(|info| info.identity)
            .or_else(|| self.ranges.lookup(ip.into()).copied())
            .unwrap_or(NumericIdentity::WORLD.0)
    }

    /// A local pod by the number of its endpoint.
    pub fn endpoint(&self, id: u32) -> Option<&AddressInfo> {
        self.endpoints
            .get(&id)
            .and_then(|ip| self.addresses.get(ip))
    }

    /// Labels of an identity, sorted; none when it is unknown.
    pub fn labels(&self, identity: u32) -> &[String] {
        self.identities
            .get(&identity)
            .map(AsRef::as_ref)
            .unwrap_or_default()
    }

    /// The same, shared.
    pub(crate) fn shared_labels(&self, identity: u32) -> Arc<[String]> {
        let known = self.identities.get(&identity).cloned();
        known.unwrap_or_else(|| Arc::from([]))
    }

    /// Whether an address is of a range that pods have, known or not.
    pub fn is_for_pods(&self, ip: Ipv4Addr) -> bool {
        self.pod_ranges.iter().any(|range| range.contains(&ip))
    }

    /// The service at an address; the port in host order.
    pub fn service(&self, vip: Ipv4Addr, port: u16, protocol: u8) -> Option<&ServiceInfo> {
        self.services.get(&(vip, port, protocol))
    }

    /// The policy rule behind a number in a datapath event; none for 0 and for
    /// rules that no longer exist.
    pub fn rule(&self, id: u32) -> Option<&RuleRef> {
        self.rules.get(&id)
    }

    /// The pods of this node.
    pub fn endpoints(&self) -> impl Iterator<Item = &AddressInfo> {
        self.endpoints
            .values()
            .filter_map(|ip| self.addresses.get(ip))
    }

    /// Names of all nodes, and the address at which each is reached.
    pub fn nodes(&self) -> impl Iterator<Item = (String, IpAddr)> {
        self.nodes
            .iter()
            .map(|(name, ip)| (name.clone(), (*ip).into()))
    }

    /// Names of all namespaces.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.namespaces.iter().map(String::as_str)
    }
}

/// Where readers get the newest view.
#[derive(Debug, Clone, Default)]
pub struct ViewHandle(Arc<ArcSwap<View>>);

impl ViewHandle {
    /// The newest view; hold it for one event only, so that the next event
    /// sees the next view.
    pub fn load(&self) -> Guard<Arc<View>> {
        self.0.load()
    }

    /// Makes a view the newest.
    pub fn store(&self, view: View) {
        self.0.store(Arc::new(view));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(ip: [u8; 4], identity: u32, endpoint_id: u32) -> AddressInfo {
        AddressInfo {
            ip: ip.into(),
            identity,
            endpoint_id,
            namespace: "default".into(),
            pod: "p".into(),
            labels: Arc::new([]),
            workloads: vec![],
            node: "n".into(),
        }
    }

    #[test]
    fn a_pod_comes_before_its_range_and_a_longer_range_before_a_shorter() {
        let mut view = View::default();
        let pod = info([10, 244, 1, 10], 4711, 7);
        view.addresses.insert(pod.ip, pod);
        view.endpoints.insert(7, [10, 244, 1, 10].into());
        for (range, id) in [("10.0.0.0/8", 1), ("10.244.1.0/24", 3), ("0.0.0.0/0", 9)] {
            view.ranges.insert(range.parse().expect("a range"), id);
        }
        assert_eq!(view.identity_of([10, 244, 1, 10].into()), 4711);
        assert_eq!(view.identity_of([10, 244, 1, 11].into()), 3);
        assert_eq!(view.identity_of([10, 1, 1, 1].into()), 1);
        assert_eq!(view.identity_of([192, 0, 2, 1].into()), 9);
        assert_eq!(view.endpoint(7).map(|info| info.identity), Some(4711));
        assert!(view.endpoint(8).is_none());
    }

    #[test]
    fn what_is_unknown_is_world() {
        assert_eq!(
            View::default().identity_of([192, 0, 2, 1].into()),
            NumericIdentity::WORLD.0
        );
    }
}
