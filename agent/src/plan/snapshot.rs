//! The proxy's snapshot: what the node's policy comes to at layer 7.

mod filters;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use prost::Message as _;
use weft_api::node;
use weft_core::model::{Direction, NumericIdentity, fnv1a_bytes};
use weft_core::policy::http::{HeaderMatch, HttpRule, Mismatch};
use weft_core::policy::{IdentityTable, KnownIdentity, PeerRule, PeerSet, PortPolicy, RuleRef};
use weft_core::snapshot::Settings;

pub use filters::FilterParts;

use super::Address;
use super::filters::Chains;
use super::room::{Claim, give_way, tenant};
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
    /// Limits, deadlines and names.
    pub settings: &'a Settings,
    /// The pods of this node.
    pub endpoints: &'a BTreeMap<Ipv4Addr, LocalEndpoint>,
    /// Identities with their labels.
    pub identities: &'a IdentityTable,
    /// Identities of addresses.
    pub addresses: &'a BTreeMap<Ipv4Net, Address>,
    /// What is judged at layer 7, by endpoint, direction and port.
    pub ports: Vec<&'a PortPolicy>,
    /// What filters are met, and whom they may ask.
    pub filters: FilterParts,
}

/// A snapshot is larger than a proxy accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the snapshot has {size} bytes, more than the {limit} that a proxy accepts, even without HTTP \
     rules: let policies name fewer ranges of addresses, and have fewer pods on this node"
)]
pub struct TooLarge {
    /// Its size.
    pub size: usize,
    /// What is accepted.
    pub limit: usize,
}

/// How many bytes of a snapshot of at most `limit` bytes are left for what the
/// proxy judges, beside these filters; rather less than more.
pub fn room_for_ports(parts: &SnapshotParts<'_>, chains: &Chains, limit: usize) -> usize {
    /// The node and the listener.
    const NODE: usize = 4096;
    /// Numbers, tags and lengths of an endpoint, and its address.
    const ENDPOINT: usize = 48;
    /// A range and its identity.
    const ADDRESS: usize = 32;
    /// An identity less its labels.
    const IDENTITY: usize = 16;
    let endpoints = parts
        .endpoints
        .values()
        .map(|one| ENDPOINT + one.key.namespace.len() + one.key.name.len());
    let labels = parts.identities.iter().map(|(_, known)| labels_size(known));
    let labels = labels.sum::<usize>().min(labels_room(limit));
    let identities = parts.identities.iter().count() * IDENTITY + labels;
    let addresses = parts.addresses.len() * ADDRESS;
    let settings = settings(parts.settings).encoded_len();
    let filters = filters::size(chains, limit);
    let base = NODE + settings + endpoints.sum::<usize>() + identities + addresses + filters;
    limit.saturating_sub(base)
}

/// What the labels of all identities may take: they only name the ends of spans.
fn labels_room(limit: usize) -> usize {
    limit / 4
}

/// What labels take in a snapshot; rather more than less.
fn labels_size(known: &KnownIdentity) -> usize {
    /// Source, separators, tag and length.
    const LABEL: usize = 24;
    let labels = known.labels.iter();
    labels
        .map(|label| LABEL + label.key().len() + label.value().len())
        .sum()
}

/// Identities whose labels find no room, those with the most labels first.
fn unlabelled(identities: &IdentityTable, room: usize) -> BTreeSet<NumericIdentity> {
    let claims = identities.iter().map(|(id, known)| Claim {
        of: id,
        tenant: tenant(&known.labels),
        size: labels_size(known),
        new: false,
    });
    give_way(&claims.collect::<Vec<_>>(), room)
}

/// The snapshot of these parts. Its version is a hash of the content: equal
/// content has the same version, also after a restart of the agent.
///
/// Returns its size, too.
///
/// # Errors
/// When it has more than `limit` bytes.
pub fn snapshot(
    parts: &SnapshotParts<'_>,
    limit: usize,
) -> Result<(node::Snapshot, usize), TooLarge> {
    let unlabelled = unlabelled(parts.identities, labels_room(limit));
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
                labels: match unlabelled.contains(&id) {
                    true => Vec::new(),
                    false => known.labels.to_strings(),
                },
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
        filters: parts.filters.filters.clone(),
        chains: parts.filters.chains.clone(),
        callouts: parts.filters.callouts.clone(),
        settings: Some(settings(parts.settings)),
    };
    let size = VERSION + snapshot.encoded_len();
    if size > limit {
        return Err(TooLarge { size, limit });
    }
    snapshot.version = format!("{:016x}", fnv1a_bytes(snapshot.encode_to_vec()));
    Ok((snapshot, size))
}

/// What the version takes: 16 digits, tag and length.
const VERSION: usize = 18;

/// All of them, not only those that differ from the defaults: those of this
/// version hold, whichever version the proxy has.
fn settings(settings: &Settings) -> node::Settings {
    node::Settings {
        server_name: Some(settings.server_name.to_string()),
        request_timeout: Some(duration(settings.request_timeout)),
        idle_timeout: Some(duration(settings.idle_timeout)),
        header_timeout: Some(duration(settings.header_timeout)),
        detect_timeout: Some(duration(settings.detect_timeout)),
        max_header_bytes: Some(settings.max_header_bytes),
        max_headers: Some(settings.max_headers),
        max_connections: Some(settings.max_connections),
        max_connections_per_source: Some(settings.max_connections_per_source),
        max_upstream_per_source: Some(settings.max_upstream_per_source),
        max_memory_per_source: Some(settings.max_memory_per_source),
        max_streams: Some(settings.max_streams),
        stream_window: Some(settings.stream_window),
        connection_window: Some(settings.connection_window),
        send_buffer: Some(settings.send_buffer),
        upgrades: settings.upgrades.iter().map(ToString::to_string).collect(),
    }
}

fn duration(duration: Duration) -> pbjson_types::Duration {
    pbjson_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
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

fn wire_direction(direction: Direction) -> node::Direction {
    match direction {
        Direction::Ingress => node::Direction::Ingress,
        Direction::Egress => node::Direction::Egress,
    }
}

fn port_policy(port: &PortPolicy) -> node::PortPolicy {
    node::PortPolicy {
        endpoint_id: port.endpoint.0,
        direction: wire_direction(port.direction).into(),
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
mod tests;
