//! Rules to map entries, for every endpoint of the node.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use weft_core::model::{EndpointId, Labels, NamedPorts, NumericIdentity};
use weft_core::policy::{Compiler, EndpointPolicy, IdentityTable, Rule, RuleTable, Subject};
use weft_datapath::PolicyEntry;

use crate::endpoint::LocalEndpoint;
use crate::identity::{CidrIdentities, Numbers, pod_labels};
use crate::state::ClusterState;

/// A port on which nothing listens: what is redirected there is dropped. The
/// place of the proxy's port while the proxy does not have the rules yet.
pub const CLOSED_PORT: u16 = 1;

/// All rules in force, and which set of them it is.
#[derive(Debug, Default)]
pub struct Rules {
    /// The rules, in a stable order.
    pub list: Vec<Rule>,
    generation: u64,
}

impl Rules {
    /// Puts other rules in force.
    pub fn replace(&mut self, list: Vec<Rule>) {
        self.list = list;
        self.generation += 1;
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
    subjects: BTreeMap<u32, (Labels, NamedPorts)>,
}

impl Compiled {
    /// Compiles what changed: everything under other rules or other
    /// identities, else only endpoints that are new or changed.
    pub fn update(
        &mut self,
        endpoints: &BTreeMap<Ipv4Addr, LocalEndpoint>,
        rules: &Rules,
        identities: IdentityTable,
        table: &mut RuleTable,
    ) {
        if self.generation != rules.generation || self.identities != identities {
            self.subjects.clear();
        }
        self.generation = rules.generation;
        self.identities = identities;
        let mut subjects = BTreeMap::new();
        let mut policies = BTreeMap::new();
        let mut compiler = Compiler::new(&self.identities);
        for endpoint in endpoints.values() {
            let id = endpoint.id;
            let subject = (endpoint.labels.clone(), endpoint.ports.clone());
            let known = match self.policies.remove(&id) {
                Some(policy) if self.subjects.get(&id) == Some(&subject) => policy,
                _ => {
                    let subject = Subject {
                        id: EndpointId(id),
                        labels: &endpoint.labels,
                        named_ports: &endpoint.ports,
                    };
                    compiler.compile(&subject, &rules.list, table)
                }
            };
            policies.insert(id, known);
            subjects.insert(id, subject);
        }
        self.policies = policies;
        self.subjects = subjects;
    }
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
