//! Which policies speak about requests at a port: who denied one that none of
//! them allows.

use std::collections::HashMap;
use std::sync::Arc;

use weft_core::model::{Direction, NumericIdentity};
use weft_core::policy::{PeerRule, PortPolicy, RuleRef};

/// Rules of the endpoints' ports that judge requests.
#[derive(Debug, Default)]
pub struct HttpPolicies {
    ports: HashMap<(u32, Direction), Vec<Port>>,
}

#[derive(Debug)]
struct Port {
    first: u16,
    last: u16,
    /// Shared with the policy: there may be many, on many ports of many pods.
    rules: Arc<[PeerRule]>,
}

impl HttpPolicies {
    /// From the policy of every endpoint's ports.
    pub fn of<'a>(policies: impl IntoIterator<Item = &'a PortPolicy>) -> Self {
        let mut ports: HashMap<_, Vec<Port>> = HashMap::new();
        for policy in policies {
            let port = Port {
                first: policy.first,
                last: policy.last,
                rules: policy.rules.clone(),
            };
            let key = (policy.endpoint.0, policy.direction);
            ports.entry(key).or_default().push(port);
        }
        Self { ports }
    }

    /// The rules that hold for a peer's requests at this port, in the order of
    /// the policies.
    pub fn rules(
        &self,
        endpoint: u32,
        direction: Direction,
        port: u16,
        peer: u32,
    ) -> impl Iterator<Item = &RuleRef> {
        self.ports
            .get(&(endpoint, direction))
            .into_iter()
            .flatten()
            .filter(move |own| (own.first..=own.last).contains(&port))
            .flat_map(|own| own.rules.iter())
            .filter(move |rule| rule.peers.contains(NumericIdentity(peer)))
            .filter_map(|rule| rule.rule.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weft_core::model::EndpointId;
    use weft_core::policy::{self, PeerSet};

    use super::*;

    #[test]
    fn only_rules_for_this_peer_and_port_are_named() {
        let rule = |name: &str, peers| PeerRule {
            peers,
            deny: false,
            http: [].into(),
            rule: Some(policy::RuleRef {
                kind: "CiliumNetworkPolicy".into(),
                namespace: "default".into(),
                name: name.into(),
                rule: "ingress[0]".into(),
            }),
        };
        let these = |id| PeerSet::These(Arc::from([NumericIdentity(id)]));
        let policies = HttpPolicies::of(&[PortPolicy {
            endpoint: EndpointId(7),
            direction: Direction::Ingress,
            first: 80,
            last: 81,
            rules: [rule("all", PeerSet::Any), rule("one", these(300))].into(),
        }]);
        let names = |endpoint, direction, port, peer| -> Vec<&str> {
            let rules = policies.rules(endpoint, direction, port, peer);
            rules.map(|rule| &*rule.name).collect()
        };
        assert_eq!(names(7, Direction::Ingress, 81, 300), ["all", "one"]);
        assert_eq!(names(7, Direction::Ingress, 80, 301), ["all"]);
        assert!(names(7, Direction::Ingress, 82, 300).is_empty());
        assert!(names(7, Direction::Egress, 80, 300).is_empty());
        assert!(names(8, Direction::Ingress, 80, 300).is_empty());
    }
}
