//! From the wire to what the snapshot is built from. Every refusal names the
//! field.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use weft_api::node as wire;
use weft_core::filter::FilterSpec;
use weft_core::model::{Direction, Endpoint, EndpointId, Labels, NumericIdentity, PodAddr};
use weft_core::policy::http::{HeaderMatch, HttpRule, Mismatch};
use weft_core::policy::{PeerRule, PeerSet, PortPolicy, RuleRef};
use weft_core::snapshot::{Cluster, Listener, ListenerMode, Node, Parts, SnapshotError};

mod filters;

use crate::accept::socket;
use crate::settings;

type Result<T> = std::result::Result<T, SnapshotError>;

/// Reads a snapshot of the wire.
///
/// # Errors
/// The first field that does not hold what it should.
pub fn parts(wire: &wire::Snapshot) -> Result<Parts> {
    Ok(Parts {
        version: wire.version.as_str().into(),
        node: node(wire.node.as_ref())?,
        listeners: each(&wire.listeners, "listeners", listener)?,
        endpoints: each(&wire.endpoints, "endpoints", endpoint)?,
        identities: each(&wire.identities, "identities", identity)?,
        addresses: each(&wire.addresses, "addresses", address)?,
        policies: each(&wire.policies, "policies", policy)?,
        clusters: each(&wire.clusters, "clusters", cluster)?,
        filters: self::filters(wire)?,
        chains: each(&wire.chains, "chains", filters::chain)?,
        callouts: each(&wire.callouts, "callouts", filters::callout)?,
        settings: settings::from_wire(wire.settings.as_ref())
            .map_err(|error| refused(format!("settings.{}", error.field), error.reason))?,
    })
}

/// Reads the filters of a snapshot.
///
/// # Errors
/// The first field that does not hold what it should.
pub fn filters(wire: &wire::Snapshot) -> Result<Vec<Arc<FilterSpec>>> {
    let filters = each(&wire.filters, "filters", filters::filter)?;
    let mut known = HashSet::new();
    for (index, filter) in filters.iter().enumerate() {
        if !known.insert(&filter.key) {
            let reason = format!("names {} a second time", filter.key);
            return Err(refused(format!("filters[{index}].name"), reason));
        }
    }
    Ok(filters)
}

fn each<W, T>(items: &[W], list: &str, convert: impl Fn(&W, &str) -> Result<T>) -> Result<Vec<T>> {
    items
        .iter()
        .enumerate()
        .map(|(index, item)| convert(item, &format!("{list}[{index}]")))
        .collect()
}

fn refused(field: impl Into<String>, reason: impl Into<String>) -> SnapshotError {
    SnapshotError {
        field: field.into(),
        reason: reason.into(),
    }
}

fn node(wire: Option<&wire::Node>) -> Result<Node> {
    let wire = wire.ok_or_else(|| refused("node", "is missing"))?;
    Ok(Node {
        name: wire.name.as_str().into(),
        address: ip(&wire.ip, "node.ip")?,
        cluster: wire.cluster.as_str().into(),
        private_ports: wire
            .private_ports
            .iter()
            .map(|port| u16::try_from(*port))
            .collect::<std::result::Result<_, _>>()
            .map_err(|_error| refused("node.private_ports", "has what is no port"))?,
    })
}

fn listener(wire: &wire::Listener, at: &str) -> Result<Listener> {
    let mode = match &wire.mode {
        Some(wire::listener::Mode::Transparent(transparent)) => ListenerMode::Transparent {
            mark: match transparent.mark {
                0 => socket::FROM_PROXY,
                mark => mark,
            },
        },
        Some(wire::listener::Mode::Cluster(name)) => ListenerMode::Cluster(name.as_str().into()),
        None => return Err(refused(format!("{at}.mode"), "is missing")),
    };
    Ok(Listener {
        name: wire.name.as_str().into(),
        address: socket_address(&wire.address, &format!("{at}.address"))?,
        mode,
    })
}

fn endpoint(wire: &wire::Endpoint, at: &str) -> Result<Endpoint> {
    if wire.id == 0 {
        return Err(refused(format!("{at}.id"), "0 is no endpoint"));
    }
    let identity = known(wire.identity, at)?;
    Ok(Endpoint {
        id: EndpointId(wire.id),
        namespace: wire.namespace.as_str().into(),
        pod: wire.pod.as_str().into(),
        address: PodAddr(ip(&wire.ip, &format!("{at}.ip"))?),
        identity,
    })
}

/// An identity that somebody has: rules for any peer must not be all that
/// applies to who could not be told.
fn known(identity: u32, at: &str) -> Result<NumericIdentity> {
    match NumericIdentity(identity) {
        NumericIdentity::UNKNOWN => Err(refused(format!("{at}.identity"), "0 is nobody's")),
        known => Ok(known),
    }
}

fn identity(wire: &wire::Identity, at: &str) -> Result<(NumericIdentity, Labels)> {
    let labels = Labels::parse_all(wire.labels.iter().map(String::as_str))
        .map_err(|error| refused(format!("{at}.labels"), error.to_string()))?;
    Ok((NumericIdentity(wire.id), labels))
}

fn address(wire: &wire::AddressIdentity, at: &str) -> Result<(IpNet, NumericIdentity)> {
    let net = wire
        .cidr
        .parse::<IpNet>()
        .or_else(|_not_a_prefix| wire.cidr.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_error| refused(format!("{at}.cidr"), "is no prefix and no address"))?;
    Ok((net, known(wire.identity, at)?))
}

fn policy(wire: &wire::PortPolicy, at: &str) -> Result<PortPolicy> {
    Ok(PortPolicy {
        endpoint: EndpointId(wire.endpoint_id),
        direction: direction(wire.direction(), at)?,
        first: port(wire.port_first, at, "port_first")?,
        last: port(wire.port_last, at, "port_last")?,
        rules: wire
            .rules
            .iter()
            .enumerate()
            .map(|(index, rule)| peer_rule(rule, &format!("{at}.rules[{index}]")))
            .collect::<Result<_>>()?,
    })
}

fn direction(wire: wire::Direction, at: &str) -> Result<Direction> {
    match wire {
        wire::Direction::Ingress => Ok(Direction::Ingress),
        wire::Direction::Egress => Ok(Direction::Egress),
        wire::Direction::Unspecified => Err(refused(format!("{at}.direction"), "is missing")),
    }
}

fn port(number: u32, at: &str, field: &str) -> Result<u16> {
    u16::try_from(number).map_err(|_error| refused(format!("{at}.{field}"), "is no port"))
}

fn peer_rule(wire: &wire::PeerRule, at: &str) -> Result<PeerRule> {
    Ok(PeerRule {
        peers: if wire.peers.is_empty() {
            PeerSet::Any
        } else {
            PeerSet::These(wire.peers.iter().copied().map(NumericIdentity).collect())
        },
        deny: wire.deny,
        http: wire
            .http
            .iter()
            .enumerate()
            .map(|(index, rule)| http_rule(rule, &format!("{at}.http[{index}]")))
            .collect::<Result<_>>()?,
        rule: wire.rule.as_ref().map(rule_ref),
    })
}

fn http_rule(wire: &wire::HttpRule, at: &str) -> Result<HttpRule> {
    let set = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Ok(HttpRule {
        method: set(&wire.method),
        path: set(&wire.path),
        host: set(&wire.host),
        headers: wire.headers.clone(),
        header_matches: wire
            .header_matches
            .iter()
            .enumerate()
            .map(|(index, one)| header_match(one, &format!("{at}.header_matches[{index}]")))
            .collect::<Result<_>>()?,
    })
}

fn header_match(wire: &wire::HeaderMatch, at: &str) -> Result<HeaderMatch> {
    // An action that a newer agent knows must not be read as another one.
    let mismatch = wire::header_match::Mismatch::try_from(wire.mismatch)
        .map_err(|_error| refused(format!("{at}.mismatch"), "is not known here"))?;
    Ok(HeaderMatch {
        name: wire.name.clone(),
        value: wire.value.clone(),
        mismatch: match mismatch {
            wire::header_match::Mismatch::Fail => Mismatch::Fail,
            wire::header_match::Mismatch::Log => Mismatch::Log,
            wire::header_match::Mismatch::Add => Mismatch::Add,
            wire::header_match::Mismatch::Delete => Mismatch::Delete,
            wire::header_match::Mismatch::Replace => Mismatch::Replace,
        },
    })
}

fn rule_ref(wire: &wire::RuleRef) -> RuleRef {
    RuleRef {
        kind: wire.kind.as_str().into(),
        namespace: wire.namespace.as_str().into(),
        name: wire.name.as_str().into(),
        rule: wire.rule.as_str().into(),
    }
}

fn cluster(wire: &wire::Cluster, at: &str) -> Result<Cluster> {
    let connect_timeout: Duration = match &wire.connect_timeout {
        None => Cluster::CONNECT_TIMEOUT,
        Some(value) => settings::duration(value)
            .ok_or_else(|| refused(format!("{at}.connect_timeout"), "must be longer than zero"))?,
    };
    Ok(Cluster {
        name: wire.name.as_str().into(),
        connect_timeout,
        endpoints: wire
            .endpoints
            .iter()
            .enumerate()
            .map(|(index, one)| {
                socket_address(&one.address, &format!("{at}.endpoints[{index}].address"))
            })
            .collect::<Result<_>>()?,
        http2: wire.http2,
    })
}

fn ip(text: &str, at: &str) -> Result<IpAddr> {
    text.parse()
        .map_err(|_error| refused(at, format!("`{text}` is no address")))
}

fn socket_address(text: &str, at: &str) -> Result<SocketAddr> {
    text.parse()
        .map_err(|_error| refused(at, format!("`{text}` is no address with a port")))
}

#[cfg(test)]
mod tests {
    use super::{ListenerMode, parts, wire};

    fn snapshot() -> wire::Snapshot {
        wire::Snapshot {
            version: "1".into(),
            node: Some(wire::Node {
                name: "node".into(),
                ip: "172.18.0.2".into(),
                cluster: "default".into(),
                private_ports: Vec::new(),
            }),
            ..Default::default()
        }
    }

    fn field(wire: &wire::Snapshot) -> String {
        parts(wire).expect_err("refused").field
    }

    #[test]
    fn refusals_name_the_field() {
        let mut wire = snapshot();
        wire.policies.push(wire::PortPolicy {
            endpoint_id: 1,
            direction: 1,
            port_first: 70_000,
            port_last: 70_000,
            rules: Vec::new(),
        });
        assert_eq!(field(&wire), "policies[0].port_first");
        wire.policies[0].direction = 0;
        assert_eq!(field(&wire), "policies[0].direction");

        let mut wire = snapshot();
        wire.listeners.push(wire::Listener {
            name: "http".into(),
            address: "localhost:80".into(),
            mode: Some(wire::listener::Mode::Cluster("a".into())),
        });
        assert_eq!(field(&wire), "listeners[0].address");
        wire.listeners[0].mode = None;
        assert_eq!(field(&wire), "listeners[0].mode");

        let mut wire = snapshot();
        wire.node = None;
        assert_eq!(field(&wire), "node");
    }

    #[test]
    fn the_mark_is_the_usual_one_unless_told_otherwise() {
        for (told, mark) in [(0, 0xa00), (0xb_0000, 0xb_0000)] {
            let mut wire = snapshot();
            let transparent = wire::Transparent { mark: told };
            wire.listeners.push(wire::Listener {
                name: "transparent".into(),
                address: "127.0.0.1:15001".into(),
                mode: Some(wire::listener::Mode::Transparent(transparent)),
            });
            let parts = parts(&wire).expect("valid");
            assert_eq!(parts.listeners[0].mode, ListenerMode::Transparent { mark });
        }
    }

    #[test]
    fn nobody_is_unknown() {
        let mut wire = snapshot();
        wire.addresses.push(wire::AddressIdentity {
            cidr: "10.0.0.1".into(),
            identity: 0,
        });
        assert_eq!(field(&wire), "addresses[0].identity");
        wire.addresses.clear();
        wire.endpoints.push(wire::Endpoint {
            id: 1,
            ip: "10.0.0.1".into(),
            ..Default::default()
        });
        assert_eq!(field(&wire), "endpoints[0].identity");
    }

    #[test]
    fn an_action_that_is_not_known_here_is_refused_and_not_guessed() {
        let mut wire = snapshot();
        let matches = wire::HeaderMatch {
            name: "x".into(),
            value: "1".into(),
            mismatch: 99,
        };
        wire.policies.push(wire::PortPolicy {
            endpoint_id: 1,
            direction: 2,
            port_first: 80,
            port_last: 80,
            rules: vec![wire::PeerRule {
                http: vec![wire::HttpRule {
                    header_matches: vec![matches],
                    ..Default::default()
                }],
                ..Default::default()
            }],
        });
        assert_eq!(
            field(&wire),
            "policies[0].rules[0].http[0].header_matches[0].mismatch"
        );
    }

    #[test]
    fn bare_addresses_and_prefixes_are_both_addresses() {
        let mut wire = snapshot();
        for cidr in ["10.0.0.0/8", "10.0.0.1", "fd00::1"] {
            wire.addresses.push(wire::AddressIdentity {
                cidr: cidr.into(),
                identity: 256,
            });
        }
        let parts = parts(&wire).expect("valid");
        assert_eq!(parts.addresses[1].0.to_string(), "10.0.0.1/32");
        assert_eq!(parts.addresses[2].0.to_string(), "fd00::1/128");
    }
}
