//! Answers that the proxy gives itself: the one place where a typed error
//! becomes a status.

use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, LOCATION, SERVER};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version};

use super::body::ResponseBody;
use crate::failure::Failure;

const GRPC: &str = "application/grpc";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain");

/// What a client of a denied request reads.
const DENIED: &str = "Access denied\r\n";

/// What a client reads that did not send a whole head in time. Written past
/// the HTTP server, which has no request to answer.
pub const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// gRPC status codes (grpc.io, "Status codes and their use").
mod grpc {
    pub const INVALID_ARGUMENT: u16 = 3;
    pub const DEADLINE_EXCEEDED: u16 = 4;
    pub const PERMISSION_DENIED: u16 = 7;
    pub const RESOURCE_EXHAUSTED: u16 = 8;
    pub const UNIMPLEMENTED: u16 = 12;
    pub const INTERNAL: u16 = 13;
    pub const UNAVAILABLE: u16 = 14;
}

/// What a client needs to know to be answered in its own terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// Wants a gRPC status in place of an HTTP one.
    pub grpc: bool,
    /// HTTP/1, where a connection can be asked to close.
    pub http1: bool,
}

impl Dialect {
    /// The dialect of this request.
    #[must_use]
    pub fn of(head: &Parts) -> Self {
        Self {
            grpc: is_grpc(&head.headers),
            http1: head.version < Version::HTTP_2,
        }
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|kind| match kind.strip_prefix(GRPC) {
            Some(rest) => rest.is_empty() || rest.starts_with(['+', ';']),
            None => false,
        })
}

/// The answer to a request that policy denies.
#[must_use]
pub fn denied(dialect: Dialect, server: Option<&HeaderValue>) -> Response<ResponseBody> {
    answer(
        dialect,
        StatusCode::FORBIDDEN,
        grpc::PERMISSION_DENIED,
        DENIED,
        server,
    )
}

/// Asks for the same thing under the spelling of its path that was judged.
/// 307 keeps method and body.
#[must_use]
pub fn redirect(location: &str, server: Option<&HeaderValue>) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::full(Bytes::new()));
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    if let Ok(location) = HeaderValue::from_str(location) {
        headers.insert(LOCATION, location);
    }
    if let Some(server) = server {
        headers.insert(SERVER, server.clone());
    }
    headers.insert(DATE, now());
    response
}

/// The answer to a request that could not be served.
#[must_use]
pub fn failed(
    failure: Failure,
    dialect: Dialect,
    server: Option<&HeaderValue>,
) -> Response<ResponseBody> {
    let (status, code) = status(failure);
    let text = format!("{failure}\r\n");
    let mut response = answer(dialect, status, code, &text, server);
    if dialect.http1 && closes(failure) {
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Status and gRPC code of a failure.
fn status(failure: Failure) -> (StatusCode, u16) {
    match failure {
        Failure::NotHttp(_) | Failure::Malformed(_) => (StatusCode::BAD_REQUEST, grpc::INTERNAL),
        Failure::HeadTooLarge => (
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            grpc::RESOURCE_EXHAUSTED,
        ),
        Failure::UriTooLong => (StatusCode::URI_TOO_LONG, grpc::INVALID_ARGUMENT),
        Failure::Unsupported(_) => (StatusCode::NOT_IMPLEMENTED, grpc::UNIMPLEMENTED),
        Failure::Connect => (StatusCode::METHOD_NOT_ALLOWED, grpc::UNIMPLEMENTED),
        Failure::RequestTooSlow | Failure::ClientGone => {
            (StatusCode::REQUEST_TIMEOUT, grpc::DEADLINE_EXCEEDED)
        }
        Failure::Strangers | Failure::Private | Failure::Revoked => {
            (StatusCode::FORBIDDEN, grpc::PERMISSION_DENIED)
        }
        Failure::RequestBodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, grpc::RESOURCE_EXHAUSTED),
        Failure::ResponseBodyTooLarge => (StatusCode::BAD_GATEWAY, grpc::RESOURCE_EXHAUSTED),
        Failure::BadResponse(_) | Failure::Truncated => (StatusCode::BAD_GATEWAY, grpc::INTERNAL),
        Failure::UpstreamTimeout | Failure::BodyIdle => {
            (StatusCode::GATEWAY_TIMEOUT, grpc::DEADLINE_EXCEEDED)
        }
        Failure::Overloaded(_)
        | Failure::Unpoliced
        | Failure::ShuttingDown
        | Failure::NoUpstream(_)
        | Failure::ConnectError(_)
        | Failure::ConnectTimeout
        | Failure::NoSourcePort
        | Failure::Filter(_)
        | Failure::Answered
        | Failure::UpstreamReset { .. } => (StatusCode::SERVICE_UNAVAILABLE, grpc::UNAVAILABLE),
    }
}

/// After a request whose framing or progress cannot be relied on, the next
/// bytes of the connection may be anything. And a source that has no memory left
/// gets some back with each connection that it gives up.
fn closes(failure: Failure) -> bool {
    failure == Failure::MEMORY
        || matches!(
            failure,
            Failure::NotHttp(_)
                | Failure::Malformed(_)
                | Failure::HeadTooLarge
                | Failure::UriTooLong
                | Failure::Unsupported(_)
                | Failure::Connect
                | Failure::RequestTooSlow
                | Failure::ClientGone
                | Failure::Unpoliced
                | Failure::Revoked
                | Failure::ShuttingDown
        )
}

fn answer(
    dialect: Dialect,
    status: StatusCode,
    code: u16,
    text: &str,
    server: Option<&HeaderValue>,
) -> Response<ResponseBody> {
    let mut response = if dialect.grpc {
        let mut response = Response::new(ResponseBody::empty());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(GRPC));
        headers.insert(GRPC_STATUS, HeaderValue::from(code));
        if let Ok(message) = HeaderValue::from_str(text.trim_end()) {
            headers.insert(GRPC_MESSAGE, message);
        }
        response
    } else {
        let body = Bytes::copy_from_slice(text.as_bytes());
        let length = HeaderValue::from(body.len());
        let mut response = Response::new(ResponseBody::full(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_LENGTH, length);
        headers.insert(CONTENT_TYPE, TEXT);
        response
    };
    if let Some(server) = server {
        response.headers_mut().insert(SERVER, server.clone());
    }
    response.headers_mut().insert(DATE, now());
    response
}

/// Completes the head of an answer that a filter gave or changed.
pub fn complete(headers: &mut HeaderMap, server: Option<&HeaderValue>) {
    if let Some(server) = server {
        headers.insert(SERVER, server.clone());
    }
    if !headers.contains_key(DATE) {
        headers.insert(DATE, now());
    }
}

fn now() -> HeaderValue {
    HeaderValue::from_str(&httpdate::fmt_http_date(SystemTime::now()))
        .unwrap_or_else(|_never| HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, StatusCode};
    use http_body::Body;

    use super::{Dialect, denied, failed, is_grpc};
    use crate::failure::Failure;

    const PLAIN: Dialect = Dialect {
        grpc: false,
        http1: true,
    };
    const GRPC: Dialect = Dialect {
        grpc: true,
        http1: false,
    };

    #[test]
    fn a_denied_request_reads_access_denied() {
        let server = HeaderValue::from_static("envoy");
        let response = denied(PLAIN, Some(&server));
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert_eq!(response.headers()["content-type"], "text/plain");
        assert_eq!(response.headers()["server"], "envoy");
        assert_eq!(response.headers()["content-length"], "15");
        assert_eq!(response.body().size_hint().exact(), Some(15));
    }

    #[test]
    fn grpc_clients_get_a_grpc_status() {
        let response = denied(GRPC, None);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "7");
        assert_eq!(response.headers()["grpc-message"], "Access denied");
        assert!(response.body().is_end_stream());
        let response = failed(Failure::ConnectTimeout, GRPC, None);
        assert_eq!(response.headers()["grpc-status"], "14");
    }

    #[test]
    fn the_connection_closes_when_its_framing_is_in_doubt() {
        let response = failed(Failure::Malformed("two lengths"), PLAIN, None);
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(response.headers()["connection"], "close");
        let response = failed(Failure::ConnectTimeout, PLAIN, None);
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(!response.headers().contains_key("connection"));
    }

    #[test]
    fn content_types_that_only_look_like_grpc_are_not() {
        for (kind, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("text/plain", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("content-type", HeaderValue::from_static(kind));
            assert_eq!(is_grpc(&headers), expected, "{kind}");
        }
    }
}
