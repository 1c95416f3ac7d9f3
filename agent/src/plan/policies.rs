//! Rules to map entries, for every endpoint of the node.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use weft_core::model::{EndpointId, Labels, NamedPorts, NumericIdentity};
use weft_core::policy::{
    Compiler, EndpointPolicy, IdentityTable, Rule, RuleTable, Subject, Touched,
};
use weft_datapath::PolicyEntry;

use crate::endpoint::LocalEndpoint;
use crate::identity::{CidrIdentities, Numbers, pod_labels};
use crate::state::ClusterState;

/// A port on which nothing listens: what is redirected there is dropped. The
/// place of the proxy's port while the proxy does not have the rules yet.
pub const CLOSED_PORT: u16 = 1;

/// All rules in force.
#[derive(Debug, Default)]
pub struct Rules {
    /// The rules, in a stable order.
    pub list: Vec<Arc<Rule>>,
    generation: u64,
}

impl Rules {
    /// Puts other rules in force. What stays should be the same `Arc`: policies
    /// under rules that stay are not compiled again.
    pub fn replace(&mut self, list: Vec<Arc<Rule>>) {
        self.list = list;
        self.generation += 1;
    }
}

/// What of an endpoint its policy depends on.
type SubjectKey = (Labels, NamedPorts);

/// The policy of all endpoints with the same labels and named ports.
#[derive(Debug)]
struct Shared {
    /// The rules that select them.
    selected: Vec<Arc<Rule>>,
    policy: EndpointPolicy,
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
    generation: u64,
    subjects: HashMap<SubjectKey, Shared>,
    /// Label sets that the last update compiled.
    pub compiled: usize,
}

impl Compiled {
    /// Compiles what changed, once for all endpoints with equal labels: those
    /// that are new, selected by other rules than before, or under a rule that
    /// an identity which came, went or changed may make a difference to.
    pub fn update(
        &mut self,
        endpoints: &BTreeMap<Ipv4Addr, LocalEndpoint>,
        rules: &Rules,
        identities: IdentityTable,
        table: &mut RuleTable,
    ) {
        let before = std::mem::replace(&mut self.identities, identities);
        let touched = Touched::between(&before, &self.identities);
        let replaced = self.generation != rules.generation;
        self.generation = rules.generation;
        let mut old = std::mem::take(&mut self.subjects);
        let mut compiler = Compiler::new(&self.identities);
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
                    let fresh = known.filter(|known| {
                        known.is_under(&selected)
                            && !selected.iter().any(|rule| touched.touches(rule))
                    });
                    place.insert(fresh.unwrap_or_else(|| {
                        self.compiled += 1;
                        let subject = Subject {
                            id,
                            labels: &endpoint.labels,
                            named_ports: &endpoint.ports,
                        };
                        let rules = selected.iter().map(AsRef::as_ref);
                        let policy = compiler.compile(&subject, rules, table);
                        Shared { selected, policy }
                    }))
                }
            };
            self.policies
                .insert(endpoint.id, shared.policy.for_endpoint(id));
        }
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
    policy
        .entries
        .iter()
        .map(|entry| PolicyEntry::from_compiled(entry, proxy_port))
        .collect()
}

#[cfg(test)]
mod tests;
