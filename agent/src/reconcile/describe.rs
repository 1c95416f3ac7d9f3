//! What a pass tells: the view for naming flows, and the status.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ipnet::Ipv4Net;

use super::bounds::shortfall;
use super::pass::Engine;
use crate::endpoint::Update;
use crate::plan::{Address, Compiled, Frontend, ServiceEntry};
use crate::program::{Kernel, Outcome};
use crate::state::{Node, ObjectKey};
use crate::status::{AgentStatus, EndpointPhase, EndpointStatus};
use crate::view::{AddressInfo, HttpPolicies, NodeInfo, ServiceInfo, View};

impl<K: Kernel> Engine<K> {
    /// Tells what is still missing before anything is programmed.
    pub(super) fn describe_waiting(&self) {
        let missing = self.state.missing();
        let missing = missing.iter().map(|kind| format!("{kind:?}"));
        let filters = self.filters.is_none().then(|| "filters".to_owned());
        let waiting_for = missing.chain(filters).collect();
        self.status.send_replace(Arc::new(AgentStatus {
            waiting_for,
            ..self.base()
        }));
    }

    fn base(&self) -> AgentStatus {
        AgentStatus {
            version: env!("CARGO_PKG_VERSION").into(),
            node: self.settings.node.clone(),
            policy_revision: self.revision,
            epoch: self.programmer.epoch(),
            identities: self.numbers.len(),
            policy_entries: self.programmer.entries(),
            snapshot: self.publisher.version().into(),
            unsent: self.publisher.unsent().into(),
            proxy: self.publisher.proxy().clone(),
            rejected: self.repository.rejected(),
            ..AgentStatus::default()
        }
    }

    pub(super) fn status_of(
        &self,
        update: &Update,
        compiled: &Compiled,
        services: &BTreeMap<Frontend, ServiceEntry>,
        outcome: &Outcome,
    ) -> AgentStatus {
        let mut status = AgentStatus {
            services: services.len(),
            trouble: outcome.trouble.clone().unwrap_or_default(),
            ..self.base()
        };
        for endpoint in self.table.endpoints().values() {
            let policy = compiled.policies.get(&endpoint.id);
            let attached = self.programmer.is_attached(endpoint.ip);
            let (state, reason) = match outcome.failed.get(&endpoint.id) {
                Some(reason) => (EndpointPhase::Failed, reason.clone()),
                None if !attached => (
                    EndpointPhase::WaitingForProxy,
                    "the proxy does not have its rules and filters yet".into(),
                ),
                None if outcome.strangers.contains(&endpoint.id) => (
                    EndpointPhase::WaitingForProxy,
                    "the proxy has not heard of it yet".into(),
                ),
                None if outcome.held.contains(&endpoint.id) => (
                    EndpointPhase::Ready,
                    "ports with L7 rules or filters are closed until the proxy has them".into(),
                ),
                None => (
                    EndpointPhase::Ready,
                    policy.map_or_else(String::new, |policy| {
                        shortfall(policy, compiled.no_room.contains(&endpoint.id))
                    }),
                ),
            };
            status.endpoints.insert(
                endpoint.key.to_string(),
                EndpointStatus {
                    id: endpoint.id,
                    identity: endpoint.identity.0,
                    ip: endpoint.ip,
                    state,
                    policy_revision: self.revision,
                    ingress_enforced: policy.is_some_and(|policy| policy.ingress_default_deny),
                    egress_enforced: policy.is_some_and(|policy| policy.egress_default_deny),
                    reason,
                },
            );
        }
        for waiting in &update.waiting {
            status.endpoints.insert(
                waiting.key.to_string(),
                EndpointStatus {
                    id: 0,
                    identity: 0,
                    ip: waiting.ip,
                    state: waiting.phase,
                    policy_revision: 0,
                    ingress_enforced: false,
                    egress_enforced: false,
                    reason: waiting.reason.into(),
                },
            );
        }
        status
    }

    pub(super) fn view_of(
        &self,
        compiled: &Compiled,
        addresses: &BTreeMap<Ipv4Net, Address>,
        services: &BTreeMap<Frontend, ServiceEntry>,
    ) -> View {
        let identities: HashMap<u32, Arc<[String]>> = compiled
            .identities
            .iter()
            .map(|(id, known)| (id.0, known.labels.to_strings().into()))
            .collect();
        let mut view = View {
            node: self.node_info(),
            revision: self.revision,
            rules: self
                .rule_table
                .iter()
                .map(|(id, rule)| (id.0, rule.clone()))
                .collect(),
            services: services
                .iter()
                .map(|(at, entry)| {
                    let info = ServiceInfo {
                        namespace: entry.service.namespace.clone(),
                        name: entry.service.name.clone(),
                    };
                    ((at.ip, at.port, at.protocol.number()), info)
                })
                .collect(),
            namespaces: self
                .state
                .namespaces
                .keys()
                .map(|key| key.name.clone())
                .collect(),
            http: HttpPolicies::of(compiled.policies.values().flat_map(|policy| &policy.ports)),
            ..View::default()
        };
        for (range, address) in addresses {
            view.ranges.insert((*range).into(), address.identity.0);
        }
        let nodes = self.state.nodes.values();
        view.pod_ranges = nodes.flat_map(Node::pod_ranges).collect();
        view.identities = identities;
        self.add_nodes(&mut view);
        self.add_pods(&mut view);
        view
    }

    fn add_nodes(&self, view: &mut View) {
        for node in self.state.nodes.values() {
            if let Some(first) = node.addresses.first() {
                view.nodes.insert(node.name.clone(), *first);
            }
            for ip in &node.addresses {
                let identity = view.identity_of(*ip);
                let info = AddressInfo {
                    ip: *ip,
                    identity,
                    endpoint_id: 0,
                    namespace: String::new(),
                    pod: String::new(),
                    labels: view.shared_labels(identity),
                    workloads: Vec::new(),
                    node: node.name.clone(),
                };
                view.addresses.insert(*ip, info);
            }
        }
    }

    fn add_pods(&self, view: &mut View) {
        for pod in self.state.pods.values() {
            let Some(ip) = pod.own_ip() else { continue };
            let local = self.table.endpoints().get(&ip);
            // Of several pods with one address the endpoint table chose.
            let other = local.is_some_and(|endpoint| endpoint.uid != pod.uid);
            if other || (pod.deleting && view.addresses.contains_key(&ip)) {
                continue;
            }
            let identity = local.map_or_else(|| view.identity_of(ip), |local| local.identity.0);
            if let Some(endpoint) = local {
                view.endpoints.insert(endpoint.id, ip);
            }
            let info = AddressInfo {
                ip,
                identity,
                endpoint_id: local.map_or(0, |endpoint| endpoint.id),
                namespace: pod.key.namespace.clone(),
                pod: pod.key.name.clone(),
                labels: view.shared_labels(identity),
                workloads: pod.workload.iter().cloned().collect(),
                node: pod.node.clone(),
            };
            view.addresses.insert(ip, info);
        }
    }

    fn node_info(&self) -> NodeInfo {
        let node = self
            .state
            .nodes
            .get(&ObjectKey::new("", &self.settings.node));
        NodeInfo {
            name: self.settings.node.clone(),
            ip: self.settings.ip,
            cluster: self.settings.cluster.clone(),
            labels: node
                .into_iter()
                .flat_map(|node| &node.labels)
                .map(|(key, value)| format!("{key}={value}"))
                .collect(),
        }
    }
}
