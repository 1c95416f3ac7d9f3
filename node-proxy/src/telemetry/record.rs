//! Flow records: what each observation point saw, in the form that the agent
//! merges with the datapath's events.
//!
//! Written as they are sent ([`wire`](super::wire)): a request has two records
//! or more, and each of them some thirty strings.

mod field;

use std::borrow::Cow;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::Version;
use http::uri::PathAndQuery;
use weft_api::node::{Direction as WireDirection, RecordKind, Verdict};
use weft_core::policy::RuleRef;

use super::exchange::{Exchange, RefusedConnection, ResponseHead};
use super::wire::Writer;
use crate::failure::Culprit;
use crate::filter::run::Mark;
use crate::http::strict;
use crate::identity::{Direction, End};
use crate::pipeline::headers::authority;
use crate::pipeline::trace::{Trace, hex};

/// Said elsewhere in the record, or by every request alike.
const LEFT_OUT: [&[u8]; 2] = [b"host", b"x-forwarded-proto"];
const REQUEST_ID: &[u8] = b"x-request-id";
const TRACEPARENT: &[u8] = b"traceparent";

/// Who reads flows must not be able to act in the name of who is seen in them.
const SECRET: [&[u8]; 5] = [
    b"authorization",
    b"proxy-authorization",
    b"cookie",
    b"set-cookie",
    b"x-api-key",
];
const REDACTED: &[u8] = b"[redacted]";

/// A batch of so many bytes is sent before it grows: agents take messages of
/// 4 MiB at least.
const FULL: usize = 1024 * 1024;

/// What a record keeps of the headers, and of one value. A client decides how
/// long they are, and one header may be compressed into a byte.
const HEADERS: usize = 16 * 1024;
const VALUE: usize = 2 * 1024;

/// Room for a record with some headers.
const RECORD: usize = 1024;

/// Records on their way to the agent.
#[derive(Debug, Default)]
pub struct Batch {
    writer: Writer,
    records: u64,
}

/// A record that is not written yet.
struct Record<'a> {
    time: SystemTime,
    kind: RecordKind,
    direction: Direction,
    verdict: Verdict,
    source: &'a End,
    destination: &'a End,
    http: Option<&'a [u8]>,
    latency: Duration,
    request_id: &'a str,
    trace: Option<&'a Trace>,
    rule: Option<&'a RuleRef>,
    reason: Cow<'static, str>,
    proxy_port: u16,
    filter: Option<&'a Mark>,
}

impl Batch {
    /// Number of records.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Whether it is time to send it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.writer.size() >= FULL
    }

    /// The batch as it is sent; `lost` records were not to be had since the
    /// last one.
    #[must_use]
    pub fn finish(mut self, lost: u64) -> Bytes {
        self.writer.number(field::batch::LOST, lost);
        self.writer.finish().into()
    }

    /// The records of a decision, one for each observation point, in the order
    /// of the request.
    pub fn requests(&mut self, exchange: &Exchange) {
        let http = http(exchange, 0, request_headers(exchange));
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
            self.push(&Record {
                verdict,
                http: readable.then_some(&http),
                reason: failure.to_string().into(),
                filter: exchange.filter.get().map(|mark| &**mark),
                ..Record::of(exchange, direction)
            });
            return;
        }
        let answered = exchange.filter.get().filter(|_mark| exchange.answered);
        if let Some(mark) = answered {
            self.answered(exchange, mark, &http);
            return;
        }
        for (direction, decision) in exchange.decisions.iter() {
            let verdict = verdict(decision.allowed);
            self.push(&Record {
                verdict,
                http: Some(&http),
                rule: decision.rule.as_deref(),
                ..Record::of(exchange, direction)
            });
        }
    }

    /// The records of a request that a filter answered: of each point up to
    /// that of the filter, which the request went no further than.
    fn answered(&mut self, exchange: &Exchange, mark: &Mark, http: &[u8]) {
        let decisions = &exchange.decisions;
        if mark.direction == Direction::Ingress
            && let Some(decision) = &decisions.egress
        {
            self.push(&Record {
                verdict: verdict(decision.allowed),
                http: Some(http),
                rule: decision.rule.as_deref(),
                ..Record::of(exchange, Direction::Egress)
            });
        }
        let decision = match mark.direction {
            Direction::Egress => decisions.egress.as_ref(),
            Direction::Ingress => decisions.ingress.as_ref(),
        };
        self.push(&Record {
            verdict: verdict(!mark.denies()),
            http: Some(http),
            rule: decision.and_then(|decision| decision.rule.as_deref()),
            filter: Some(mark),
            ..Record::of(exchange, mark.direction)
        });
    }

    /// The records of a response, on its way back through the observation
    /// points. A request that was refused without a decision has its one
    /// record already.
    pub fn responses(&mut self, exchange: &Exchange) {
        let Some(response) = exchange.response.get() else {
            return;
        };
        if exchange.refused.is_some() {
            return;
        }
        let status = response.status.as_u16();
        let http = http(exchange, status, response_headers(exchange, response));
        let failure = exchange.end.get().and_then(|end| end.failure);
        for (direction, decision) in exchange.decisions.iter().rev() {
            self.push(&Record {
                time: exchange.time + response.latency,
                kind: RecordKind::Response,
                source: &exchange.ends.destination,
                destination: &exchange.ends.source,
                http: Some(&http),
                latency: response.latency,
                rule: decision.rule.as_deref(),
                reason: failure.map_or(Cow::default(), |failure| failure.to_string().into()),
                filter: exchange.filter.get().map(|mark| &**mark),
                ..Record::of(exchange, direction)
            });
        }
    }

    /// The record of a connection that never had a request.
    pub fn refused(&mut self, refused: &RefusedConnection) {
        self.push(&Record {
            time: refused.time,
            kind: RecordKind::Request,
            direction: refused.direction,
            verdict: Verdict::Dropped,
            source: &refused.ends.source,
            destination: &refused.ends.destination,
            // Not even a request: a reader of requests would find no headers
            // in it.
            http: None,
            latency: Duration::ZERO,
            request_id: "",
            trace: None,
            rule: None,
            reason: refused.reason.to_string().into(),
            proxy_port: refused.ends.proxy_port,
            filter: None,
        });
    }

    fn push(&mut self, record: &Record<'_>) {
        self.records += 1;
        self.writer
            .delimited(field::batch::RECORDS, |writer| record.write(writer));
    }
}

impl<'a> Record<'a> {
    /// A request that may pass.
    fn of(exchange: &'a Exchange, direction: Direction) -> Self {
        Self {
            time: exchange.time,
            kind: RecordKind::Request,
            direction,
            verdict: Verdict::Forwarded,
            source: &exchange.ends.source,
            destination: &exchange.ends.destination,
            http: None,
            latency: Duration::ZERO,
            request_id: exchange.request_id.as_str(),
            trace: exchange.trace.as_ref(),
            rule: None,
            reason: Cow::default(),
            proxy_port: exchange.ends.proxy_port,
            filter: None,
        }
    }

    fn write(&self, writer: &mut Writer) {
        use field::record;
        writer.delimited(record::TIME, |writer| timestamp(writer, self.time));
        enumeration(writer, record::KIND, self.kind as i32);
        enumeration(writer, record::DIRECTION, direction(self.direction) as i32);
        enumeration(writer, record::VERDICT, self.verdict as i32);
        writer.delimited(record::SOURCE, |writer| peer(writer, self.source));
        writer.delimited(record::DESTINATION, |writer| peer(writer, self.destination));
        if let Some(http) = self.http {
            writer.delimited(record::HTTP, |writer| writer.put(http));
        }
        writer.number(record::LATENCY_NS, nanos(self.latency));
        writer.text(record::REQUEST_ID, self.request_id);
        if let Some(trace) = self.trace {
            let mut text = [0; 32];
            hex(&trace.trace_id, &mut text);
            writer.delimited(record::TRACE_ID, |writer| writer.put(&text));
        }
        if let Some(rule) = self.rule {
            writer.delimited(record::RULE, |writer| rule_ref(writer, rule));
        }
        writer.text(record::REASON, &self.reason);
        writer.number(record::PROXY_PORT, self.proxy_port.into());
        if let Some(mark) = self.filter {
            writer.text(record::FILTER, &mark.text());
        }
    }
}

fn verdict(allowed: bool) -> Verdict {
    match allowed {
        true => Verdict::Forwarded,
        false => Verdict::Dropped,
    }
}

/// Name and value of a header.
type Field<'a> = (&'a [u8], &'a [u8]);

/// What all records of a request, or of a response, have in common.
fn http(exchange: &Exchange, status: u16, headers: Vec<Field<'_>>) -> Vec<u8> {
    use field::http;
    let mut writer = Writer::with_capacity(RECORD);
    writer.number(http::CODE, status.into());
    writer.text(http::METHOD, exchange.head.method.as_str());
    writer.delimited(http::URL, |writer| {
        for part in url_parts(exchange) {
            writer.put(part.as_bytes());
        }
    });
    writer.text(http::PROTOCOL, protocol(exchange.head.version));
    let room = writer.size() + HEADERS;
    for field in headers {
        if writer.size() > room {
            break;
        }
        writer.delimited(http::HEADERS, |writer| header(writer, field));
    }
    writer.finish()
}

fn url_parts(exchange: &Exchange) -> [&str; 3] {
    let path = exchange.head.uri.path_and_query();
    let path = path.map_or("/", PathAndQuery::as_str);
    ["http://", authority(&exchange.head), path]
}

/// Scheme, authority, path and query of a request.
#[must_use]
pub fn url(exchange: &Exchange) -> String {
    url_parts(exchange).concat()
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

fn request_headers(exchange: &Exchange) -> Vec<Field<'_>> {
    let headers = &exchange.head.headers;
    let mut fields = Vec::with_capacity(headers.len() + 2);
    // A context that the proxy made is not part of what was asked.
    let received = exchange.trace.as_ref().map(|trace| &trace.received);
    if let Some(Some(received)) = received {
        fields.push((TRACEPARENT, received.as_bytes()));
    }
    fields.extend(
        headers
            .iter()
            .map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))
            .filter(|(name, _value)| *name != TRACEPARENT && !LEFT_OUT.contains(name)),
    );
    fields.sort_by_key(|(name, _value)| *name);
    fields.insert(0, (b":scheme", b"http"));
    fields
}

fn response_headers<'a>(exchange: &'a Exchange, response: &'a ResponseHead) -> Vec<Field<'a>> {
    let mut fields = Vec::with_capacity(16);
    fields.push((REQUEST_ID, exchange.request_id.as_str().as_bytes()));
    fields.extend(
        response
            .headers
            .iter()
            .filter(|(name, _value)| *name != REQUEST_ID && !LEFT_OUT.contains(name)),
    );
    fields.sort_by_key(|(name, _value)| *name);
    fields
}

fn header(writer: &mut Writer, (name, value): Field<'_>) {
    writer.delimited(field::header::KEY, |writer| {
        writer.put(name);
        let written = writer.written();
        let start = written.len() - name.len();
        canonical(&mut written[start..]);
    });
    let value = if SECRET.contains(&name) {
        REDACTED
    } else {
        value
    };
    let value = &value[..value.len().min(VALUE)];
    if !value.is_empty() {
        writer.delimited(field::header::VALUE, |writer| text(writer, value));
    }
}

/// Bytes beyond ASCII become visible; nothing can end the line.
fn text(writer: &mut Writer, value: &[u8]) {
    let visible = |byte: &u8| (b' '..=b'~').contains(byte) || *byte == b'\t';
    if value.iter().all(visible) {
        writer.put(value);
    } else {
        writer.put(value.escape_ascii().to_string().as_bytes());
    }
}

/// `x-request-id` as `X-Request-Id`.
fn canonical(name: &mut [u8]) {
    for word in name.split_mut(|byte| *byte == b'-') {
        if let Some(first) = word.first_mut() {
            first.make_ascii_uppercase();
        }
    }
}

fn peer(writer: &mut Writer, end: &End) {
    use field::peer;
    let ip = end.address.ip().to_canonical();
    writer.delimited(peer::IP, |writer| address(writer, ip));
    writer.number(peer::PORT, end.address.port().into());
    writer.number(peer::IDENTITY, end.identity.0.into());
    writer.number(peer::ENDPOINT_ID, end.endpoint.unwrap_or_default().into());
}

/// As `to_string` has it, without the formatter: a request has four of them.
fn address(writer: &mut Writer, address: IpAddr) {
    let IpAddr::V4(address) = address else {
        return writer.put(address.to_string().as_bytes());
    };
    for (index, octet) in address.octets().into_iter().enumerate() {
        if index > 0 {
            writer.put(b".");
        }
        for place in [100, 10] {
            if octet >= place {
                writer.put(&[b'0' + octet / place % 10]);
            }
        }
        writer.put(&[b'0' + octet % 10]);
    }
}

fn rule_ref(writer: &mut Writer, rule: &RuleRef) {
    writer.text(field::rule::KIND, &rule.kind);
    writer.text(field::rule::NAMESPACE, &rule.namespace);
    writer.text(field::rule::NAME, &rule.name);
    writer.text(field::rule::RULE, &rule.rule);
}

fn enumeration(writer: &mut Writer, field: u32, value: i32) {
    // None of ours is negative.
    writer.number(field, u64::try_from(value).unwrap_or_default());
}

fn direction(direction: Direction) -> WireDirection {
    match direction {
        Direction::Ingress => WireDirection::Ingress,
        Direction::Egress => WireDirection::Egress,
    }
}

fn timestamp(writer: &mut Writer, time: SystemTime) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    writer.number(field::timestamp::SECONDS, since.as_secs());
    writer.number(field::timestamp::NANOS, since.subsec_nanos().into());
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
