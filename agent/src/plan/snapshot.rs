//! The proxy's snapshot: what the node's policy comes to at layer 7.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use prost::Message as _;
use weft_api::node;
use weft_core::model::{Direction, fnv1a_bytes};
use weft_core::policy::http::{HeaderMatch, HttpRule, Mismatch};
use weft_core::policy::{IdentityTable, PeerRule, PeerSet, PortPolicy, RuleRef};

use super::Address;
use crate::endpoint::LocalEndpoint;

/// What a snapshot is made of.
#[derive(Debug)]
pub struct SnapshotParts<'a> {
    /// This node.
    pub node: node::Node,
    /// Port of the transparent listener on loopback.
    pub proxy_port: u16,
    /// Mark of what the proxy sends.
    pub proxy_mark: u32,
    /// The pods of this node.
    pub endpoints: &'a BTreeMap<Ipv4Addr, LocalEndpoint>,
    /// Identities with their labels.
    pub identities: &'a IdentityTable,
    /// Identities of addresses.
    pub addresses: &'a BTreeMap<Ipv4Net, Address>,
    /// What is judged at layer 7, by endpoint, direction and port.
    pub ports: Vec<&'a PortPolicy>,
}

/// The snapshot of these parts. Its version is a hash of the content: equal
/// content has the same version, also after a restart of the agent.
pub fn snapshot(parts: &SnapshotParts<'_>) -> node::Snapshot {
    let mut snapshot = node::Snapshot {
        version: String::new(),
        node: Some(parts.node.clone()),
        listeners: vec![node::Listener {
            name: "transparent".into(),
            address: format!("127.0.0.1:{}", parts.proxy_port),
            mode: Some(node::listener::Mode::Transparent(node::Transparent {
                mark: parts.proxy_mark,
            })),
        }],
        endpoints: parts.endpoints.values().map(endpoint).collect(),
        identities: parts
            .identities
            .iter()
            .map(|(id, known)| node::Identity {
                id: id.0,
                labels: known.labels.to_strings(),
            })
            .collect(),
        addresses: parts
            .addresses
            .iter()
            .map(|(range, address)| node::AddressIdentity {
                cidr: cidr(range),
                identity: address.identity.0,
            })
            .collect(),
        policies: parts.ports.iter().map(|port| port_policy(port)).collect(),
        clusters: Vec::new(),
        settings: None,
    };
    snapshot.version = format!("{:016x}", fnv1a_bytes(snapshot.encode_to_vec()));
    snapshot
}

fn endpoint(endpoint: &LocalEndpoint) -> node::Endpoint {
    node::Endpoint {
        id: endpoint.id,
        namespace: endpoint.key.namespace.clone(),
        pod: endpoint.key.name.clone(),
        ip: endpoint.ip.to_string(),
        identity: endpoint.identity.0,
    }
}

fn cidr(range: &Ipv4Net) -> String {
    if range.prefix_len() == 32 {
        range.addr().to_string()
    } else {
        range.to_string()
    }
}

fn port_policy(port: &PortPolicy) -> node::PortPolicy {
    let direction = match port.direction {
        Direction::Ingress => node::Direction::Ingress,
        Direction::Egress => node::Direction::Egress,
    };
    node::PortPolicy {
        endpoint_id: port.endpoint.0,
        direction: direction.into(),
        port_first: port.first.into(),
        port_last: port.last.into(),
        rules: port.rules.iter().map(peer_rule).collect(),
    }
}

fn peer_rule(rule: &PeerRule) -> node::PeerRule {
    node::PeerRule {
        peers: match &rule.peers {
            PeerSet::Any => Vec::new(),
            PeerSet::These(these) => these.iter().map(|id| id.0).collect(),
        },
        http: rule.http.iter().map(http_rule).collect(),
        deny: rule.deny,
        rule: rule.rule.as_ref().map(rule_ref),
    }
}

/// A rule's reference as it goes over the wire.
pub fn rule_ref(rule: &RuleRef) -> node::RuleRef {
    node::RuleRef {
        kind: rule.kind.to_string(),
        namespace: rule.namespace.to_string(),
        name: rule.name.to_string(),
        rule: rule.rule.to_string(),
    }
}

fn http_rule(rule: &HttpRule) -> node::HttpRule {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    node::HttpRule {
        method: text(&rule.method),
        path: text(&rule.path),
        host: text(&rule.host),
        headers: rule.headers.clone(),
        header_matches: rule.header_matches.iter().map(header_match).collect(),
    }
}

fn header_match(header: &HeaderMatch) -> node::HeaderMatch {
    use node::header_match::Mismatch as Wire;
    let mismatch = match header.mismatch {
        Mismatch::Fail => Wire::Fail,
        Mismatch::Log => Wire::Log,
        Mismatch::Add => Wire::Add,
        Mismatch::Delete => Wire::Delete,
        Mismatch::Replace => Wire::Replace,
    };
    node::HeaderMatch {
        name: header.name.clone(),
        value: header.value.clone(),
        mismatch: mismatch.into(),
    }
}

#[cfg(test)]
mod tests {
    use weft_core::model::EndpointId;

    use super::*;

    fn built(ports: &[PortPolicy]) -> node::Snapshot {
        let identities = IdentityTable::new();
        snapshot(&SnapshotParts {
            node: node::Node {
                name: "kind-worker".into(),
                ip: "172.18.0.2".into(),
                cluster: "default".into(),
                private_ports: Vec::new(),
            },
            proxy_port: 15001,
            proxy_mark: 0xb0000,
            endpoints: &BTreeMap::new(),
            identities: &identities,
            addresses: &BTreeMap::new(),
            ports: ports.iter().collect(),
        })
    }

    fn port(first: u16) -> PortPolicy {
        PortPolicy {
            endpoint: EndpointId(7),
            direction: Direction::Egress,
            first,
            last: first,
            rules: [PeerRule {
                peers: PeerSet::Any,
                deny: false,
                http: vec![HttpRule {
                    method: Some("POST".into()),
                    ..HttpRule::default()
                }],
                rule: None,
            }]
            .into(),
        }
    }

    #[test]
    fn the_version_follows_the_content() {
        assert_eq!(built(&[port(80)]).version, built(&[port(80)]).version);
        assert_ne!(built(&[port(80)]).version, built(&[port(81)]).version);
        assert!(!built(&[]).version.is_empty());
    }

    #[test]
    fn rules_arrive_as_they_were_written() {
        let snapshot = built(&[port(80)]);
        let policy = &snapshot.policies[0];
        assert_eq!(policy.direction(), node::Direction::Egress);
        assert_eq!((policy.port_first, policy.port_last), (80, 80));
        assert_eq!(policy.rules[0].http[0].method, "POST");
        assert!(policy.rules[0].peers.is_empty());
        let mark = node::Transparent { mark: 0xb_0000 };
        let transparent = node::listener::Mode::Transparent(mark);
        assert_eq!(snapshot.listeners[0].mode, Some(transparent));
    }
}
