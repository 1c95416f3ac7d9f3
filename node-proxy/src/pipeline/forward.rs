//! The last changes to a request before it leaves, and to its response before
//! the client reads it.

use std::rc::Rc;
use std::time::{Duration, Instant};

use http::header::{CONNECTION, HOST, SERVER};
use http::request::Parts;
use http::response;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri, Version};
use hyper::upgrade::OnUpgrade;

use super::headers;
use super::record::Recorder;
use super::request_id;
use super::trace::Trace;
use super::tunnel;
use crate::accept::connection::Connection;
use crate::failure::Failure;
use crate::http::body::ResponseBody;
use crate::memory;
use crate::telemetry::exchange::{Fields, ResponseHead};
use crate::upstream::UpstreamBody;
use crate::upstream::target::{Protocol, Target};

/// A head above this many bytes is not taken for a source that is short of
/// memory.
const LARGE: usize = 4 * 1024;

const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

/// Makes a judged request ready to be sent to `target`. Nothing that policy
/// looks at changes any more.
pub fn prepare(head: &mut Parts, target: &Target, trace: Option<&Trace>, spans: bool) {
    headers::forward(&mut head.headers, &head.method);
    if let Some(trace) = trace {
        trace.forward(&mut head.headers, spans);
    }
    match target.protocol {
        Protocol::Http1 => host(head, target),
        Protocol::Http2 => absolute(head, target),
    }
}

/// HTTP/1.1 names the host in a header.
fn host(head: &mut Parts, target: &Target) {
    if headers::has_host(&head.headers) {
        return;
    }
    let authority = head.uri.authority().map(Authority::as_str);
    let value = authority.map_or_else(
        // HTTP/1.0 need not say; the upstream is asked in 1.1 and must know.
        || HeaderValue::from_str(&target.address.to_string()),
        HeaderValue::from_str,
    );
    if let Ok(value) = value {
        head.headers.insert(HOST, value);
    }
}

/// HTTP/2 names it in the request's target.
fn absolute(head: &mut Parts, target: &Target) {
    let host = head.headers.remove(HOST);
    if head.uri.authority().is_some() && head.uri.scheme().is_some() {
        return;
    }
    let authority = head.uri.authority().cloned().or_else(|| {
        host.and_then(|host| Authority::try_from(host.as_bytes()).ok())
            .or_else(|| Authority::try_from(target.address.to_string()).ok())
    });
    let mut parts = head.uri.clone().into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = authority;
    if let Ok(uri) = Uri::from_parts(parts) {
        head.uri = uri;
    }
}

/// Passes an upstream's response on.
///
/// # Errors
/// [`Failure::BadResponse`] when the upstream switches protocols unasked.
pub fn response(
    connection: &Rc<Connection>,
    response: Response<UpstreamBody>,
    recorder: Recorder,
    upgraded: Option<OnUpgrade>,
    server: Option<&HeaderValue>,
) -> Result<Response<ResponseBody>, (Failure, Recorder)> {
    let (mut head, body) = response.into_parts();
    let switching = head.status == StatusCode::SWITCHING_PROTOCOLS;
    let asked = headers::asks_upgrade(&recorder.exchange().head.headers);
    if switching && !asked {
        return Err((Failure::BadResponse("switched protocols unasked"), recorder));
    }
    headers::sanitise_response(&mut head.headers, switching);
    let latency = received(&mut head.headers, &recorder);
    if let Err(failure) = hand_on(connection, &mut head, &recorder, latency, server) {
        return Err((failure, recorder));
    }
    if !switching {
        let body = ResponseBody::upstream(body).recorded(recorder);
        return Ok(Response::from_parts(head, body));
    }
    match (upgraded, body.into_tunnel()) {
        (Some(client), Some(upstream)) => {
            tunnel::start(connection, client, upstream, recorder);
            Ok(Response::from_parts(head, ResponseBody::empty()))
        }
        _ => Err((Failure::BadResponse("switched protocols"), recorder)),
    }
}

/// Says in the head of an upstream's answer how long it took.
pub fn received(headers: &mut HeaderMap, recorder: &Recorder) -> Duration {
    let latency = Instant::now().duration_since(recorder.exchange().started);
    headers.insert(SERVICE_TIME, service_time(latency));
    latency
}

/// The head of an upstream's answer goes to the client as it is now: recorded,
/// and in what the client speaks.
///
/// # Errors
/// [`Failure::MEMORY`] when its source has nothing left for a large one.
pub fn hand_on(
    connection: &Connection,
    head: &mut response::Parts,
    recorder: &Recorder,
    latency: Duration,
    server: Option<&HeaderValue>,
) -> Result<(), Failure> {
    let fields = memory::Fields::of(&head.headers);
    if fields.text > LARGE && connection.account().is_full() {
        return Err(Failure::MEMORY);
    }
    recorder.running().answer(fields);
    record_head(recorder, head.status, &head.headers, latency);
    recorder.running().request.answered(connection.now());
    if let Some(server) = server {
        head.headers.insert(SERVER, server.clone());
    }
    let switching = head.status == StatusCode::SWITCHING_PROTOCOLS;
    if !switching && headers::asks_upgrade(&recorder.exchange().head.headers) {
        close_refused_upgrade(&mut head.headers);
    }
    // The server writes what the client speaks.
    head.version = Version::HTTP_11;
    Ok(())
}

/// An answer of the proxy's own.
#[must_use]
pub fn own(mut response: Response<ResponseBody>, recorder: Recorder) -> Response<ResponseBody> {
    if headers::asks_upgrade(&recorder.exchange().head.headers) {
        close_refused_upgrade(response.headers_mut());
    }
    let mut logged = response.headers().clone();
    // About the proxy, not about the exchange.
    logged.remove(SERVER);
    let latency = Instant::now().duration_since(recorder.exchange().started);
    recorder.running().answer(memory::Fields::of(&logged));
    record_head(&recorder, response.status(), &logged, latency);
    // What the client may quote to whoever looks for the reason.
    let id = recorder.exchange().request_id.header();
    response.headers_mut().insert(request_id::NAME, id);
    response.map(|body| body.recorded(recorder))
}

/// A client that asked to switch protocols may have sent bytes of the new one
/// already: after any other answer than a 101 they must not be read as a
/// request.
fn close_refused_upgrade(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
}

/// Whole milliseconds. The values of quick upstreams are at hand.
fn service_time(latency: Duration) -> HeaderValue {
    const QUICK: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let milliseconds = latency.as_millis();
    let quick = usize::try_from(milliseconds)
        .ok()
        .and_then(|n| QUICK.get(n));
    match quick {
        Some(text) => HeaderValue::from_static(text),
        None => HeaderValue::from(u64::try_from(milliseconds).unwrap_or(u64::MAX)),
    }
}

fn record_head(recorder: &Recorder, status: StatusCode, headers: &HeaderMap, latency: Duration) {
    let head = ResponseHead {
        status,
        headers: Fields::of(headers),
        latency,
    };
    // Set once: an exchange has one response.
    let _already = recorder.exchange().response.set(head);
}
