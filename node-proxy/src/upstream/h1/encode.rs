//! Writing a request's head.

use bytes::{BufMut, BytesMut};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, Method};
use http_body::Body;

/// How the end of a request's body is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Nothing follows the head.
    None,
    /// This many bytes are still to come.
    Length(u64),
    /// Chunks, trailers if there are any.
    Chunked,
}

impl Framing {
    pub(super) fn of<B: Body>(body: &B) -> Self {
        match body.size_hint().exact() {
            _ if body.is_end_stream() => Self::None,
            Some(0) => Self::None,
            Some(length) => Self::Length(length),
            None => Self::Chunked,
        }
    }
}

/// Appends the head of a request in HTTP/1.1.
///
/// The header map comes ready to be sent, except for its framing fields: those
/// are derived from the body and never copied.
pub(super) fn request_head(head: &Parts, framing: Framing, output: &mut BytesMut) {
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    output.reserve(256 + path.len());
    output.put_slice(head.method.as_str().as_bytes());
    output.put_u8(b' ');
    if path == "/" && head.method == Method::OPTIONS && head.uri.path() == "*" {
        output.put_u8(b'*');
    } else {
        output.put_slice(path.as_bytes());
    }
    output.put_slice(b" HTTP/1.1\r\n");
    fields(&head.headers, output);
    match framing {
        Framing::Chunked => output.put_slice(b"transfer-encoding: chunked\r\n"),
        Framing::Length(length) => content_length(length, output),
        Framing::None if expects_content(&head.method) => content_length(0, output),
        Framing::None => {}
    }
    output.put_slice(b"\r\n");
}

fn fields(headers: &HeaderMap, output: &mut BytesMut) {
    for (name, value) in headers {
        if name == CONTENT_LENGTH || name == TRANSFER_ENCODING {
            continue;
        }
        field(name.as_str().as_bytes(), value.as_bytes(), output);
    }
}

fn field(name: &[u8], value: &[u8], output: &mut BytesMut) {
    output.reserve(name.len() + value.len() + 4);
    output.put_slice(name);
    output.put_slice(b": ");
    output.put_slice(value);
    output.put_slice(b"\r\n");
}

fn content_length(length: u64, output: &mut BytesMut) {
    output.put_slice(b"content-length: ");
    decimal(length, output);
    output.put_slice(b"\r\n");
}

/// Methods whose requests are expected to have content: without a length a
/// server might wait for it (RFC 9110, section 8.6).
fn expects_content(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

fn decimal(mut value: u64, output: &mut BytesMut) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    output.put_slice(&digits[at..]);
}

/// Appends the line before a chunk of `size` bytes.
pub(super) fn chunk_size(size: usize, output: &mut BytesMut) {
    let mut digits = [0_u8; 16];
    let mut at = digits.len();
    let mut value = size;
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdef"[value & 0xf];
        value >>= 4;
        if value == 0 {
            break;
        }
    }
    output.put_slice(&digits[at..]);
    output.put_slice(b"\r\n");
}

/// Appends the last chunk and the trailers.
pub(super) fn last_chunk(trailers: Option<&HeaderMap>, output: &mut BytesMut) {
    output.put_slice(b"0\r\n");
    if let Some(trailers) = trailers {
        fields(trailers, output);
    }
    output.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use bytes::{Bytes, BytesMut};
    use http::Request;
    use http_body_util::{Empty, Full};

    use super::{Framing, chunk_size, decimal, request_head};

    fn encode(request: Request<()>, framing: Framing) -> String {
        let mut output = BytesMut::new();
        request_head(&request.into_parts().0, framing, &mut output);
        String::from_utf8(output.to_vec()).expect("text")
    }

    #[test]
    fn framing_comes_from_the_body_and_from_nowhere_else() {
        let request = Request::post("/x?y=1")
            .header("host", "a")
            .header("content-length", "999")
            .header("transfer-encoding", "gzip")
            .body(())
            .expect("valid");
        assert_eq!(
            encode(request, Framing::Length(5)),
            "POST /x?y=1 HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n"
        );
    }

    #[test]
    fn an_empty_post_says_so_and_an_empty_get_says_nothing() {
        let post = Request::post("/").body(()).expect("valid");
        assert_eq!(
            encode(post, Framing::None),
            "POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n"
        );
        let get = Request::get("/").body(()).expect("valid");
        assert_eq!(encode(get, Framing::None), "GET / HTTP/1.1\r\n\r\n");
    }

    #[test]
    fn bodies_of_known_length_are_not_chunked() {
        assert_eq!(Framing::of(&Empty::<Bytes>::new()), Framing::None);
        assert_eq!(
            Framing::of(&Full::new(Bytes::from_static(b"abc"))),
            Framing::Length(3)
        );
    }

    #[test]
    fn numbers_are_written_in_full() {
        let mut output = BytesMut::new();
        decimal(u64::MAX, &mut output);
        assert_eq!(&output[..], b"18446744073709551615");
        output.clear();
        chunk_size(usize::MAX, &mut output);
        chunk_size(0x1a0, &mut output);
        assert_eq!(&output[..], b"ffffffffffffffff\r\n1a0\r\n");
    }
}
