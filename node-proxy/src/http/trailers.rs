//! Fields that may not come after a body.
//!
//! Servers that merge trailers into the headers would take such a field for a
//! part of the head, which policy has judged and the proxy has cleaned without
//! it.

use http::{HeaderMap, HeaderName};

/// Decide framing, routing or who asks: they lose their meaning after the body
/// (RFC 9110, section 6.5.1). A chunked body that has one is refused, since
/// nobody sends it by accident.
const FRAMING: [&str; 8] = [
    "content-length",
    "transfer-encoding",
    "host",
    "trailer",
    "connection",
    "te",
    "authorization",
    "expect",
];

/// Say who asks and where from, what is really asked for, or how the content is
/// to be read.
const MISLEADING: [&str; 25] = [
    "b3",
    "cf-connecting-ip",
    "content-encoding",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "forwarded",
    "keep-alive",
    "set-cookie",
    "traceparent",
    "tracestate",
    "true-client-ip",
    "upgrade",
    "x-api-key",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-forwarded",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-real-ip",
    "x-request-id",
    "x-rewrite-url",
];

/// Families of the same.
const PREFIXES: [&str; 4] = ["proxy-", "x-b3-", "x-envoy-", "x-forwarded-"];

/// Whether a chunked body with a trailer of this name is malformed.
pub(crate) fn is_framing(name: &[u8]) -> bool {
    FRAMING
        .iter()
        .any(|one| name.eq_ignore_ascii_case(one.as_bytes()))
}

/// Removes what may not come after a body.
pub fn sanitise(trailers: &mut HeaderMap) {
    let doomed: Vec<HeaderName> = trailers.keys().filter(forbidden).cloned().collect();
    for name in &doomed {
        trailers.remove(name);
    }
}

fn forbidden(name: &&HeaderName) -> bool {
    // For some servers `_` and `-` are the same.
    let name = name.as_str().replace('_', "-");
    FRAMING.contains(&&*name)
        || MISLEADING.contains(&&*name)
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::{is_framing, sanitise};

    #[test]
    fn a_trailer_is_never_taken_for_a_part_of_the_head() {
        let kept = ["grpc-status", "x-checksum", "digest", "server-timing"];
        let removed = [
            "authorization",
            "content-length",
            "cookie",
            "x-envoy-internal",
            "x-forwarded-for",
            "x-http-method-override",
            "x-original-url",
            "x-request-id",
            "x_request_id",
            "proxy-authorization",
        ];
        let mut trailers = HeaderMap::new();
        for name in kept.into_iter().chain(removed) {
            trailers.insert(name, HeaderValue::from_static("1"));
        }
        sanitise(&mut trailers);
        let left: Vec<_> = trailers.keys().map(|name| name.as_str()).collect();
        assert_eq!(left, kept);
    }

    #[test]
    fn framing_is_recognised_however_it_is_written() {
        assert!(is_framing(b"Content-Length"));
        assert!(!is_framing(b"x-request-id"));
    }
}
