//! Rules to map entries, for every endpoint of the node.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use weft_core::model::{Direction, EndpointId, Labels, NamedPorts, NumericIdentity};
use weft_core::policy::{
    Bounded, Bounds, Compiler, Decision, EndpointPolicy, EntryKey, Excess, IdentityTable,
    PREFIX_PEER, PREFIX_PROTOCOL, PortPolicy, Rule, RuleTable, Subject, Touched,
};
use weft_datapath::{CLOSED_PORT, PolicyEntry, Verdict};

use super::addresses::MAX_RANGES;
use super::room::{Claim, give_way};

use crate::endpoint::LocalEndpoint;
use crate::identity::{CidrIdentities, Numbers, pod_labels};
use crate::state::ClusterState;

/// All rules in force.
#[derive(Debug, Default)]
pub struct Rules {
    /// The rules, in a stable order.
    pub list: Vec<Arc<Rule>>,
    /// Those of which some address ranges have no identity: what they say of
    /// these cannot be told apart from what others say, so everything is denied
    /// to the pods that they select.
    pub unnumbered: Vec<Arc<Rule>>,
    generation: u64,
}

impl Rules {
    /// Puts other rules in force. What stays should be the same `Arc`: policies
    /// under rules that stay are not compiled again.
    pub fn replace(&mut self, list: Vec<Arc<Rule>>) {
        self.list = list;
        self.generation += 1;
    }

    fn any_unnumbered(&self, selected: &[Arc<Rule>]) -> bool {
        let unnumbered =
            |rule: &Arc<Rule>| self.unnumbered.iter().any(|one| Arc::ptr_eq(one, rule));
        !self.unnumbered.is_empty() && selected.iter().any(unnumbered)
    }
}

fn close_unnumbered(policy: &mut EndpointPolicy) {
    policy.close();
    policy.excess = vec![Excess {
        of: Bounded::Ranges,
        limit: MAX_RANGES,
        most: None,
    }];
}

/// What of an endpoint its policy depends on.
type SubjectKey = (Labels, NamedPorts);

/// Bytes of tables that all expressions of a node may need: what the proxy keeps
/// of them.
const HTTP_TABLES: usize = 256 << 20;

/// Entries in the kernel, by endpoint number.
pub type Held = BTreeMap<u32, Vec<PolicyEntry>>;

/// The policy of all endpoints with the same labels and named ports.
#[derive(Debug)]
struct Shared {
    /// The rules that select them.
    selected: Vec<Arc<Rule>>,
    policy: EndpointPolicy,
    /// Some address ranges of the rules have no identity.
    unnumbered: bool,
    /// The endpoints.
    endpoints: Vec<u32>,
}

impl Shared {
    fn is_under(&self, rules: &[Arc<Rule>]) -> bool {
        let pairs = || self.selected.iter().zip(rules);
        self.selected.len() == rules.len() && pairs().all(|(old, new)| Arc::ptr_eq(old, new))
    }
}

/// What the rules come to on this node.
#[derive(Debug, Default)]
pub struct Compiled {
    /// By endpoint number.
    pub policies: BTreeMap<u32, EndpointPolicy>,
    /// The identities that the rules were compiled against.
    pub identities: IdentityTable,
    /// Endpoints whose HTTP rules found no room in the proxy's snapshot.
    pub no_room: BTreeSet<u32>,
    bounds: Bounds,
    generation: u64,
    subjects: HashMap<SubjectKey, Shared>,
    /// Label sets that the last update compiled.
    pub compiled: usize,
}

impl Compiled {
    /// Nothing yet; what will be compiled keeps to these bounds.
    pub fn bounded(bounds: Bounds) -> Self {
        Self {
            bounds,
            ..Self::default()
        }
    }

    /// Compiles what changed, once for all endpoints with equal labels: those
    /// that are new, selected by other rules than before, or under a rule that
    /// an identity which came, went or changed may make a difference to.
    ///
    /// An endpoint above its bounds gets nothing that it did not have. What it
    /// had is in what was compiled before, or after a restart in `held`.
    pub fn update(
        &mut self,
        endpoints: &BTreeMap<Ipv4Addr, LocalEndpoint>,
        rules: &Rules,
        identities: IdentityTable,
        table: &mut RuleTable,
        held: &Held,
    ) {
        let before = std::mem::replace(&mut self.identities, identities);
        let touched = Touched::between(&before, &self.identities);
        let mut known_touched: HashMap<*const Rule, bool> = HashMap::new();
        let mut touches = |rule: &Arc<Rule>| {
            // Rules stay while this runs, so an address is of one rule only.
            let known = known_touched.entry(Arc::as_ptr(rule));
            *known.or_insert_with(|| touched.touches(rule))
        };
        let replaced = self.generation != rules.generation;
        self.generation = rules.generation;
        let mut old = std::mem::take(&mut self.subjects);
        let mut compiler = Compiler::bounded(&self.identities, self.bounds);
        self.policies.clear();
        self.compiled = 0;
        for endpoint in endpoints.values() {
            let id = EndpointId(endpoint.id);
            let key = (endpoint.labels.clone(), endpoint.ports.clone());
            let shared = match self.subjects.entry(key) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => {
                    let known = old.remove(place.key());
                    let selected = match &known {
                        Some(known) if !replaced => known.selected.clone(),
                        _ => selected(&rules.list, &endpoint.labels),
                    };
                    let unnumbered = rules.any_unnumbered(&selected);
                    let fresh = known.as_ref().is_some_and(|known| {
                        known.unnumbered == unnumbered
                            && known.is_under(&selected)
                            && !selected.iter().any(&mut touches)
                    });
                    let shared = match known {
                        Some(known) if fresh => known,
                        known => {
                            self.compiled += 1;
                            let subject = Subject {
                                id,
                                labels: &endpoint.labels,
                                named_ports: &endpoint.ports,
                            };
                            let rules = selected.iter().map(AsRef::as_ref);
                            let mut policy = compiler.compile_over(&subject, rules, table, || {
                                allowed_before(known.as_ref(), endpoint, endpoints, held)
                            });
                            if unnumbered {
                                close_unnumbered(&mut policy);
                            }
                            Shared {
                                selected,
                                policy,
                                unnumbered,
                                endpoints: Vec::new(),
                            }
                        }
                    };
                    let shared = place.insert(shared);
                    shared.endpoints.clear();
                    shared
                }
            };
            shared.endpoints.push(endpoint.id);
            self.policies
                .insert(endpoint.id, shared.policy.for_endpoint(id));
        }
        self.no_room.clear();
    }

    /// Closes the HTTP rules of endpoints for which a snapshot has no room: all
    /// of them together may take `room` bytes, and their expressions
    /// [`HTTP_TABLES`] in the proxy. `in_force` are the ports of the last
    /// snapshot that was published.
    pub fn make_room(&mut self, room: usize, in_force: &InForce) {
        let changes = |id: &u32, policy: &EndpointPolicy| {
            let same = in_force
                .get(id)
                .is_some_and(|ports| alike(ports, &policy.ports));
            !same
        };
        let bytes = self.policies.iter().map(|(id, policy)| Claim {
            of: *id,
            size: policy.http_load.bytes,
            new: changes(id, policy),
        });
        let mut leaving = give_way(&bytes.collect::<Vec<_>>(), room);
        // Endpoints with the same rules share the tables for them.
        let tables = self.subjects.values().filter_map(|shared| {
            Some(Claim {
                of: *shared.endpoints.first()?,
                size: shared.policy.http_load.tables,
                new: shared
                    .endpoints
                    .iter()
                    .all(|id| changes(id, &shared.policy)),
            })
        });
        let crowding = give_way(&tables.collect::<Vec<_>>(), HTTP_TABLES);
        for shared in self.subjects.values() {
            if shared
                .endpoints
                .first()
                .is_some_and(|first| crowding.contains(first))
            {
                leaving.extend(&shared.endpoints);
            }
        }
        for id in &leaving {
            if let Some(policy) = self.policies.get_mut(id) {
                policy.close_http();
            }
        }
        self.no_room = leaving;
    }
}

/// The ports that the last snapshot had, by endpoint number.
pub type InForce = BTreeMap<u32, Vec<PortPolicy>>;

/// Whether the same is judged, for whichever endpoint.
fn alike(one: &[PortPolicy], other: &[PortPolicy]) -> bool {
    let what = |port: &PortPolicy| (port.direction, port.first, port.last, port.rules.clone());
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| what(a) == what(b))
}

/// The keys of plain allows that an endpoint, or one with the same labels, had
/// before.
fn allowed_before(
    known: Option<&Shared>,
    endpoint: &LocalEndpoint,
    endpoints: &BTreeMap<Ipv4Addr, LocalEndpoint>,
    held: &Held,
) -> Vec<EntryKey> {
    if let Some(known) = known {
        let entries = known.policy.entries.iter();
        return entries
            .filter(|entry| entry.value.decision == Decision::Allow)
            .map(|entry| entry.key)
            .collect();
    }
    let alike =
        |other: &&LocalEndpoint| other.labels == endpoint.labels && other.ports == endpoint.ports;
    let mut alike = endpoints.values().filter(alike);
    let entries = alike.find_map(|one| held.get(&one.id).filter(|entries| !entries.is_empty()));
    let entries = entries.into_iter().flatten();
    entries
        .filter(|entry| entry.verdict == Verdict::Allow)
        .map(key_of)
        .collect()
}

/// The key as the compiler has it.
fn key_of(entry: &PolicyEntry) -> EntryKey {
    EntryKey {
        direction: match entry.direction {
            weft_datapath::Direction::Ingress => Direction::Ingress,
            weft_datapath::Direction::Egress => Direction::Egress,
        },
        identity: NumericIdentity(entry.identity),
        protocol: entry.protocol,
        port: entry.port,
        prefix_len: match entry.protocol {
            0 => PREFIX_PEER,
            _ => PREFIX_PROTOCOL + entry.port_bits,
        },
    }
}

fn selected(rules: &[Arc<Rule>], labels: &Labels) -> Vec<Arc<Rule>> {
    let selects = |rule: &&Arc<Rule>| rule.subject.matches(labels);
    rules.iter().filter(selects).cloned().collect()
}

/// The identities that a rule's peers may be.
pub fn identities(
    state: &ClusterState,
    cluster: &str,
    numbers: &Numbers,
    cidrs: &CidrIdentities,
) -> IdentityTable {
    let mut table = IdentityTable::new();
    for (id, labels) in numbers.iter() {
        table.insert(id, labels.clone());
    }
    for pod in state.pods.values().filter(|pod| !pod.ports.is_empty()) {
        let Some(id) = pod_labels(pod, state, cluster).and_then(|labels| numbers.of(&labels))
        else {
            continue;
        };
        let mut ports = NamedPorts::default();
        for port in &pod.ports {
            ports.insert(&port.name, port.protocol, port.port);
        }
        table.add_named_ports(id, &ports);
    }
    for (range, id) in cidrs.iter() {
        table.insert_cidr(NumericIdentity(id), range.into());
    }
    table
}

/// The entries as the policy map takes them.
pub fn map_entries(policy: &EndpointPolicy, proxy_port: u16) -> Vec<PolicyEntry> {
    let proxy_port = match policy.http_closed {
        true => CLOSED_PORT,
        false => proxy_port,
    };
    policy
        .entries
        .iter()
        .map(|entry| PolicyEntry::from_compiled(entry, proxy_port))
        .collect()
}

#[cfg(test)]
mod tests;
