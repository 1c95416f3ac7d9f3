//! Flow records: what each observation point saw, in the form that the agent
//! merges with the datapath's events.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Version};
use weft_api::node::{
    Direction as WireDirection, Header, Http, Peer, Record, RecordKind, RuleRef, Verdict,
};
use weft_core::policy;

use super::exchange::{Exchange, RefusedConnection, ResponseHead};
use crate::failure::Culprit;
use crate::http::strict;
use crate::identity::{Direction, End};
use crate::pipeline::headers::authority;
use crate::pipeline::trace::{TRACEPARENT, hex};

/// Said elsewhere in the record, or by every request alike.
const LEFT_OUT: [&str; 2] = ["host", "x-forwarded-proto"];
const REQUEST_ID: &str = "X-Request-Id";

/// Who reads flows must not be able to act in the name of who is seen in them.
const SECRET: [&str; 5] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
];
const REDACTED: &str = "[redacted]";

/// Most headers that a record has beside those of the message.
const ADDED: usize = 2;

/// The records of a decision, one for each observation point, in the order
/// of the request.
pub fn requests(exchange: &Exchange, mut each: impl FnMut(Record)) {
    let http = Http {
        code: 0,
        headers: request_headers(exchange),
        ..request_line(exchange)
    };
    if let Some(failure) = exchange.refused {
        let direction = if exchange.ends.source.endpoint.is_some() {
            Direction::Egress
        } else {
            Direction::Ingress
        };
        let verdict = match failure.culprit() {
            Culprit::Downstream | Culprit::Proxy => Verdict::Dropped,
            Culprit::Upstream => Verdict::Error,
        };
        // What stands in for a head that could not be read says nothing.
        let readable = strict::refusal(&exchange.head).is_none();
        each(Record {
            verdict: verdict.into(),
            http: readable.then_some(http),
            reason: failure.to_string(),
            ..request(exchange, direction)
        });
        return;
    }
    let mut http = Shared::between(http, exchange.decisions.iter().count());
    for (direction, decision) in exchange.decisions.iter() {
        let verdict = if decision.allowed {
            Verdict::Forwarded
        } else {
            Verdict::Dropped
        };
        each(Record {
            verdict: verdict.into(),
            http: http.next(),
            rule: decision.rule.as_ref().map(rule_ref),
            ..request(exchange, direction)
        });
    }
}

/// The records of a response, on its way back through the observation points.
/// A request that was refused without a decision has its one record already.
pub fn responses(exchange: &Exchange, mut each: impl FnMut(Record)) {
    let Some(response) = exchange.response.get() else {
        return;
    };
    if exchange.refused.is_some() {
        return;
    }
    let http = Http {
        code: response.status.as_u16().into(),
        headers: response_headers(exchange, response),
        ..request_line(exchange)
    };
    let failure = exchange.end.get().and_then(|end| end.failure);
    let mut http = Shared::between(http, exchange.decisions.iter().count());
    for (direction, decision) in exchange.decisions.iter().rev() {
        let mut request = request(exchange, direction);
        each(Record {
            time: Some(timestamp(exchange.time + response.latency)),
            kind: RecordKind::Response.into(),
            verdict: Verdict::Forwarded.into(),
            source: request.destination.take(),
            destination: request.source.take(),
            http: http.next(),
            latency_ns: nanos(response.latency),
            rule: decision.rule.as_ref().map(rule_ref),
            reason: failure
                .map(|failure| failure.to_string())
                .unwrap_or_default(),
            ..request
        });
    }
}

/// Something large that several records hold: copied for all but the last.
struct Shared<T> {
    value: Option<T>,
    left: usize,
}

impl<T: Clone> Shared<T> {
    fn between(value: T, records: usize) -> Self {
        Self {
            value: Some(value),
            left: records,
        }
    }

    fn next(&mut self) -> Option<T> {
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            self.value.take()
        } else {
            self.value.clone()
        }
    }
}

/// The record of a connection that never had a request.
#[must_use]
pub fn refused(refused: &RefusedConnection) -> Record {
    Record {
        time: Some(timestamp(refused.time)),
        kind: RecordKind::Request.into(),
        direction: direction(refused.direction).into(),
        verdict: Verdict::Dropped.into(),
        source: Some(peer(&refused.ends.source)),
        destination: Some(peer(&refused.ends.destination)),
        // Not even a request: a reader of requests would find no headers in it.
        http: None,
        reason: refused.reason.to_string(),
        proxy_port: refused.ends.proxy_port.into(),
        ..Default::default()
    }
}

fn request(exchange: &Exchange, at: Direction) -> Record {
    Record {
        time: Some(timestamp(exchange.time)),
        kind: RecordKind::Request.into(),
        direction: direction(at).into(),
        source: Some(peer(&exchange.ends.source)),
        destination: Some(peer(&exchange.ends.destination)),
        request_id: exchange.request_id.as_str().to_owned(),
        trace_id: trace_id(exchange),
        proxy_port: exchange.ends.proxy_port.into(),
        ..Default::default()
    }
}

fn request_line(exchange: &Exchange) -> Http {
    Http {
        code: 0,
        method: exchange.head.method.as_str().to_owned(),
        url: url(exchange),
        protocol: protocol(exchange.head.version).to_owned(),
        headers: Vec::new(),
    }
}

/// Scheme, authority, path and query of a request.
#[must_use]
pub fn url(exchange: &Exchange) -> String {
    let path = exchange.head.uri.path_and_query();
    let path = path.map_or("/", PathAndQuery::as_str);
    ["http://", authority(&exchange.head), path].concat()
}

/// Name and version of the client's protocol, as flows print it.
#[must_use]
pub fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

fn request_headers(exchange: &Exchange) -> Vec<Header> {
    let mut headers = logged(&exchange.head.headers, |name| {
        // A context that the proxy made is not part of what was asked.
        name == TRACEPARENT || *name == HOST
    });
    if let Some(received) = exchange
        .trace
        .as_ref()
        .and_then(|trace| trace.received.as_ref())
    {
        headers.push(header("Traceparent".to_owned(), received));
    }
    headers.sort_by(|one, other| one.key.cmp(&other.key));
    headers.insert(
        0,
        Header {
            key: ":scheme".to_owned(),
            value: "http".to_owned(),
        },
    );
    headers
}

fn response_headers(exchange: &Exchange, response: &ResponseHead) -> Vec<Header> {
    let mut headers = logged(&response.headers, |name| {
        name.as_str().eq_ignore_ascii_case(REQUEST_ID)
    });
    headers.push(Header {
        key: REQUEST_ID.to_owned(),
        value: exchange.request_id.as_str().to_owned(),
    });
    headers.sort_by(|one, other| one.key.cmp(&other.key));
    headers
}

fn logged(headers: &HeaderMap, left_out: impl Fn(&HeaderName) -> bool) -> Vec<Header> {
    let mut logged = Vec::with_capacity(headers.len() + ADDED);
    let headers = headers
        .iter()
        .filter(|(name, _value)| !LEFT_OUT.contains(&name.as_str()) && !left_out(name));
    logged.extend(headers.map(|(name, value)| {
        let key = canonical(name.as_str());
        match SECRET.contains(&name.as_str()) {
            true => Header {
                key,
                value: REDACTED.to_owned(),
            },
            false => header(key, value),
        }
    }));
    logged
}

fn header(key: String, value: &HeaderValue) -> Header {
    // Bytes beyond ASCII become visible; nothing can end the line.
    let value = match value.to_str() {
        Ok(text) => text.to_owned(),
        Err(_not_ascii) => value.as_bytes().escape_ascii().to_string(),
    };
    Header { key, value }
}

/// `x-request-id` as `X-Request-Id`.
fn canonical(name: &str) -> String {
    let mut canonical = String::with_capacity(name.len());
    for (index, part) in name.split('-').enumerate() {
        if index > 0 {
            canonical.push('-');
        }
        let start = canonical.len();
        canonical.push_str(part);
        if let Some(first) = canonical.get_mut(start..=start) {
            first.make_ascii_uppercase();
        }
    }
    canonical
}

/// 32 hexadecimal digits, or empty without a trace.
#[must_use]
pub fn trace_id(exchange: &Exchange) -> String {
    let Some(trace) = &exchange.trace else {
        return String::new();
    };
    let mut text = [0; 32];
    hex(&trace.trace_id, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

fn peer(end: &End) -> Peer {
    Peer {
        ip: address(end.address.ip().to_canonical()),
        port: end.address.port().into(),
        identity: end.identity.0,
        endpoint_id: end.endpoint.unwrap_or_default(),
    }
}

/// As `to_string` has it, without the formatter: a request has four of them.
fn address(address: IpAddr) -> String {
    let IpAddr::V4(address) = address else {
        return address.to_string();
    };
    let mut text = String::with_capacity("255.255.255.255".len());
    for (index, octet) in address.octets().into_iter().enumerate() {
        if index > 0 {
            text.push('.');
        }
        for place in [100, 10] {
            if octet >= place {
                text.push(digit(octet / place % 10));
            }
        }
        text.push(digit(octet % 10));
    }
    text
}

fn digit(value: u8) -> char {
    char::from(b'0' + value)
}

fn rule_ref(rule: &policy::RuleRef) -> RuleRef {
    let text = |text: &Arc<str>| str::to_owned(text);
    RuleRef {
        kind: text(&rule.kind),
        namespace: text(&rule.namespace),
        name: text(&rule.name),
        rule: text(&rule.rule),
    }
}

fn direction(direction: Direction) -> WireDirection {
    match direction {
        Direction::Ingress => WireDirection::Ingress,
        Direction::Egress => WireDirection::Egress,
    }
}

fn timestamp(time: SystemTime) -> pbjson_types::Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    pbjson_types::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::{Shared, address, canonical};

    #[test]
    fn addresses_are_written_as_everyone_writes_them() {
        for octet in 0..=255 {
            let one = IpAddr::V4(Ipv4Addr::new(10, octet, 0, 255 - octet));
            assert_eq!(address(one), one.to_string());
        }
        assert_eq!(address(IpAddr::V6(Ipv6Addr::LOCALHOST)), "::1");
    }

    #[test]
    fn every_record_gets_what_they_share() {
        let mut shared = Shared::between("http", 2);
        assert_eq!(shared.next(), Some("http"));
        assert_eq!(shared.next(), Some("http"));
    }

    #[test]
    fn names_are_canonical() {
        for (name, expected) in [
            ("x-request-id", "X-Request-Id"),
            ("accept", "Accept"),
            (
                "x-envoy-upstream-service-time",
                "X-Envoy-Upstream-Service-Time",
            ),
            ("a--b-", "A--B-"),
        ] {
            assert_eq!(canonical(name), expected);
        }
    }
}
