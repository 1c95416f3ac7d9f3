//! Which headers pass the proxy, and which it sets: the trust table.
//!
//! | header | from the cluster | from elsewhere |
//! |---|---|---|
//! | hop-by-hop (`connection` and what it names, `keep-alive`, `te` except trailers, `proxy-*`) | removed | removed |
//! | `upgrade` | kept where it may be granted ([`upgrade`]) | the same |
//! | `x-envoy-*` | removed | removed |
//! | `x-envoy-internal` | set to `true` | removed |
//! | `x-forwarded-proto` | set | set |
//! | `x-request-id` | kept if well-formed | replaced |
//! | `x-forwarded-for`, `forwarded`, `x-real-ip` | kept | removed |
//! | `traceparent`, `tracestate`, `b3`, `x-b3-*` | kept if well-formed | removed |
//! | names with `_` that read like one of the above with `-` | removed | removed |
//!
//! `connection` cannot name away a header that others rely on: those in
//! [`END_TO_END`] stay.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::trace::{TRACEPARENT, TRACESTATE};
use crate::http::upgrade;

/// How far the source of a request is trusted with headers about the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// A pod or a node of this cluster.
    Cluster,
    /// Anyone else.
    World,
}

const X_ENVOY_INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

const ENVOY_PREFIX: &str = "x-envoy-";

/// Say where a request came from or which trace it belongs to: only the
/// cluster's own may.
const PROVENANCE: [&str; 7] = [
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-real-ip",
    "x-envoy-external-address",
    "x-client-ip",
    "b3",
];
const B3_PREFIX: &str = "x-b3-";

/// Hop-by-hop by definition, named in `connection` or not.
const HOP_BY_HOP: [&str; 4] = [
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
];

/// Never hop-by-hop, whatever `connection` says.
const END_TO_END: [&str; 14] = [
    "authorization",
    "content-length",
    "content-type",
    "cookie",
    "forwarded",
    "host",
    "set-cookie",
    "trailer",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "upgrade",
    "x-request-id",
    "x-real-ip",
];

/// Prepares the headers of a request for judging and forwarding.
///
/// `expect` stays in place for the HTTP server, which answers it when the body
/// is first asked for; [`forward`] takes it out.
pub fn sanitise(head: &mut Parts, trust: Trust, upgrades: &[Box<str>]) {
    let present = Present::of(&head.headers, trust);
    if present.connection {
        let granted = upgrade::is_granted(head, upgrades);
        remove_connection(&mut head.headers);
        if granted {
            let announced = HeaderValue::from_static("upgrade");
            head.headers.insert(CONNECTION, announced);
        } else {
            head.headers.remove(UPGRADE);
        }
    }
    let headers = &mut head.headers;
    if present.doomed {
        let doomed: Vec<HeaderName> = headers
            .keys()
            .filter(|name| removed(name, trust))
            .cloned()
            .collect();
        for name in &doomed {
            headers.remove(name);
        }
    }
    if present.te {
        keep_trailers_only(headers);
    }
    if present.trace {
        super::trace::scrub(headers, trust);
    }
    if trust == Trust::Cluster {
        headers.insert(X_ENVOY_INTERNAL, HeaderValue::from_static("true"));
    }
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("http"));
}

/// Which headers there is something to do about. Most requests have none of
/// them: one pass over the names costs less than looking up a single one.
#[derive(Debug, Default)]
struct Present {
    connection: bool,
    doomed: bool,
    te: bool,
    trace: bool,
}

impl Present {
    fn of(headers: &HeaderMap, trust: Trust) -> Self {
        let mut present = Self::default();
        for name in headers.keys() {
            if name == CONNECTION || name == UPGRADE {
                present.connection = true;
            } else if name == TE {
                present.te = true;
            } else if name == TRACEPARENT || name == TRACESTATE {
                present.trace = true;
            } else {
                present.doomed |= removed(name, trust);
            }
        }
        present
    }
}

/// Whether there is a header of this name. Quicker than a lookup where the
/// answer is mostly no.
fn has(headers: &HeaderMap, wanted: &HeaderName) -> bool {
    headers.keys().any(|name| name == wanted)
}

fn removed(name: &HeaderName, trust: Trust) -> bool {
    let name = name.as_str();
    if name.starts_with(ENVOY_PREFIX) || HOP_BY_HOP.contains(&name) || underscore_twin(name) {
        return true;
    }
    trust == Trust::World
        && (PROVENANCE.contains(&name) || name.starts_with(B3_PREFIX) || name == FORWARDED)
}

/// `x_request_id` is `x-request-id` for servers that map header names to
/// variables (CGI, WSGI): a way round every rule about the latter.
fn underscore_twin(name: &str) -> bool {
    if !name.as_bytes().contains(&b'_') {
        return false;
    }
    let dashed = name.replace('_', "-");
    dashed.starts_with("x-envoy-")
        || dashed.starts_with("x-forwarded-")
        || dashed.starts_with(B3_PREFIX)
        || PROVENANCE.contains(&&*dashed)
        || HOP_BY_HOP.contains(&&*dashed)
        || END_TO_END.contains(&&*dashed)
        || dashed == "connection"
}

/// A header of a request that only the proxy writes, whoever else could.
#[must_use]
pub fn is_own(name: &HeaderName) -> bool {
    let text = name.as_str();
    text.starts_with(ENVOY_PREFIX)
        || HOP_BY_HOP.contains(&text)
        || underscore_twin(text)
        || [EXPECT, X_FORWARDED_PROTO, super::request_id::NAME].contains(name)
}

/// A header of a response that is about the connection to the upstream or the
/// client, and not about the answer.
#[must_use]
pub fn is_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(&name.as_str())
}

/// Removes `connection` and what it names.
fn remove_connection(headers: &mut HeaderMap) {
    let nominated: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        // What nearly everyone says names no header but `keep-alive`, which
        // goes anyway.
        .filter(|name| !name.eq_ignore_ascii_case("keep-alive"))
        .filter(|name| !name.eq_ignore_ascii_case("close"))
        .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
        .filter(|name| !protected(name))
        .collect();
    for name in &nominated {
        headers.remove(name);
    }
    headers.remove(CONNECTION);
}

fn protected(name: &HeaderName) -> bool {
    let name = name.as_str();
    END_TO_END.contains(&name) || name.starts_with("x-forwarded-") || name.starts_with("x-b3-")
}

/// Whether a request, once it is sanitised, asks for a switch of protocols.
#[must_use]
pub fn asks_upgrade(headers: &HeaderMap) -> bool {
    has(headers, &UPGRADE)
}

/// `te: trailers` is an end-to-end promise that gRPC relies on; everything
/// else in `te` is about the client's own hop.
fn keep_trailers_only(headers: &mut HeaderMap) {
    let trailers = headers
        .get_all(TE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"));
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    } else {
        headers.remove(TE);
    }
}

/// The last changes before a request leaves, of no interest to policy or
/// flows.
pub fn forward(headers: &mut HeaderMap, method: &Method) {
    for name in [EXPECT, TRANSFER_ENCODING] {
        if has(headers, &name) {
            headers.remove(name);
        }
    }
    // Some clients say `content-length: 0` with methods that have no body;
    // the codec writes it for those that need it.
    if matches!(*method, Method::GET | Method::HEAD)
        && headers
            .get(CONTENT_LENGTH)
            .is_some_and(|value| value == "0")
    {
        headers.remove(CONTENT_LENGTH);
    }
}

/// Removes the hop-by-hop headers of a response. `switching` keeps those of a
/// 101.
pub fn sanitise_response(headers: &mut HeaderMap, switching: bool) {
    if switching {
        return;
    }
    if has(headers, &CONNECTION) {
        remove_connection(headers);
    }
    if headers.keys().any(hop_by_hop) {
        headers.remove(UPGRADE);
        headers.remove(TRANSFER_ENCODING);
        for name in ["keep-alive", "proxy-connection"] {
            headers.remove(name);
        }
    }
}

/// Headers of a response that are about its connection.
fn hop_by_hop(name: &HeaderName) -> bool {
    *name == UPGRADE
        || *name == TRANSFER_ENCODING
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// Whether a request names its host in a header.
#[must_use]
pub fn has_host(headers: &HeaderMap) -> bool {
    has(headers, &HOST)
}

/// The authority that a request is for.
#[must_use]
pub fn authority(head: &Parts) -> &str {
    match head.uri.authority() {
        Some(authority) => authority.as_str(),
        None => head
            .headers
            .get(HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue, Request};

    use super::{Trust, asks_upgrade};

    fn sanitise(headers: &mut HeaderMap, trust: Trust) {
        let (mut head, ()) = Request::new(()).into_parts();
        std::mem::swap(&mut head.headers, headers);
        super::sanitise(&mut head, trust, &[]);
        *headers = head.headers;
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn connection_removes_what_it_names_but_nothing_that_others_rely_on() {
        let mut map = headers(&[
            ("connection", "close, x-hop, x-request-id, authorization"),
            ("x-hop", "1"),
            ("x-request-id", "id"),
            ("authorization", "secret"),
            ("keep-alive", "timeout=5"),
        ]);
        sanitise(&mut map, Trust::Cluster);
        assert!(!map.contains_key("connection"));
        assert!(!map.contains_key("x-hop"));
        assert!(!map.contains_key("keep-alive"));
        assert_eq!(map["x-request-id"], "id");
        assert_eq!(map["authorization"], "secret");
    }

    #[test]
    fn forged_envoy_headers_are_removed_whoever_sends_them() {
        for trust in [Trust::Cluster, Trust::World] {
            let mut map = headers(&[
                ("x-envoy-upstream-rq-timeout-ms", "1"),
                ("x-envoy-internal", "maybe"),
                ("x-forwarded-proto", "https"),
            ]);
            sanitise(&mut map, trust);
            assert!(!map.contains_key("x-envoy-upstream-rq-timeout-ms"));
            let internal = (trust == Trust::Cluster).then_some("true");
            assert_eq!(
                map.get("x-envoy-internal").map(HeaderValue::as_bytes),
                internal.map(str::as_bytes)
            );
            assert_eq!(map["x-forwarded-proto"], "http");
        }
    }

    #[test]
    fn the_world_cannot_say_where_a_request_came_from() {
        let sent = [
            ("x-forwarded-for", "10.0.0.1"),
            ("forwarded", "for=10.0.0.1"),
            ("x-b3-traceid", "1"),
            ("b3", "0"),
            ("accept", "*/*"),
        ];
        let mut world = headers(&sent);
        sanitise(&mut world, Trust::World);
        assert_eq!(world.len(), 2, "{world:?}");
        let mut cluster = headers(&sent);
        sanitise(&mut cluster, Trust::Cluster);
        assert_eq!(cluster["x-forwarded-for"], "10.0.0.1");
        assert_eq!(cluster["x-b3-traceid"], "1");
    }

    #[test]
    fn underscore_twins_are_removed() {
        let mut map = headers(&[
            ("x_request_id", "1"),
            ("x_forwarded_for", "1"),
            ("my_header", "stays"),
        ]);
        sanitise(&mut map, Trust::Cluster);
        assert!(!map.contains_key("x_request_id"));
        assert!(!map.contains_key("x_forwarded_for"));
        assert_eq!(map["my_header"], "stays");
    }

    #[test]
    fn te_says_trailers_or_nothing() {
        let mut map = headers(&[("te", "gzip, trailers")]);
        sanitise(&mut map, Trust::Cluster);
        assert_eq!(map["te"], "trailers");
        let mut map = headers(&[("te", "gzip")]);
        sanitise(&mut map, Trust::Cluster);
        assert!(!map.contains_key("te"));
    }

    #[test]
    fn websocket_passes_and_h2c_does_not() {
        let mut map = headers(&[("connection", "Upgrade"), ("upgrade", "websocket")]);
        sanitise(&mut map, Trust::Cluster);
        assert_eq!(map["connection"], "upgrade");
        assert_eq!(map["upgrade"], "websocket");
        assert!(asks_upgrade(&map));
        let mut map = headers(&[
            ("connection", "Upgrade, HTTP2-Settings"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"),
        ]);
        sanitise(&mut map, Trust::Cluster);
        assert!(!map.contains_key("upgrade"));
        assert!(!map.contains_key("connection"));
        assert!(!map.contains_key("http2-settings"));
    }
}
