//! Names of ports that policies mean and no pod has.

use std::collections::BTreeSet;
use std::sync::Arc;

use weft_core::model::{Direction, Labels};
use weft_core::policy::{PolicyKind, PortMatch, Rule};

use crate::identity::pod_labels;
use crate::state::{ClusterState, ObjectKey, Pod};

/// A name in a policy, of a port that none of the pods has which it may mean.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnknownName {
    /// Kind of the policy.
    pub kind: PolicyKind,
    /// The policy.
    pub key: ObjectKey,
    /// Where in it: `ingress[0].toPorts[1]`.
    pub place: String,
    /// Whose ports were looked at.
    pub direction: Direction,
    /// The name.
    pub name: Box<str>,
}

/// The names that rules for any of these `local` pods have for ports, of which no
/// pod has one. In ingress a rule means the ports of the pods that it selects. In
/// egress it means those of its peers; there a name counts as known that any pod
/// has.
pub fn unknown_names<'a>(
    rules: &[Arc<Rule>],
    local: impl Iterator<Item = &'a Labels> + Clone,
    state: &ClusterState,
    cluster: &str,
) -> BTreeSet<UnknownName> {
    let mut unknown = BTreeSet::new();
    for rule in rules {
        for direction in Direction::ALL {
            for (place, name) in names(rule, direction) {
                let means = |pod: &Pod| match direction {
                    Direction::Egress => true,
                    Direction::Ingress => pod_labels(pod, state, cluster)
                        .is_some_and(|labels| rule.subject.matches(&labels)),
                };
                let has = |pod: &Pod| {
                    let mut ports = pod.ports.iter();
                    ports.any(|port| port.name.eq_ignore_ascii_case(name)) && means(pod)
                };
                let selects = |labels: &Labels| rule.subject.matches(labels);
                if state.pods.values().any(has) || !local.clone().any(selects) {
                    continue;
                }
                unknown.insert(UnknownName {
                    kind: rule.origin.kind,
                    key: ObjectKey::new(&*rule.origin.namespace, &*rule.origin.name),
                    place: rule.origin.rule_ref(&place).rule.to_string(),
                    direction,
                    name: name.into(),
                });
            }
        }
    }
    unknown
}

/// The names that a rule has for ports, and where.
fn names(rule: &Rule, direction: Direction) -> Vec<(String, &str)> {
    let section = rule.direction(direction);
    let mut found = Vec::new();
    for (list, suffix) in [(&section.allow, ""), (&section.deny, "Deny")] {
        for (index, traffic) in list.iter().enumerate() {
            for (ports_index, ports) in traffic.ports.iter().enumerate() {
                for spec in &ports.ports {
                    if let PortMatch::Named(name) = &spec.port {
                        let list = direction.as_str();
                        let place = format!("{list}{suffix}[{index}].toPorts[{ports_index}]");
                        found.push((place, &**name));
                    }
                }
            }
        }
    }
    found
}
