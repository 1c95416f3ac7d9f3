//! Which requests may switch their connection to another protocol.
//!
//! Behind a switch nothing is judged any more, so it takes a protocol that is
//! known to be no way round policy. The strict reader must know of a switch
//! from the bytes, the pipeline from the headers: both ask here, since a
//! connection of which they think differently would stand still.

use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderName, Version};

use super::decimal;

/// What a connection may always be switched to.
const WEBSOCKET: &str = "websocket";

/// What a head says about switching protocols.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Wish<'a> {
    protocol: Option<&'a [u8]>,
    lines: usize,
    announced: bool,
}

impl<'a> Wish<'a> {
    /// The head has a line `upgrade` of this value.
    pub(crate) fn upgrade(&mut self, value: &'a [u8]) {
        self.protocol = Some(value);
        self.lines += 1;
    }

    /// The head has a line `connection` of this value. Without `upgrade` in
    /// one of them the wish is to be ignored (RFC 9110, section 7.8).
    pub(crate) fn connection(&mut self, value: &[u8]) {
        self.announced |= value
            .split(|byte| *byte == b',')
            .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
    }

    /// Whether the wish may be passed on: of one protocol, which is WebSocket
    /// or one of `others`. HTTP/1.0 knows no upgrade, and behind a body it
    /// would be a guess where the other protocol begins.
    pub(crate) fn is_granted(&self, others: &[Box<str>], http11: bool, body: bool) -> bool {
        let Some(protocol) = self.protocol else {
            return false;
        };
        let named = |name: &str| protocol.trim_ascii().eq_ignore_ascii_case(name.as_bytes());
        let known = named(WEBSOCKET) || others.iter().any(|other| named(other));
        known && self.lines == 1 && self.announced && http11 && !body
    }
}

/// Whether the request of this head may switch its connection to WebSocket or
/// one of `others`.
pub fn is_granted(head: &Parts, others: &[Box<str>]) -> bool {
    let mut wish = Wish::default();
    let lines = |name: &HeaderName| head.headers.get_all(name).into_iter();
    lines(&UPGRADE).for_each(|value| wish.upgrade(value.as_bytes()));
    lines(&CONNECTION).for_each(|value| wish.connection(value.as_bytes()));
    let length = |value: &http::HeaderValue| decimal(value.as_bytes()).unwrap_or(u64::MAX);
    let body = head.headers.contains_key(TRANSFER_ENCODING)
        || lines(&CONTENT_LENGTH).any(|value| length(value) > 0);
    wish.is_granted(others, head.version == Version::HTTP_11, body)
}

#[cfg(test)]
mod tests {
    use http::{Request, Version};

    use super::is_granted;

    fn granted(fields: &[(&'static str, &'static str)], version: Version) -> bool {
        let mut request = Request::get("/").version(version);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).expect("valid").into_parts();
        is_granted(&head, &["imap".into()])
    }

    #[test]
    fn a_known_protocol_that_is_announced_is_granted() {
        for fields in [
            [("connection", "Upgrade"), ("upgrade", "WebSocket")],
            [("connection", "keep-alive, upgrade"), ("upgrade", "imap")],
        ] {
            assert!(granted(&fields, Version::HTTP_11), "{fields:?}");
            assert!(!granted(&fields, Version::HTTP_10), "{fields:?}");
            assert!(!granted(&fields, Version::HTTP_2), "{fields:?}");
        }
    }

    #[test]
    fn everything_else_is_ignored() {
        let announced = ("connection", "upgrade");
        for fields in [
            vec![("upgrade", "websocket")],
            vec![("upgrade", "websocket"), ("connection", "keep-alive")],
            vec![announced, ("upgrade", "h2c")],
            vec![announced, ("upgrade", "TLS/1.0, HTTP/1.1")],
            vec![announced, ("upgrade", "websocket, h2c")],
            vec![announced, ("upgrade", "")],
            vec![announced, ("upgrade", "websocket"), ("upgrade", "imap")],
            vec![announced, ("upgrade", "websocket"), ("content-length", "1")],
            vec![
                announced,
                ("upgrade", "websocket"),
                ("transfer-encoding", "chunked"),
            ],
        ] {
            assert!(!granted(&fields, Version::HTTP_11), "{fields:?}");
        }
        let empty = [announced, ("upgrade", "websocket"), ("content-length", "0")];
        assert!(granted(&empty, Version::HTTP_11));
    }
}
