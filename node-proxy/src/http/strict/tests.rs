//! What the server behind a [`Strict`] gets to read.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::{Limits, Strict};
use crate::memory::{Account, Held};

fn limits() -> Limits {
    Limits {
        head_bytes: 512,
        headers: 10,
        target_bytes: 100,
        upgrades: Arc::new([]),
    }
}

fn memory() -> Held {
    Held::new(&Account::unbounded(), 0)
}

fn strict() -> (DuplexStream, Strict<DuplexStream>) {
    let (client, server) = duplex(1 << 20);
    (client, Strict::new(server, limits(), memory()))
}

/// What is given on of `bytes`, sent in steps of `step`, before it would wait
/// for more.
async fn given(bytes: &[u8], step: usize) -> std::io::Result<String> {
    let (mut client, mut strict) = strict();
    let mut text = String::new();
    for part in bytes.chunks(step) {
        client.write_all(part).await.expect("room");
        let mut buffer = [0; 7];
        loop {
            tokio::select! {
                biased;
                read = strict.read(&mut buffer) => {
                    let read = read?;
                    assert!(read > 0, "no end was sent");
                    text.push_str(&String::from_utf8_lossy(&buffer[..read]));
                }
                () = std::future::ready(()) => break,
            }
        }
    }
    Ok(text)
}

const PIPELINED: &str = "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello\
    POST /b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
    3\r\nabc\r\n0\r\nx-t: 1\r\n\r\nGET /c HTTP/1.1\r\nhost: a\r\n\r\n";

#[tokio::test]
async fn good_requests_pass_untouched_however_they_arrive() {
    for step in [1, 2, 3, 7, 64, 4096] {
        let text = given(PIPELINED.as_bytes(), step).await.expect("valid");
        assert_eq!(text, PIPELINED, "step {step}");
    }
}

#[tokio::test]
async fn nothing_of_a_bad_head_passes_and_nothing_after_it() {
    for step in [1, 5, 4096] {
        let bad = format!(
            "{PIPELINED}GET /secret HTTP/1.1\nhost: a\n\nGET /d HTTP/1.1\r\nhost: a\r\n\r\n"
        );
        let text = given(bad.as_bytes(), step).await.expect("answered");
        let stand_in = text.strip_prefix(PIPELINED).expect("those before it pass");
        assert!(
            stand_in.starts_with("GET weft-refused://0/ HTTP/1.1\r\n"),
            "{stand_in}"
        );
        assert!(!stand_in.contains("secret") && !stand_in.contains("/d"));
    }
}

#[tokio::test]
async fn a_head_without_end_is_refused_at_the_limit() {
    let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}", "y".repeat(600));
    let text = given(long.as_bytes(), 64).await.expect("answered");
    assert!(text.starts_with("GET weft-refused://5/"), "{text}");
    let target = format!("GET /{}", "y".repeat(600));
    let text = given(target.as_bytes(), 64).await.expect("answered");
    assert!(text.starts_with("GET weft-refused://4/"), "{text}");
}

#[tokio::test]
async fn a_bad_chunk_is_an_error_of_the_body() {
    let bad = "POST /b HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0_2e\r\n";
    let error = given(bad.as_bytes(), 4096).await.expect_err("malformed");
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn bytes_behind_an_upgrade_wait_for_the_upstream() {
    let (mut client, mut strict) = strict();
    let head = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    let early = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    client
        .write_all(format!("{head}{early}").as_bytes())
        .await
        .expect("room");
    let mut buffer = vec![0; head.len()];
    strict
        .read_exact(&mut buffer)
        .await
        .expect("the head passes");
    assert_eq!(buffer, head.as_bytes());
    tokio::select! {
        biased;
        read = strict.read(&mut buffer) => panic!("{read:?} passed before the upstream agreed"),
        () = std::future::ready(()) => {}
    }
    strict.handle().tunnel();
    let mut buffer = vec![0; early.len()];
    strict.read_exact(&mut buffer).await.expect("they pass now");
    assert_eq!(buffer, early.as_bytes());
    client.write_all(b"\x00\x01 anything").await.expect("room");
    let mut buffer = [0; 11];
    strict
        .read_exact(&mut buffer)
        .await
        .expect("so does anything");
}

#[tokio::test]
async fn the_clients_end_is_passed_on() {
    let (mut client, mut strict) = strict();
    client
        .write_all(b"GET / HTTP/1.1\r\nhost")
        .await
        .expect("room");
    drop(client);
    let mut rest = Vec::new();
    strict.read_to_end(&mut rest).await.expect("end");
    assert!(rest.is_empty(), "half a head is no request");
}
