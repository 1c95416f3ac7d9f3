//! Which protocol a connection speaks, from its first bytes.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::failure::Failure;
use crate::http::is_token;

/// What an HTTP/2 client with prior knowledge sends first (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Longest method that is taken for one. The longest registered has 17 bytes
/// (`UPDATEREDIRECTREF`).
const MAX_METHOD: usize = 32;

/// What the first read may take. A whole request mostly fits, so that it is
/// parsed without another system call.
const FIRST_READ: usize = 8 * 1024;

const OTHER: Failure = Failure::NotHttp("no request line");
const SILENT: Failure = Failure::NotHttp("no request within the deadline");

/// What a connection turned out to speak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detected {
    /// HTTP/1.x; the bytes were read already.
    Http1(Bytes),
    /// HTTP/2 with prior knowledge; the bytes were read already.
    Http2(Bytes),
    /// Something else, or nothing at all.
    Refused(Failure),
    /// The client closed the connection without a byte.
    Closed,
}

/// Reads until the protocol is known, no longer than `deadline`.
///
/// A server-first protocol sends nothing until the deadline and is refused
/// aloud instead of hanging.
pub async fn detect<T: AsyncRead + Unpin>(io: &mut T, deadline: Duration) -> Detected {
    match tokio::time::timeout(deadline, read(io)).await {
        Ok(detected) => detected,
        Err(_elapsed) => Detected::Refused(SILENT),
    }
}

async fn read<T: AsyncRead + Unpin>(io: &mut T) -> Detected {
    let mut buffer = BytesMut::with_capacity(FIRST_READ);
    loop {
        match io.read_buf(&mut buffer).await {
            Ok(0) if buffer.is_empty() => return Detected::Closed,
            Err(_error) => return Detected::Closed,
            Ok(0) => return Detected::Refused(OTHER),
            Ok(_more) => {}
        }
        match classify(&buffer) {
            Verdict::Http1 => return Detected::Http1(buffer.freeze()),
            Verdict::Http2 => return Detected::Http2(buffer.freeze()),
            Verdict::NotHttp => return Detected::Refused(OTHER),
            Verdict::More => {}
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Http1,
    Http2,
    NotHttp,
    More,
}

fn classify(bytes: &[u8]) -> Verdict {
    let common = bytes.len().min(PREFACE.len());
    if bytes[..common] == PREFACE[..common] {
        return if bytes.len() >= PREFACE.len() {
            Verdict::Http2
        } else {
            Verdict::More
        };
    }
    let method = bytes.iter().take_while(|byte| is_token(**byte)).count();
    if method > MAX_METHOD {
        return Verdict::NotHttp;
    }
    match bytes.get(method) {
        None => Verdict::More,
        Some(b' ') if method > 0 => Verdict::Http1,
        Some(_) => Verdict::NotHttp,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;

    use super::{Detected, PREFACE, Verdict, classify, detect};

    #[test]
    fn knows_requests_by_their_method() {
        assert_eq!(classify(b"GET / HTTP/1.1\r\n"), Verdict::Http1);
        assert_eq!(classify(b"POS"), Verdict::More);
        assert_eq!(classify(b"PRI"), Verdict::More);
        assert_eq!(classify(PREFACE), Verdict::Http2);
        assert_eq!(classify(b"PRIVATE /"), Verdict::Http1);
    }

    #[test]
    fn refuses_everything_else() {
        assert_eq!(classify(b"\x16\x03\x01\x02"), Verdict::NotHttp, "TLS");
        assert_eq!(classify(b" GET /"), Verdict::NotHttp);
        assert_eq!(classify(b"\r\nGET /"), Verdict::NotHttp);
        assert_eq!(classify(&[b'a'; 40]), Verdict::NotHttp);
        assert_eq!(classify(b"*1\r\n$4\r\nPING"), Verdict::NotHttp, "RESP");
    }

    #[tokio::test]
    async fn a_preface_in_pieces_is_still_one() {
        let (mut client, mut server) = tokio::io::duplex(64);
        let writer = async {
            for byte in PREFACE {
                client.write_all(&[*byte]).await.expect("room");
            }
        };
        let (detected, ()) = tokio::join!(detect(&mut server, Duration::from_secs(5)), writer);
        assert_eq!(detected, Detected::Http2(PREFACE.into()));
    }

    #[tokio::test]
    async fn a_silent_client_is_refused_at_the_deadline() {
        let (_client, mut server) = tokio::io::duplex(64);
        let detected = detect(&mut server, Duration::from_millis(10)).await;
        assert!(matches!(detected, Detected::Refused(_)));
    }

    #[tokio::test]
    async fn a_client_that_leaves_at_once_is_no_error() {
        let (client, mut server) = tokio::io::duplex(64);
        drop(client);
        assert_eq!(
            detect(&mut server, Duration::from_secs(5)).await,
            Detected::Closed
        );
    }
}
