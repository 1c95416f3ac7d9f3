//! Between the host's own words and those of the contract.

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::uri::Authority;
use http::{HeaderMap, Method, StatusCode};

use super::bindings::weft::filter::types as wit;
use crate::exchange::{Attributes, Direction, Exchange, Peer, Target};
use crate::fault::Fault;
use crate::headers::{self, Refusal};
use crate::limits::{MAX_REASON, MAX_TEXT};
use crate::log::one_line_of;
use crate::shared::kv::{KvEntry, KvError};
use crate::shared::metrics::MetricKind;
use crate::types::{
    Event, FetchError, FetchRequest, Fields, Interests, Labels, Level, Manifest, Reply, Step,
};

pub(super) fn interests(interests: wit::Interests) -> Interests {
    let wants = |interest| interests.contains(interest);
    Interests {
        request_headers: wants(wit::Interests::REQUEST_HEADERS),
        request_body: wants(wit::Interests::REQUEST_BODY),
        request_trailers: wants(wit::Interests::REQUEST_TRAILERS),
        response_headers: wants(wit::Interests::RESPONSE_HEADERS),
        response_body: wants(wit::Interests::RESPONSE_BODY),
        response_trailers: wants(wit::Interests::RESPONSE_TRAILERS),
    }
}

pub(super) fn manifest(manifest: wit::Manifest) -> Manifest {
    Manifest {
        interests: interests(manifest.interests),
        name: manifest.name,
        version: manifest.version,
        sdk: manifest.sdk,
        config_schema: manifest.config_schema,
    }
}

/// Shows an event to `call`, in the form of the contract: bodies are not copied for it.
pub(super) fn with_event<R>(event: &Event, call: impl FnOnce(wit::Event<'_>) -> R) -> R {
    match event {
        Event::RequestHeaders { end } => call(wit::Event::RequestHeaders(*end)),
        Event::RequestBody { data, end } => {
            call(wit::Event::RequestBody(wit::Chunk { data, end: *end }))
        }
        Event::RequestTrailers => call(wit::Event::RequestTrailers),
        Event::ResponseHeaders { end } => call(wit::Event::ResponseHeaders(*end)),
        Event::ResponseBody { data, end } => {
            call(wit::Event::ResponseBody(wit::Chunk { data, end: *end }))
        }
        Event::ResponseTrailers => call(wit::Event::ResponseTrailers),
        Event::Timer { id } => call(wit::Event::Timer(*id)),
        Event::FetchDone { id, result } => match result {
            Ok(response) => {
                let headers = borrowed(&response.headers);
                let trailers = borrowed(&response.trailers);
                let result = Ok(wit::FetchResponse {
                    status: response.status.as_u16(),
                    headers: &headers,
                    body: &response.body,
                    trailers: &trailers,
                });
                call(wit::Event::FetchDone(wit::Fetched { id: *id, result }))
            }
            Err(error) => {
                let result = Err(match error {
                    FetchError::Denied => wit::FetchErrorParam::Denied,
                    FetchError::NoEndpoint => wit::FetchErrorParam::NoEndpoint,
                    FetchError::Timeout => wit::FetchErrorParam::Timeout,
                    FetchError::TooLarge => wit::FetchErrorParam::TooLarge,
                    FetchError::Overloaded => wit::FetchErrorParam::Overloaded,
                    FetchError::Invalid(why) => wit::FetchErrorParam::Invalid(why),
                    FetchError::Failed(why) => wit::FetchErrorParam::Failed(why),
                });
                call(wit::Event::FetchDone(wit::Fetched { id: *id, result }))
            }
        },
    }
}

fn borrowed(headers: &HeaderMap) -> Vec<wit::HeaderParam<'_>> {
    headers
        .iter()
        .map(|(name, value)| wit::HeaderParam {
            name: name.as_str().as_bytes(),
            value: value.as_bytes(),
        })
        .collect()
}

pub(super) fn step(step: wit::Step) -> Result<Step, Fault> {
    Ok(match step {
        wit::Step::Pending => Step::Pending,
        wit::Step::More => Step::More,
        wit::Step::Proceed => Step::Proceed,
        wit::Step::Emit(bytes) => Step::Emit(bytes.into()),
        wit::Step::Pass => Step::Pass,
        wit::Step::Reply(reply) => Step::Reply(Box::new(self::reply(reply)?)),
        wit::Step::Fail(why) => return Err(Fault::Undecided(one_line_of(&why, MAX_REASON))),
    })
}

fn reply(reply: wit::Reply) -> Result<Reply, Fault> {
    let status = StatusCode::from_u16(reply.status)
        .ok()
        .filter(|status| (200..600).contains(&status.as_u16()))
        .ok_or_else(|| {
            Fault::Answer(format!(
                "a reply of status {}, which is not between 200 and 599",
                reply.status
            ))
        })?;
    let headers = collect(&reply.headers)
        .map_err(|error| Fault::Answer(format!("a reply whose headers cannot be sent: {error}")))?;
    Ok(Reply {
        status,
        headers,
        body: reply.body.into(),
        reason: one_line_of(&reply.reason, MAX_REASON),
    })
}

fn collect(list: &[wit::HeaderResult]) -> Result<HeaderMap, Refusal> {
    headers::collect(
        list.iter()
            .map(|header| (header.name.as_slice(), header.value.as_slice())),
    )
}

pub(super) fn fetch_request(request: wit::FetchRequest) -> Result<FetchRequest, FetchError> {
    let invalid = |what: &str| FetchError::Invalid(what.to_owned());
    let texts = [&request.service, &request.path, &request.method];
    if texts.iter().any(|text| text.len() > MAX_TEXT) {
        return Err(FetchError::Invalid(format!(
            "service, path and method have at most {MAX_TEXT} bytes"
        )));
    }
    if !request.path.starts_with('/') || request.path.bytes().any(|b| b <= b' ' || b == 0x7f) {
        return Err(invalid("the path must begin with / and have no spaces"));
    }
    let method = Method::from_bytes(request.method.as_bytes())
        .ok()
        .filter(|method| *method != Method::CONNECT)
        .ok_or_else(|| invalid("the method is not allowed"))?;
    let map = |what: &str, list: &[wit::HeaderResult]| {
        collect(list).map_err(|error| FetchError::Invalid(format!("{what}: {error}")))
    };
    let authority = authority(&request.headers)?;
    let mut headers = map("headers", &request.headers)?;
    // The one header about the connection that gRPC asks for.
    let te = |header: &wit::HeaderResult| {
        named(header, header::TE.as_str()) && header.value.eq_ignore_ascii_case(b"trailers")
    };
    if request.http2 && request.headers.iter().any(te) {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    Ok(FetchRequest {
        headers,
        trailers: map("trailers", &request.trailers)?,
        service: request.service,
        method,
        authority,
        path: request.path,
        body: Bytes::from(request.body),
        http2: request.http2,
        timeout: Duration::from_millis(u64::from(request.timeout_ms)),
    })
}

fn named(header: &wit::HeaderResult, name: &str) -> bool {
    header.name.eq_ignore_ascii_case(name.as_bytes())
}

/// The host that a fetch is to name, if the filter gave one.
fn authority(headers: &[wit::HeaderResult]) -> Result<Option<String>, FetchError> {
    let invalid = |why: &str| FetchError::Invalid(format!("headers: host {why}"));
    let mut hosts = headers
        .iter()
        .filter(|one| named(one, header::HOST.as_str()));
    let Some(host) = hosts.next() else {
        return Ok(None);
    };
    if hosts.next().is_some() {
        return Err(invalid("is there twice"));
    }
    let text = std::str::from_utf8(&host.value).ok();
    let known = text.filter(|text| !text.contains('@') && text.parse::<Authority>().is_ok());
    match known {
        Some(host) => Ok(Some(host.to_owned())),
        None => Err(invalid("must be a name, or a name and a port")),
    }
}

pub(super) fn fetch_error(error: FetchError) -> wit::FetchErrorResult {
    match error {
        FetchError::Denied => wit::FetchErrorResult::Denied,
        FetchError::NoEndpoint => wit::FetchErrorResult::NoEndpoint,
        FetchError::Timeout => wit::FetchErrorResult::Timeout,
        FetchError::TooLarge => wit::FetchErrorResult::TooLarge,
        FetchError::Overloaded => wit::FetchErrorResult::Overloaded,
        FetchError::Invalid(why) => wit::FetchErrorResult::Invalid(why),
        FetchError::Failed(why) => wit::FetchErrorResult::Failed(why),
    }
}

pub(super) const fn fields(of: wit::Fields) -> Fields {
    match of {
        wit::Fields::RequestHeaders => Fields::RequestHeaders,
        wit::Fields::RequestTrailers => Fields::RequestTrailers,
        wit::Fields::ResponseHeaders => Fields::ResponseHeaders,
        wit::Fields::ResponseTrailers => Fields::ResponseTrailers,
    }
}

pub(super) const fn level(level: wit::Level) -> Level {
    match level {
        wit::Level::Trace => Level::Trace,
        wit::Level::Debug => Level::Debug,
        wit::Level::Info => Level::Info,
        wit::Level::Warn => Level::Warn,
        wit::Level::Error => Level::Error,
    }
}

pub(super) const fn metric_kind(kind: wit::MetricKind) -> MetricKind {
    match kind {
        wit::MetricKind::Counter => MetricKind::Counter,
        wit::MetricKind::Gauge => MetricKind::Gauge,
        wit::MetricKind::Histogram => MetricKind::Histogram,
    }
}

pub(super) fn labels(labels: Vec<wit::Label>) -> Labels {
    labels
        .into_iter()
        .map(|label| (label.key, label.value))
        .collect()
}

pub(super) fn target(part: &str) -> Option<Target> {
    match part {
        "method" => Some(Target::Method),
        "authority" => Some(Target::Authority),
        "path" => Some(Target::Path),
        _ => None,
    }
}

pub(super) fn attributes(exchange: Option<&dyn Exchange>) -> wit::Attributes {
    let known = exchange.map_or_else(Attributes::default, Exchange::attributes);
    let target = |part| exchange.map_or_else(String::new, |e| e.target(part).to_owned());
    wit::Attributes {
        request_id: known.request_id,
        trace_id: known.trace_id,
        direction: match known.direction {
            Direction::Egress => wit::Direction::Egress,
            Direction::Ingress => wit::Direction::Ingress,
        },
        source: peer(known.source),
        destination: peer(known.destination),
        verdict: known.verdict,
        rule: known.rule,
        route: known.route,
        method: target(Target::Method),
        scheme: target(Target::Scheme),
        authority: target(Target::Authority),
        path: target(Target::Path),
        http_version: known.http_version,
    }
}

fn peer(peer: Peer) -> wit::Peer {
    wit::Peer {
        address: peer.address,
        port: peer.port,
        identity: peer.identity,
        namespace: peer.namespace,
        pod: peer.pod,
        labels: peer
            .labels
            .into_iter()
            .map(|(key, value)| wit::Label { key, value })
            .collect(),
    }
}

pub(super) fn kv_entry(entry: KvEntry) -> wit::KvEntry {
    wit::KvEntry {
        value: entry.value.to_vec(),
        version: entry.version,
    }
}

pub(super) fn kv_error(error: KvError) -> wit::KvError {
    match error {
        KvError::Conflict(version) => wit::KvError::Conflict(version),
        KvError::Quota => wit::KvError::Quota,
        KvError::Invalid(why) => wit::KvError::Invalid(why),
    }
}

#[cfg(test)]
mod tests {
    use super::{FetchError, FetchRequest, fetch_request, header, wit};

    fn fetch(headers: &[(&str, &str)], http2: bool) -> Result<FetchRequest, FetchError> {
        let headers = headers.iter().map(|(name, value)| wit::HeaderResult {
            name: (*name).into(),
            value: (*value).into(),
        });
        fetch_request(wit::FetchRequest {
            service: "authz.default:80".into(),
            method: "POST".into(),
            path: "/".into(),
            headers: headers.collect(),
            body: Vec::new(),
            trailers: Vec::new(),
            http2,
            timeout_ms: 1,
        })
    }

    #[test]
    fn the_host_of_a_fetch_is_its_authority() {
        let named = fetch(&[("Host", "issuer.example:8080"), ("a", "b")], false).expect("valid");
        assert_eq!(named.authority.as_deref(), Some("issuer.example:8080"));
        assert!(!named.headers.contains_key(header::HOST));
        assert_eq!(fetch(&[], false).expect("valid").authority, None);
        for host in ["", "a b", "user@a", "a/b"] {
            let refused = fetch(&[("host", host)], false).expect_err(host);
            assert!(matches!(refused, FetchError::Invalid(why) if why.contains("host")));
        }
        assert!(fetch(&[("host", "a"), ("host", "b")], false).is_err());
    }

    #[test]
    fn only_what_grpc_asks_of_te_is_kept() {
        let te = |value, http2| {
            let fetch = fetch(&[("te", value)], http2).expect("valid");
            fetch.headers.get(header::TE).cloned()
        };
        assert_eq!(te("trailers", true).expect("kept"), "trailers");
        assert_eq!(te("trailers", false), None);
        assert_eq!(te("gzip", true), None);
    }
}
