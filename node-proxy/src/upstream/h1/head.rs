//! Reading a response's head, and how its body will end (RFC 9112, section 6.3).

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use httparse::{ParserConfig, Status};
use weft_core::snapshot::MOST_HEADERS;

use crate::failure::Failure;

/// Bounds of a response's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) head_bytes: usize,
    pub(super) headers: usize,
}

/// What of the request decides how its response is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    /// A response to `HEAD` has no body whatever it says.
    pub(super) head: bool,
    /// Only who asked for an upgrade may be switched to another protocol.
    pub(super) upgrade: bool,
}

impl Asked {
    pub(super) fn by(request: &http::request::Parts) -> Self {
        Self {
            head: request.method == Method::HEAD,
            upgrade: request.headers.contains_key(http::header::UPGRADE),
        }
    }
}

/// How the end of a response's body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Empty,
    Length(u64),
    Chunked,
    /// When the upstream closes.
    Close,
    /// It is no body: the connection speaks another protocol from here on.
    Tunnel,
}

/// The head of a final response, or of a switch of protocols.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) ending: Ending,
    /// The connection may serve another request afterwards.
    pub(super) keep_alive: bool,
}

/// Takes a head off `input`. `None` while it is not complete; interim
/// responses (1xx) are passed over.
///
/// # Errors
/// [`Failure::BadResponse`] for anything that two readers could read in two
/// ways.
pub(super) fn parse(
    input: &mut BytesMut,
    asked: Asked,
    limits: Limits,
) -> Result<Option<Head>, Failure> {
    loop {
        // Room for what settings may allow at most; `limits` has what they do.
        let mut fields = [MaybeUninit::uninit(); MOST_HEADERS];
        let mut response = httparse::Response::new(&mut []);
        let parsed = ParserConfig::default()
            .parse_response_with_uninit_headers(&mut response, input, &mut fields)
            .map_err(|error| match error {
                httparse::Error::TooManyHeaders => Failure::BadResponse("too many headers"),
                _ => Failure::BadResponse("head"),
            })?;
        let Status::Complete(length) = parsed else {
            return if input.len() > limits.head_bytes {
                Err(Failure::BadResponse("head too large"))
            } else {
                Ok(None)
            };
        };
        if length > limits.head_bytes || response.headers.len() > limits.headers {
            return Err(Failure::BadResponse("head too large"));
        }
        let status = response
            .code
            .and_then(|code| StatusCode::from_u16(code).ok())
            .ok_or(Failure::BadResponse("status"))?;
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            input.advance(length);
            continue;
        }
        // One copy of the head, which all its values share: the buffer stays
        // where it is for the body and the next response.
        let text = Bytes::copy_from_slice(&input[..length]);
        let fields = Fields::read(response.headers, input, &text)?;
        let http_1_0 = response.version == Some(0);
        input.advance(length);
        return head(status, fields, http_1_0, asked).map(Some);
    }
}

/// Room for what the proxy adds to a response.
const ADDED: usize = 2;

/// The fields of a response, and what those among them say that are about its
/// framing and its connection.
struct Fields {
    map: HeaderMap,
    codings: usize,
    chunked: bool,
    length: Option<Bytes>,
    lengths_differ: bool,
    close: bool,
    keep_alive: bool,
}

impl Fields {
    fn read(
        fields: &[httparse::Header<'_>],
        input: &BytesMut,
        text: &Bytes,
    ) -> Result<Self, Failure> {
        let mut read = Self {
            map: HeaderMap::with_capacity(fields.len() + ADDED),
            codings: 0,
            chunked: false,
            length: None,
            lengths_differ: false,
            close: false,
            keep_alive: false,
        };
        for field in fields {
            let name = HeaderName::from_bytes(field.name.as_bytes())
                .map_err(|_error| Failure::BadResponse("header name"))?;
            let start = field.value.as_ptr().addr() - input.as_ptr().addr();
            let value = text.slice(start..start + field.value.len());
            if read.note(&name, &value) {
                let value = HeaderValue::from_maybe_shared(value)
                    .map_err(|_error| Failure::BadResponse("header value"))?;
                read.map.append(name, value);
            }
        }
        Ok(read)
    }

    /// Takes in what a field means to the proxy; `false` if it ends here.
    fn note(&mut self, name: &HeaderName, value: &Bytes) -> bool {
        if *name == TRANSFER_ENCODING {
            self.codings += 1;
            self.chunked = value.eq_ignore_ascii_case(b"chunked");
            return false;
        }
        if *name == CONTENT_LENGTH {
            match &self.length {
                // The same length twice is harmless in a response: this proxy
                // frames it anew. Two lengths are not.
                Some(first) => self.lengths_differ |= first != value,
                None => self.length = Some(value.clone()),
            }
        } else if *name == CONNECTION {
            let mut other = false;
            for option in value.split(|byte| *byte == b',') {
                let option = option.trim_ascii();
                let close = option.eq_ignore_ascii_case(b"close");
                let keep_alive = option.eq_ignore_ascii_case(b"keep-alive");
                self.close |= close;
                self.keep_alive |= keep_alive;
                other |= !close && !keep_alive;
            }
            // The rest names headers that end here, or an upgrade.
            return other;
        }
        true
    }

    fn transfer_encoding(&self) -> Result<bool, Failure> {
        match (self.codings, self.chunked) {
            (0, _) => Ok(false),
            (1, true) => Ok(true),
            _ => Err(Failure::BadResponse("transfer-encoding")),
        }
    }

    fn content_length(&self) -> Result<Option<u64>, Failure> {
        let Some(length) = &self.length else {
            return Ok(None);
        };
        let length = crate::http::decimal(length).filter(|_length| !self.lengths_differ);
        length
            .map(Some)
            .ok_or(Failure::BadResponse("content-length"))
    }
}

fn head(status: StatusCode, fields: Fields, http_1_0: bool, asked: Asked) -> Result<Head, Failure> {
    let ending = ending(status, &fields, asked)?;
    let lasting = ending != Ending::Close && ending != Ending::Tunnel;
    Ok(Head {
        status,
        ending,
        keep_alive: lasting && !fields.close && (!http_1_0 || fields.keep_alive),
        headers: fields.map,
    })
}

fn ending(status: StatusCode, fields: &Fields, asked: Asked) -> Result<Ending, Failure> {
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return if asked.upgrade {
            Ok(Ending::Tunnel)
        } else {
            Err(Failure::BadResponse("protocol switch nobody asked for"))
        };
    }
    let chunked = fields.transfer_encoding()?;
    let length = fields.content_length()?;
    if chunked && length.is_some() {
        return Err(Failure::BadResponse(
            "both content-length and transfer-encoding",
        ));
    }
    let bodyless =
        asked.head || status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
    Ok(match (bodyless, chunked, length) {
        (true, ..) | (_, _, Some(0)) => Ending::Empty,
        (_, true, _) => Ending::Chunked,
        (_, _, Some(length)) => Ending::Length(length),
        (_, _, None) => Ending::Close,
    })
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::{Asked, Ending, Head, Limits, MOST_HEADERS, parse};
    use crate::failure::Failure;

    const GET: Asked = Asked {
        head: false,
        upgrade: false,
    };
    const LIMITS: Limits = Limits {
        head_bytes: 1024,
        headers: 10,
    };

    fn read(text: &str, asked: Asked) -> Result<Option<Head>, Failure> {
        parse(&mut BytesMut::from(text), asked, LIMITS)
    }

    fn complete(text: &str, asked: Asked) -> Head {
        read(text, asked).expect("valid").expect("complete")
    }

    #[test]
    fn the_end_of_the_body_is_known_from_the_head() {
        let of = |text: &str| complete(text, GET).ending;
        assert_eq!(
            of("HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n"),
            Ending::Length(12)
        );
        assert_eq!(
            of("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"),
            Ending::Chunked
        );
        assert_eq!(of("HTTP/1.1 200 OK\r\n\r\n"), Ending::Close);
        assert_eq!(of("HTTP/1.1 204 No Content\r\n\r\n"), Ending::Empty);
        assert_eq!(
            of("HTTP/1.1 304 x\r\ncontent-length: 12\r\n\r\n"),
            Ending::Empty
        );
        let head = Asked {
            head: true,
            upgrade: false,
        };
        let answer = complete("HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n", head);
        assert_eq!(answer.ending, Ending::Empty);
        assert!(
            answer.headers.contains_key("content-length"),
            "the client asked for it"
        );
        assert!(answer.keep_alive);
    }

    #[test]
    fn as_many_headers_are_read_as_settings_may_allow() {
        let read = |count: usize, headers: usize| {
            let fields: String = (0..count)
                .map(|index| format!("x-{index}: a\r\n"))
                .collect();
            let text = format!("HTTP/1.1 204 x\r\n{fields}\r\n");
            let limits = Limits {
                head_bytes: text.len(),
                headers,
            };
            parse(&mut BytesMut::from(&*text), GET, limits)
        };
        let head = read(MOST_HEADERS, MOST_HEADERS);
        let head = head.expect("within the limit").expect("complete");
        assert_eq!(head.headers.len(), MOST_HEADERS);
        assert!(read(300, 299).is_err());
        assert!(read(MOST_HEADERS + 1, usize::MAX).is_err());
    }

    #[test]
    fn interim_responses_are_passed_over() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n\
                    HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        let head = complete(text, GET);
        assert_eq!(head.status, 200);
        assert!(!head.headers.contains_key("link"));
    }

    #[test]
    fn only_who_asked_is_switched() {
        let text = "HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        assert!(read(text, GET).is_err());
        let asked = Asked {
            head: false,
            upgrade: true,
        };
        assert_eq!(complete(text, asked).ending, Ending::Tunnel);
        assert_eq!(
            complete("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", asked).ending,
            Ending::Empty
        );
    }

    #[test]
    fn connections_are_kept_only_when_both_may() {
        assert!(complete("HTTP/1.1 204 x\r\n\r\n", GET).keep_alive);
        assert!(!complete("HTTP/1.1 204 x\r\nconnection: foo, Close\r\n\r\n", GET).keep_alive);
        assert!(!complete("HTTP/1.0 204 x\r\n\r\n", GET).keep_alive);
        assert!(complete("HTTP/1.0 204 x\r\nconnection: keep-alive\r\n\r\n", GET).keep_alive);
        assert!(!complete("HTTP/1.1 200 x\r\n\r\n", GET).keep_alive);
    }

    #[test]
    fn ambiguous_heads_are_refused() {
        for fields in [
            "content-length: 1\r\ntransfer-encoding: chunked\r\n",
            "content-length: 1\r\ncontent-length: 2\r\n",
            "content-length: +1\r\n",
            "content-length: 1, 1\r\n",
            "content-length: 18446744073709551616\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        ] {
            let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            assert!(
                matches!(read(&text, GET), Err(Failure::BadResponse(_))),
                "{fields}"
            );
        }
        let twice = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n";
        assert_eq!(complete(twice, GET).ending, Ending::Length(1));
    }

    #[test]
    fn heads_are_bounded() {
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(11));
        assert!(read(&many, GET).is_err());
        let long = format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(1100));
        assert!(read(&long, GET).is_err());
        assert!(
            read("HTTP/1.1 200 OK\r\na: b\r\n", GET)
                .expect("so far")
                .is_none()
        );
        assert!(read("SSH-2.0-OpenSSH\r\n\r\n", GET).is_err());
    }
}
