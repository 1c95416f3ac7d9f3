//! Properties that a filter can ask for, by Envoy's names, and the mesh's own below `weft`.

use bytes::Bytes;
use http::HeaderMap;

use crate::exchange::{Attributes, Direction, Exchange, Peer, Target};
use crate::headers;
use crate::instance::Env;
use crate::types::Fields;

/// Longest path that is looked at.
const MAX_PATH: usize = 1024;
/// Most parts of a path that means something.
const MAX_PARTS: usize = 4;

/// Paths come with and without a 0 at their end. None for one that is too long.
pub(super) fn trim(path: &[u8]) -> Option<&[u8]> {
    let short = path.len() <= MAX_PATH;
    short.then(|| path.strip_suffix(b"\0").unwrap_or(path))
}

/// The value of a property; its parts are set apart by zeros.
pub(super) fn get(path: &[u8], env: &Env, exchange: Option<&dyn Exchange>) -> Option<Bytes> {
    let path = std::str::from_utf8(path).ok()?;
    let mut places = [""; MAX_PARTS];
    let mut count = 0;
    for part in path.split('\0') {
        *places.get_mut(count)? = part;
        count += 1;
    }
    let parts = &places[..count];
    if let Some(value) = of_plugin(parts, env) {
        return Some(value);
    }
    let exchange = exchange?;
    match *parts.first()? {
        "request" => of_request(&parts[1..], exchange),
        "response" => of_response(&parts[1..], exchange),
        "source" => of_peer(parts.get(1)?, &exchange.attributes().source),
        "destination" => of_peer(parts.get(1)?, &exchange.attributes().destination),
        "route_name" => text(&exchange.attributes().route),
        "listener_direction" => Some(match exchange.attributes().direction {
            Direction::Ingress => number(1),
            Direction::Egress => number(2),
        }),
        "weft" => of_mesh(&parts[1..], &exchange.attributes()),
        _ => None,
    }
}

fn of_plugin(parts: &[&str], env: &Env) -> Option<Bytes> {
    let plugin = &env.plugin;
    match parts {
        ["plugin_name"] if plugin.name.is_empty() => text(&env.name),
        ["plugin_name"] => text(&plugin.name),
        ["plugin_root_id"] => text(&plugin.root_id),
        ["plugin_vm_id"] => text(&plugin.vm_id),
        ["node", "id"] => text(&plugin.node_id),
        ["node", "cluster"] => text(&plugin.node_cluster),
        _ => None,
    }
}

fn of_request(parts: &[&str], exchange: &dyn Exchange) -> Option<Bytes> {
    let header = |name| of_fields(exchange.fields(Fields::RequestHeaders), name);
    match parts {
        ["path"] => text(exchange.target(Target::Path)),
        ["url_path"] => text(exchange.target(Target::Path).split('?').next()?),
        ["query"] => {
            let (_path, query) = exchange.target(Target::Path).split_once('?')?;
            text(query)
        }
        ["host"] => text(exchange.target(Target::Authority)),
        ["scheme"] => text(exchange.target(Target::Scheme)),
        ["method"] => text(exchange.target(Target::Method)),
        ["protocol"] => text(&exchange.attributes().http_version),
        ["id"] => text(&exchange.attributes().request_id),
        ["referer"] => header("referer"),
        ["useragent"] => header("user-agent"),
        ["headers", name] => match *name {
            ":path" => text(exchange.target(Target::Path)),
            ":authority" | "host" => text(exchange.target(Target::Authority)),
            ":method" => text(exchange.target(Target::Method)),
            ":scheme" => text(exchange.target(Target::Scheme)),
            name => header(name),
        },
        _ => None,
    }
}

fn of_response(parts: &[&str], exchange: &dyn Exchange) -> Option<Bytes> {
    match parts {
        ["code"] => Some(number(i64::from(exchange.status()?.as_u16()))),
        ["headers", ":status"] => text(exchange.status()?.as_str()),
        ["headers", name] => of_fields(exchange.fields(Fields::ResponseHeaders), name),
        ["trailers", name] => of_fields(exchange.fields(Fields::ResponseTrailers), name),
        _ => None,
    }
}

fn of_fields(fields: Option<&HeaderMap>, name: &str) -> Option<Bytes> {
    let value = headers::values(fields?, name.as_bytes()).next()?;
    Some(Bytes::copy_from_slice(value.as_bytes()))
}

fn of_peer(part: &str, peer: &Peer) -> Option<Bytes> {
    if peer.address.is_empty() {
        return None;
    }
    match part {
        "address" if peer.address.contains(':') => {
            text(&format!("[{}]:{}", peer.address, peer.port))
        }
        "address" => text(&format!("{}:{}", peer.address, peer.port)),
        "port" => Some(number(i64::from(peer.port))),
        _ => None,
    }
}

fn of_mesh(parts: &[&str], attributes: &Attributes) -> Option<Bytes> {
    let peer = |name: &str| match name {
        "source" => Some(&attributes.source),
        "destination" => Some(&attributes.destination),
        _ => None,
    };
    match *parts {
        ["request_id"] => text(&attributes.request_id),
        ["trace_id"] => text(&attributes.trace_id),
        ["verdict"] => text(&attributes.verdict),
        ["rule"] => text(&attributes.rule),
        ["route"] => text(&attributes.route),
        ["direction"] => text(match attributes.direction {
            Direction::Egress => "egress",
            Direction::Ingress => "ingress",
        }),
        [end, "namespace"] => text(&peer(end)?.namespace),
        [end, "pod"] => text(&peer(end)?.pod),
        [end, "identity"] => Some(number(i64::from(peer(end)?.identity))),
        [end, "labels", key] => {
            let labels = &peer(end)?.labels;
            let (_key, value) = labels.iter().find(|(label, _)| label == key)?;
            text(value)
        }
        _ => None,
    }
}

fn text(text: &str) -> Option<Bytes> {
    (!text.is_empty()).then(|| Bytes::copy_from_slice(text.as_bytes()))
}

/// Numbers are eight bytes, the lowest first.
fn number(number: i64) -> Bytes {
    Bytes::copy_from_slice(&number.to_le_bytes())
}
