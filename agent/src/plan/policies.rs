//! Rules to map entries, for every endpoint of the node.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use weft_core::model::{EndpointId, NamedPorts, NumericIdentity};
use weft_core::policy::{Compiler, EndpointPolicy, IdentityTable, Rule, RuleTable, Subject};
use weft_datapath::PolicyEntry;

use crate::endpoint::LocalEndpoint;
use crate::identity::{CidrIdentities, Numbers, pod_labels};
use crate::state::ClusterState;

/// A port on which nothing listens: what is redirected there is dropped. The
/// place of the proxy's port while the proxy does not have the rules yet.
pub const CLOSED_PORT: u16 = 1;

/// What the rules come to on this node.
#[derive(Debug, Default)]
pub struct Compiled {
    /// By endpoint number.
    pub policies: BTreeMap<u32, EndpointPolicy>,
    /// The identities that the rules were compiled against.
    pub identities: IdentityTable,
}

/// Compiles all rules for all endpoints.
pub fn compile(
    endpoints: &BTreeMap<Ipv4Addr, LocalEndpoint>,
    rules: &[Rule],
    identities: IdentityTable,
    table: &mut RuleTable,
) -> Compiled {
    let mut policies = BTreeMap::new();
    let mut compiler = Compiler::new(&identities);
    for endpoint in endpoints.values() {
        let subject = Subject {
            id: EndpointId(endpoint.id),
            labels: &endpoint.labels,
            named_ports: &endpoint.ports,
        };
        policies.insert(endpoint.id, compiler.compile(&subject, rules, table));
    }
    Compiled {
        policies,
        identities,
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
