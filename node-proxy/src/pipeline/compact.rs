//! A request's head in memory of its own.
//!
//! The values of a head are slices of the buffer that the server read it into.
//! A record keeps the head until telemetry has looked at it, and would keep
//! those 8 KiB with it: the server would need a new buffer for every request,
//! and a full queue of records would hold tens of megabytes.

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};

/// Copies what `head` refers to into one piece of memory of just that size.
pub fn compact(head: &mut Parts) {
    let path = head.uri.path_and_query().map_or("", PathAndQuery::as_str);
    let values = head.headers.values().map(HeaderValue::len);
    let mut text = BytesMut::with_capacity(path.len() + values.sum::<usize>());
    text.extend_from_slice(path.as_bytes());
    for value in head.headers.values() {
        text.extend_from_slice(value.as_bytes());
    }
    let mut text = text.freeze();
    let path = text.split_to(path.len());
    for value in head.headers.values_mut() {
        let sensitive = value.is_sensitive();
        // What was a value a moment ago is one still.
        if let Ok(copy) = HeaderValue::from_maybe_shared(text.split_to(value.len())) {
            *value = copy;
            value.set_sensitive(sensitive);
        }
    }
    replace_path(&mut head.uri, path);
}

/// Only for targets that are nothing but a path: in absolute form, which
/// clients of proxies send, the target is one piece with its authority.
fn replace_path(uri: &mut Uri, path: Bytes) {
    if uri.authority().is_none()
        && let Ok(copy) = PathAndQuery::from_maybe_shared(path)
    {
        *uri = Uri::from(copy);
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::compact;

    #[test]
    fn a_head_says_the_same_as_before() {
        for uri in ["/a?b=c", "*", "http://a/b?c", "/"] {
            let request = Request::post(uri)
                .header("host", "a")
                .header("cookie", "one")
                .header("cookie", "two")
                .header("empty", "");
            let (before, ()) = request.body(()).expect("valid").into_parts();
            let mut after = before.clone();
            compact(&mut after);
            assert_eq!(after.uri, before.uri);
            assert_eq!(after.headers, before.headers);
        }
    }
}
