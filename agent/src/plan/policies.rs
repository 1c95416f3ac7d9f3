//! Rules to map entries, for every endpoint of the node.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use weft_core::filter::Intercept;
use weft_core::model::{Direction, EndpointId, Labels, NamedPorts, NumericIdentity};
use weft_core::policy::{
    Bounded, Bounds, Compiler, EndpointPolicy, EntryKey, Excess, IdentityTable, PREFIX_PEER,
    PREFIX_PROTOCOL, Priority, Rule, RuleTable, Subject, Touched, cidrs_of,
};
use weft_datapath::{CLOSED_PORT, POLICY_ENTRIES, PolicyEntry, Verdict};

use super::addresses::{MAX_RANGES, Unnumbered};
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
    pub unnumbered: Vec<Unnumbered>,
    generation: u64,
}

impl Rules {
    /// Puts other rules in force. What stays should be the same `Arc`: policies
    /// under rules that stay are not compiled again.
    pub fn replace(&mut self, list: Vec<Arc<Rule>>) {
        self.list = list;
        self.generation += 1;
    }

    /// Of these the rule with the most ranges among those whose ranges have no
    /// identity.
    fn unnumbered_of(&self, selected: &[Arc<Rule>]) -> Option<&Unnumbered> {
        let selects = |one: &&Unnumbered| selected.iter().any(|rule| Arc::ptr_eq(&one.rule, rule));
        let unnumbered = self.unnumbered.iter().filter(selects);
        unnumbered.max_by_key(|one| one.ranges)
    }
}

/// Denies everything on account of a rule whose ranges have no identity.
fn close_unnumbered(policy: &mut EndpointPolicy, of: &Unnumbered) {
    policy.close();
    policy.excess = vec![Excess {
        of: Bounded::Ranges,
        limit: MAX_RANGES,
        most: Some((of.rule.origin.object(), of.ranges)),
    }];
}

/// What of an endpoint its policy depends on.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct SubjectKey {
    pub(super) labels: Labels,
    ports: NamedPorts,
    intercepts: Vec<Intercept>,
}

/// The ports to which filters are attached, by endpoint number; sorted.
pub type Intercepts = BTreeMap<u32, Vec<Intercept>>;

/// Entries in the kernel, by endpoint number.
pub type KernelEntries = BTreeMap<u32, Vec<PolicyEntry>>;

/// The policy of all endpoints with the same labels, named ports and ports with
/// filters.
#[derive(Debug)]
pub(super) struct Shared {
    /// The rules that select them.
    selected: Vec<Arc<Rule>>,
    pub(super) policy: EndpointPolicy,
    /// A rule among them whose address ranges have no identity.
    unnumbered: Option<Unnumbered>,
    /// The endpoints.
    pub(super) endpoints: Vec<u32>,
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
    /// The ports with filters; what is compiled is for them.
    pub intercepts: Intercepts,
    /// Endpoints whose HTTP rules found no room in the proxy's snapshot.
    pub no_room: BTreeSet<u32>,
    bounds: Bounds,
    generation: u64,
    pub(super) subjects: HashMap<SubjectKey, Shared>,
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
        held: &KernelEntries,
    ) {
        let before = std::mem::replace(&mut self.identities, identities);
        let mut pass = Pass {
            endpoints,
            rules,
            replaced: self.generation != rules.generation,
            touched: Touched::between(&before, &self.identities),
            known_touched: HashMap::new(),
            compiler: Compiler::bounded(&self.identities, self.bounds),
            table,
            held,
            compiled: 0,
        };
        let mut old = std::mem::take(&mut self.subjects);
        self.policies.clear();
        for endpoint in endpoints.values() {
            let key = SubjectKey {
                labels: endpoint.labels.clone(),
                ports: endpoint.ports.clone(),
                intercepts: self
                    .intercepts
                    .get(&endpoint.id)
                    .cloned()
                    .unwrap_or_default(),
            };
            let shared = match self.subjects.entry(key) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => {
                    let key = place.key();
                    let shared = pass.shared(endpoint, &key.intercepts, old.remove(key));
                    place.insert(shared)
                }
            };
            shared.endpoints.push(endpoint.id);
            let policy = shared.policy.for_endpoint(EndpointId(endpoint.id));
            self.policies.insert(endpoint.id, policy);
        }
        self.compiled = pass.compiled;
        self.generation = rules.generation;
        self.no_room.clear();
        // Old and new entries of an endpoint are side by side for a moment.
        let all = POLICY_ENTRIES as usize;
        self.fit_map(all - self.bounds.entries.min(all / 2), held);
    }
}

impl Compiled {
    /// Keeps closed what leads to the proxy for endpoints that have more filters
    /// than there may be.
    pub fn close_crowded(&mut self, over: &BTreeMap<u32, Excess>) {
        for (id, excess) in over {
            if let Some(policy) = self.policies.get_mut(id) {
                policy.close_http();
                policy.excess.push(excess.clone());
            }
        }
    }
}

/// One update: what is compiled from and what is known so far.
struct Pass<'a> {
    endpoints: &'a BTreeMap<Ipv4Addr, LocalEndpoint>,
    rules: &'a Rules,
    /// There are other rules than in the update before.
    replaced: bool,
    touched: Touched<'a>,
    /// Which rules the change of identities touches, as far as that was asked.
    known_touched: HashMap<*const Rule, bool>,
    compiler: Compiler<'a>,
    table: &'a mut RuleTable,
    held: &'a KernelEntries,
    compiled: usize,
}

impl Pass<'_> {
    /// The policy of all endpoints like this one, without the endpoints: the
    /// `known` one when nothing that it depends on has changed.
    fn shared(
        &mut self,
        endpoint: &LocalEndpoint,
        intercepts: &[Intercept],
        known: Option<Shared>,
    ) -> Shared {
        let selected = match &known {
            Some(known) if !self.replaced => known.selected.clone(),
            _ => selected(&self.rules.list, &endpoint.labels),
        };
        let rules = self.rules;
        let unnumbered = rules.unnumbered_of(&selected);
        match known {
            Some(mut known)
                if known.unnumbered.as_ref() == unnumbered
                    && known.is_under(&selected)
                    && !selected.iter().any(|rule| self.touches(rule)) =>
            {
                known.endpoints.clear();
                known
            }
            known => {
                self.compiled += 1;
                let mut policy = self.compile(endpoint, intercepts, &selected, known.as_ref());
                if let Some(of) = unnumbered {
                    close_unnumbered(&mut policy, of);
                }
                Shared {
                    selected,
                    policy,
                    unnumbered: unnumbered.cloned(),
                    endpoints: Vec::new(),
                }
            }
        }
    }

    fn compile(
        &mut self,
        endpoint: &LocalEndpoint,
        intercepts: &[Intercept],
        selected: &[Arc<Rule>],
        known: Option<&Shared>,
    ) -> EndpointPolicy {
        let subject = Subject {
            id: EndpointId(endpoint.id),
            labels: &endpoint.labels,
            named_ports: &endpoint.ports,
            intercepts,
        };
        let rules = selected.iter().map(AsRef::as_ref);
        let (endpoints, held) = (self.endpoints, self.held);
        let mut policy = self.compiler.compile_over(&subject, rules, self.table, || {
            allowed_before(known, endpoint, endpoints, held)
        });
        for excess in &mut policy.excess {
            if excess.of == Bounded::OthersRanges {
                excess.most = self.most_ranges(selected);
            }
        }
        policy
    }

    /// The object that names most ranges of addresses, of those with rules for
    /// pods of the node that are not under these.
    fn most_ranges(&self, rules: &[Arc<Rule>]) -> Option<(String, usize)> {
        let own: BTreeSet<*const Rule> = rules.iter().map(Arc::as_ptr).collect();
        let others = self.rules.list.iter();
        let others = others.filter(|rule| !own.contains(&Arc::as_ptr(rule)));
        let mut by_object: BTreeMap<String, usize> = BTreeMap::new();
        for rule in others {
            let ranges = cidrs_of([rule.as_ref()]).len();
            let mut endpoints = self.endpoints.values();
            if ranges > 0 && endpoints.any(|one| rule.subject.matches(&one.labels)) {
                *by_object.entry(rule.origin.object()).or_default() += ranges;
            }
        }
        by_object.into_iter().max_by_key(|(_, ranges)| *ranges)
    }

    /// Whether the change of identities may make a difference to a rule.
    fn touches(&mut self, rule: &Arc<Rule>) -> bool {
        // Rules stay while this runs, so an address is of one rule only.
        let known = self.known_touched.entry(Arc::as_ptr(rule));
        *known.or_insert_with(|| self.touched.touches(rule))
    }
}

/// The keys of what is plainly allowed that an endpoint, or one with the same labels, had
/// before.
fn allowed_before(
    known: Option<&Shared>,
    endpoint: &LocalEndpoint,
    endpoints: &BTreeMap<Ipv4Addr, LocalEndpoint>,
    held: &KernelEntries,
) -> Vec<EntryKey> {
    if let Some(known) = known {
        let entries = known.policy.entries.iter();
        return entries
            .filter(|entry| entry.value.is_plain())
            .map(|entry| entry.key)
            .collect();
    }
    let alike =
        |other: &&LocalEndpoint| other.labels == endpoint.labels && other.ports == endpoint.ports;
    let mut alike = endpoints.values().filter(alike);
    let entries = alike.find_map(|one| held.get(&one.id).filter(|entries| !entries.is_empty()));
    let entries = entries.into_iter().flatten();
    entries
        .filter(|entry| is_plain(entry))
        .map(key_of)
        .collect()
}

/// As [`weft_core::policy::EntryValue::is_plain`], of what the kernel holds.
fn is_plain(entry: &PolicyEntry) -> bool {
    match entry.verdict {
        Verdict::Allow => true,
        Verdict::Redirect(_) => entry.priority == Priority::INTERCEPT.0,
        Verdict::Deny => false,
    }
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
