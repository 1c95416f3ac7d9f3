//! Whom filters may ask, and in whose name.
//!
//! A filter asks as the pod whose request it sees, so what policy lets that pod
//! do on layers 3 and 4 is looked up here, in what the kernel gets too. HTTP rules
//! are the proxy's to judge.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use ipnet::Ipv4Net;
use weft_core::filter::{Backend, Callout};
use weft_core::model::{Direction, EndpointId, NumericIdentity, Protocol};
use weft_core::policy::{Decision, EndpointPolicy, find};

use super::Chain;
use crate::endpoint::LocalEndpoint;
use crate::plan::Address;
use crate::state::{ClusterState, ObjectKey};

/// What a callout depends on.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Services and what is behind them.
    pub state: &'a ClusterState,
    /// The pods of this node.
    pub endpoints: &'a BTreeMap<Ipv4Addr, LocalEndpoint>,
    /// Their policies.
    pub policies: &'a BTreeMap<u32, EndpointPolicy>,
    /// Identities of addresses.
    pub addresses: &'a BTreeMap<Ipv4Net, Address>,
    /// Endpoints for which the proxy has other rules than their policies: they may
    /// neither ask nor be asked.
    pub closed: &'a BTreeSet<u32>,
}

/// The Services that filters in these chains declare, with what is ready behind
/// them and the endpoints whose filters may ask it. A Service that is not there
/// has nothing behind it.
pub fn callouts<'c>(
    chains: impl IntoIterator<Item = (u32, &'c [Chain])>,
    asked: Asked<'_>,
) -> Vec<Callout> {
    let askers = askers(chains);
    if askers.is_empty() {
        return Vec::new();
    }
    let ends: HashMap<u32, &LocalEndpoint> = asked
        .endpoints
        .values()
        .map(|endpoint| (endpoint.id, endpoint))
        .collect();
    let mut verdicts = Verdicts::default();
    let callouts = askers.into_iter().map(|(service, askers)| {
        let backends = backends(service, asked.state).into_iter().map(|address| {
            let may = |asker: &&u32| {
                let asker = ends.get(*asker);
                asker.is_some_and(|asker| verdicts.may_ask(&asked, asker, address))
            };
            Backend {
                address: SocketAddr::V4(address),
                from: askers.iter().filter(may).copied().map(EndpointId).collect(),
            }
        });
        Callout {
            service: service.into(),
            backends: backends.collect(),
        }
    });
    callouts.collect()
}

/// The declared Services, each with the endpoints that meet a filter which
/// declares it.
fn askers<'c>(
    chains: impl IntoIterator<Item = (u32, &'c [Chain])>,
) -> BTreeMap<&'c str, BTreeSet<u32>> {
    let mut askers: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
    for (endpoint, chains) in chains {
        for step in chains.iter().flat_map(|chain| chain.steps.iter()) {
            for service in step.filter.callouts.iter() {
                askers.entry(service).or_default().insert(endpoint);
            }
        }
    }
    askers
}

/// What is ready behind `name.namespace:port`, in order.
fn backends(service: &str, state: &ClusterState) -> BTreeSet<SocketAddrV4> {
    let mut found = BTreeSet::new();
    let Some((key, port)) = name_of(service) else {
        return found;
    };
    let ports = state.services.get(&key).map(|service| &service.ports);
    let names: BTreeSet<&str> = ports
        .into_iter()
        .flatten()
        .filter(|own| own.protocol == Protocol::Tcp && own.port == port)
        .map(|own| own.name.as_str())
        .collect();
    let slices = state.slices.values();
    let slices =
        slices.filter(|slice| slice.service == key.name && slice.key.namespace == key.namespace);
    for slice in slices {
        let ports = slice.ports.iter();
        let ports =
            ports.filter(|own| own.protocol == Protocol::Tcp && names.contains(own.name.as_str()));
        for port in ports {
            let ready = slice.backends.iter().filter(|backend| backend.ready);
            found.extend(ready.map(|backend| SocketAddrV4::new(backend.ip, port.port)));
        }
    }
    found
}

fn name_of(service: &str) -> Option<(ObjectKey, u16)> {
    let (host, port) = service.rsplit_once(':')?;
    let (name, namespace) = host.split_once('.')?;
    Some((ObjectKey::new(namespace, name), port.parse().ok()?))
}

/// What policies say, asked once: pods of equal labels share their entries, and
/// replicas their identity.
#[derive(Default)]
struct Verdicts(HashMap<Question, bool>);

/// Entries by their address, direction, the other end and the port.
type Question = (usize, bool, Direction, NumericIdentity, u16);

impl Verdicts {
    /// Whether both ends let one connect to an address.
    fn may_ask(&mut self, asked: &Asked<'_>, asker: &LocalEndpoint, to: SocketAddrV4) -> bool {
        let local = asked.endpoints.get(to.ip());
        let identity = local.map_or_else(
            || identity_of(*to.ip(), asked.addresses),
            |local| local.identity,
        );
        let mut allows = |subject: u32, direction, peer| {
            let policy = asked.policies.get(&subject);
            let policy = policy.filter(|_policy| !asked.closed.contains(&subject));
            policy.is_some_and(|policy| self.allows(policy, direction, peer, to.port()))
        };
        allows(asker.id, Direction::Egress, identity)
            && local.is_none_or(|local| allows(local.id, Direction::Ingress, asker.identity))
    }

    fn allows(
        &mut self,
        policy: &EndpointPolicy,
        direction: Direction,
        peer: NumericIdentity,
        port: u16,
    ) -> bool {
        // Policies stay while this does, so an address is of one list only.
        let list = policy.entries.as_ptr().addr();
        let question = (list, policy.http_closed, direction, peer, port);
        *self.0.entry(question).or_insert_with(|| {
            let protocol = Protocol::Tcp.number();
            let entry = find(&policy.entries, direction, peer, protocol, port);
            match entry.map(|entry| entry.value.decision) {
                Some(Decision::Allow) => true,
                // What is closed has no rules in the proxy by which it could judge.
                Some(Decision::Redirect) => !policy.http_closed,
                Some(Decision::Deny) | None => false,
            }
        })
    }
}

/// Of the ranges around an address the narrowest one tells.
fn identity_of(ip: Ipv4Addr, addresses: &BTreeMap<Ipv4Net, Address>) -> NumericIdentity {
    let ranges = (0..=32)
        .rev()
        .filter_map(|bits| Ipv4Net::new(ip, bits).ok());
    let mut known = ranges.filter_map(|range| addresses.get(&range.trunc()));
    known
        .next()
        .map_or(NumericIdentity::WORLD, |address| address.identity)
}

#[cfg(test)]
mod tests;
