//! The check of one request's head.

use std::sync::Arc;

use super::refusal::Refusal;
use crate::http::upgrade::Wish;
use crate::http::{alphanumeric_and, decimal, is_token};

/// Bounds of a request's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest head, request line included, in bytes.
    pub head_bytes: usize,
    /// Most header fields.
    pub headers: usize,
    /// Longest target, in bytes.
    pub target_bytes: usize,
    /// Protocols that may be switched to besides WebSocket.
    pub upgrades: Arc<[Box<str>]>,
}

/// How far a message goes behind its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Follows {
    /// Another head.
    Nothing,
    /// A body of this many bytes, at least one.
    Length(u64),
    /// A chunked body.
    Chunked,
    /// Another protocol, if the upstream agrees.
    Upgrade,
}

/// Where the first head in `bytes` ends: past its empty line. `None` while it
/// is not complete. The first `seen` bytes were looked at before.
///
/// # Errors
/// A line that ends in anything but CRLF.
pub(super) fn end(bytes: &[u8], seen: usize) -> Result<Option<usize>, Refusal> {
    // Step back over a line end that may have been cut in two.
    let mut at = seen.saturating_sub(3);
    while let Some(found) = memchr::memchr2(b'\r', b'\n', &bytes[at..]) {
        at += found;
        match (bytes[at], bytes.get(at + 1)) {
            // The LF of a CRLF that the step back landed on.
            (b'\n', _) if at > 0 && bytes[at - 1] == b'\r' => at += 1,
            (b'\r', None) => return Ok(None),
            (b'\r', Some(b'\n')) if bytes[at + 2..].starts_with(b"\r\n") => {
                return Ok(Some(at + 4));
            }
            (b'\r', Some(b'\n')) => at += 2,
            _ => return Err(Refusal::LineEnd),
        }
    }
    Ok(None)
}

/// Checks a complete head, its empty line included.
///
/// # Errors
/// The first thing that is wrong with it.
pub(super) fn check(head: &[u8], limits: &Limits) -> Result<Follows, Refusal> {
    let mut lines = Lines(head);
    let request = RequestLine::parse(lines.next().ok_or(Refusal::RequestLine)?, limits)?;
    let mut fields = Fields::default();
    let mut count = 0;
    for line in lines {
        if line.is_empty() {
            break;
        }
        count += 1;
        if count > limits.headers {
            return Err(Refusal::TooManyFields);
        }
        fields.read(line)?;
    }
    request.check_host(fields.host, fields.hosts)?;
    fields.follows(request.minor, &limits.upgrades)
}

/// Lines of a head that [`end`] went over: every one ends in CRLF.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = memchr::memchr(b'\r', self.0)?;
        let line = &self.0[..end];
        self.0 = self.0.get(end + 2..).unwrap_or_default();
        Some(line)
    }
}

struct RequestLine<'a> {
    /// Authority of a target in absolute form.
    authority: Option<&'a [u8]>,
    /// Minor version: 0 or 1.
    minor: u8,
}

impl<'a> RequestLine<'a> {
    fn parse(line: &'a [u8], limits: &Limits) -> Result<Self, Refusal> {
        let mut parts = line.split(|byte| *byte == b' ');
        let (method, target, version) = match (parts.next(), parts.next(), parts.next()) {
            (Some(method), Some(target), Some(version)) => (method, target, version),
            _ => return Err(Refusal::RequestLine),
        };
        if parts.next().is_some() || method.is_empty() || !method.iter().all(|b| is_token(*b)) {
            return Err(Refusal::RequestLine);
        }
        if target.len() > limits.target_bytes {
            return Err(Refusal::TargetTooLong);
        }
        let minor = match version {
            b"HTTP/1.1" => 1,
            b"HTTP/1.0" => 0,
            _ => return Err(Refusal::Version),
        };
        let authority = authority(method, target)?;
        Ok(Self { authority, minor })
    }

    fn check_host(&self, host: Option<&[u8]>, count: usize) -> Result<(), Refusal> {
        match (host, self.authority) {
            _ if count > 1 => Err(Refusal::Host),
            (None, _) if self.minor == 1 => Err(Refusal::Host),
            (Some(host), _) if !is_authority(host) => Err(Refusal::Host),
            (Some(host), Some(authority)) if !host.eq_ignore_ascii_case(authority) => {
                Err(Refusal::Host)
            }
            _ => Ok(()),
        }
    }
}

/// The authority that a target names, if its form has one.
fn authority<'a>(method: &[u8], target: &'a [u8]) -> Result<Option<&'a [u8]>, Refusal> {
    // A fragment is never sent; dropping it would judge another target than
    // the client wrote.
    let visible = |byte: u8| (byte > 0x20) & (byte < 0x7f) & (byte != b'#');
    if !target.iter().fold(true, |good, byte| good & visible(*byte)) {
        return Err(Refusal::Target);
    }
    if method == b"CONNECT" {
        return if is_authority(target) && !target.is_empty() {
            Ok(Some(target))
        } else {
            Err(Refusal::Target)
        };
    }
    if target.starts_with(b"/") || (target == b"*" && method == b"OPTIONS") {
        return Ok(None);
    }
    let rest = strip_scheme(target).ok_or(Refusal::Target)?;
    let end = rest
        .iter()
        .position(|b| matches!(b, b'/' | b'?'))
        .unwrap_or(rest.len());
    let authority = &rest[..end];
    if authority.is_empty() || !is_authority(authority) {
        return Err(Refusal::Target);
    }
    Ok(Some(authority))
}

fn strip_scheme(target: &[u8]) -> Option<&[u8]> {
    [&b"http://"[..], b"https://"]
        .into_iter()
        .find_map(|scheme| {
            let (start, rest) = target.split_at_checked(scheme.len())?;
            start.eq_ignore_ascii_case(scheme).then_some(rest)
        })
}

/// Characters of a host with an optional port; no user information.
fn is_authority(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| AUTHORITY[usize::from(*byte)])
}

const AUTHORITY: [bool; 256] = alphanumeric_and(b"-._~%!$&'()*+,;=:[]");

#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a [u8]>,
    hosts: usize,
    length: Option<u64>,
    lengths: usize,
    coding: Option<&'a [u8]>,
    codings: usize,
    wish: Wish<'a>,
}

impl<'a> Fields<'a> {
    fn read(&mut self, line: &'a [u8]) -> Result<(), Refusal> {
        // No colon is a token: the first byte that is none ends the name.
        let colon = line.iter().position(|byte| !is_token(*byte));
        let colon = colon.filter(|at| *at > 0 && line[*at] == b':');
        let colon = colon.ok_or(Refusal::FieldName)?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        let control = |byte: u8| (byte < 0x20) & (byte != b'\t') | (byte == 0x7f);
        // All of them, whatever the first says: so the compiler takes sixteen
        // at once.
        if value.iter().fold(false, |bad, byte| bad | control(*byte)) {
            return Err(Refusal::FieldValue);
        }
        let value = value.trim_ascii();
        // The lengths tell most fields apart from these without a comparison.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                self.hosts += 1;
                self.host = Some(value);
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                self.wish.upgrade(value);
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                self.wish.connection(value);
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                self.lengths += 1;
                self.length = Some(decimal(value).ok_or(Refusal::ContentLength)?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                self.codings += 1;
                self.coding = Some(value);
            }
            _ => {}
        }
        Ok(())
    }

    fn follows(&self, minor: u8, upgrades: &[Box<str>]) -> Result<Follows, Refusal> {
        if self.codings > 0 && self.lengths > 0 {
            return Err(Refusal::TwoLengths);
        }
        if self.lengths > 1 {
            return Err(Refusal::ContentLength);
        }
        if let Some(coding) = self.coding {
            // A 1.0 server would take the chunks for the next request.
            if self.codings > 1 || minor == 0 {
                return Err(Refusal::TransferEncoding);
            }
            return chunked(coding);
        }
        match self.length {
            Some(length) if length > 0 => Ok(Follows::Length(length)),
            _ if self.wish.is_granted(upgrades, minor == 1, false) => Ok(Follows::Upgrade),
            _ => Ok(Follows::Nothing),
        }
    }
}

fn chunked(coding: &[u8]) -> Result<Follows, Refusal> {
    if coding.eq_ignore_ascii_case(b"chunked") {
        return Ok(Follows::Chunked);
    }
    let last = coding.rsplit(|b| *b == b',').next().unwrap_or_default();
    if last.trim_ascii().eq_ignore_ascii_case(b"chunked") {
        Err(Refusal::Coding)
    } else {
        Err(Refusal::TransferEncoding)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Follows, Limits, check, end};
    use crate::http::strict::Refusal;

    fn limits() -> Limits {
        Limits {
            head_bytes: 4096,
            headers: 10,
            target_bytes: 100,
            upgrades: Arc::new(["imap".into()]),
        }
    }

    fn judge(head: &str) -> Result<Follows, Refusal> {
        match end(head.as_bytes(), 0)? {
            Some(end) => check(&head.as_bytes()[..end], &limits()),
            None => panic!("incomplete: {head:?}"),
        }
    }

    fn with(fields: &str) -> Result<Follows, Refusal> {
        judge(&format!("POST /a HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
    }

    #[test]
    fn ordinary_requests_pass() {
        assert_eq!(with(""), Ok(Follows::Nothing));
        assert_eq!(with("Content-Length: 0\r\n"), Ok(Follows::Nothing));
        assert_eq!(with("content-length:  12\r\n"), Ok(Follows::Length(12)));
        assert_eq!(with("Transfer-Encoding: Chunked\r\n"), Ok(Follows::Chunked));
        assert_eq!(
            with("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"),
            Ok(Follows::Upgrade)
        );
        for offer in [
            "h2c",
            "websocket, h2c",
            "",
            "TLS/1.0",
            "imap\r\nUpgrade: imap",
        ] {
            let fields = format!("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {offer}\r\n");
            assert_eq!(with(&fields), Ok(Follows::Nothing), "{offer}");
        }
        assert_eq!(judge("GET / HTTP/1.0\r\n\r\n"), Ok(Follows::Nothing));
        assert_eq!(
            judge("GET http://a.b:80/c HTTP/1.1\r\nhost: A.b:80\r\n\r\n"),
            Ok(Follows::Nothing)
        );
        assert_eq!(
            judge("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n"),
            Ok(Follows::Nothing)
        );
    }

    #[test]
    fn contradicting_lengths_are_refused() {
        assert_eq!(
            with("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
            Err(Refusal::TwoLengths)
        );
        assert_eq!(
            with("Content-Length: 3\r\nContent-Length: 3\r\n"),
            Err(Refusal::ContentLength)
        );
        for length in ["+5", "0x5", "", "3, 3", "18446744073709551616", "-1", "5 5"] {
            assert_eq!(
                with(&format!("Content-Length: {length}\r\n")),
                Err(Refusal::ContentLength),
                "{length:?}"
            );
        }
    }

    #[test]
    fn only_chunked_is_a_coding() {
        assert_eq!(
            with("Transfer-Encoding: gzip, chunked\r\n"),
            Err(Refusal::Coding)
        );
        assert_eq!(
            with("Transfer-Encoding: chunked, identity\r\n"),
            Err(Refusal::TransferEncoding)
        );
        assert_eq!(
            with("Transfer-Encoding: \x0bchunked\r\n"),
            Err(Refusal::FieldValue)
        );
        assert_eq!(
            judge("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n"),
            Err(Refusal::TransferEncoding)
        );
    }

    #[test]
    fn lines_end_in_crlf_and_nothing_else() {
        for head in [
            "GET / HTTP/1.1\nHost: a\n\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
        ] {
            assert_eq!(end(head.as_bytes(), 0), Err(Refusal::LineEnd), "{head:?}");
        }
    }

    #[test]
    fn the_end_is_found_however_the_head_arrives() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
        let whole = head.len() - 4;
        for seen in 0..whole {
            for now in seen..whole {
                assert_eq!(end(&head[..now], seen), Ok(None), "{seen} {now}");
            }
            assert_eq!(end(head, seen), Ok(Some(whole)), "{seen}");
        }
    }

    #[test]
    fn fields_have_plain_names_and_values() {
        assert_eq!(with(" folded: x\r\n"), Err(Refusal::FieldName));
        assert_eq!(with("a: b\r\n folded\r\n"), Err(Refusal::FieldName));
        assert_eq!(with("a : b\r\n"), Err(Refusal::FieldName));
        assert_eq!(with(": b\r\n"), Err(Refusal::FieldName));
        assert_eq!(with("a: b\0c\r\n"), Err(Refusal::FieldValue));
        assert_eq!(with(&"a: b\r\n".repeat(10)), Err(Refusal::TooManyFields));
    }

    #[test]
    fn there_is_one_host_and_it_is_the_targets() {
        for head in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nHost: a\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nhost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: user@a\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a b\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a/b\r\n\r\n",
        ] {
            assert_eq!(judge(head), Err(Refusal::Host), "{head:?}");
        }
    }

    #[test]
    fn targets_have_a_form_that_the_method_allows() {
        for line in [
            "GET a HTTP/1.1",
            "GET * HTTP/1.1",
            "GET ftp://a/ HTTP/1.1",
            "GET weft-refused://1/ HTTP/1.1",
            "GET /a#b HTTP/1.1",
            "GET /\u{1}a HTTP/1.1",
            "GET http:/// HTTP/1.1",
            "CONNECT / HTTP/1.1",
        ] {
            let head = format!("{line}\r\nhost: a\r\n\r\n");
            assert_eq!(judge(&head), Err(Refusal::Target), "{line}");
        }
        for line in [
            "GET /",
            "GET  / HTTP/1.1",
            "GET / HTTP/1.1 ",
            " GET / HTTP/1.1",
            "G\"T / HTTP/1.1",
        ] {
            let head = format!("{line}\r\nhost: a\r\n\r\n");
            assert_eq!(judge(&head), Err(Refusal::RequestLine), "{line}");
        }
        assert_eq!(
            judge("GET / HTTP/1.2\r\nhost: a\r\n\r\n"),
            Err(Refusal::Version)
        );
        let long = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "a".repeat(100));
        assert_eq!(judge(&long), Err(Refusal::TargetTooLong));
    }
}
