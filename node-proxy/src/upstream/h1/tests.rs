//! The client against a scripted server on a real socket.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::{Client, Options};
use crate::failure::Failure;
use crate::memory::Account;
use crate::upstream::budget::Budget;
use crate::upstream::connect;
use crate::upstream::target::{Protocol, Target};

fn account() -> Arc<Account> {
    Account::unbounded()
}

const DEADLINE: Duration = Duration::from_secs(10);

fn client(budget: usize) -> Client {
    let options = Options {
        connect: connect::Options { mark: None },
        idle_timeout: Duration::from_secs(60),
        max_idle_per_target: 4,
        max_head_bytes: 8192,
        max_headers: 50,
    };
    Client::new(options, Budget::new(budget))
}

fn target(address: SocketAddr) -> Target {
    Target {
        address,
        source: None,
        identity: 256,
        protocol: Protocol::Http1,
        connect_timeout: DEADLINE,
    }
}

async fn listener() -> (TcpListener, Target) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("bind");
    let address = listener.local_addr().expect("bound");
    (listener, target(address))
}

/// A body that a test feeds.
#[derive(Debug)]
struct Fed {
    frames: mpsc::UnboundedReceiver<Result<Frame<Bytes>, Failure>>,
    empty: bool,
}

impl Body for Fed {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        self.frames.poll_recv(context)
    }

    fn is_end_stream(&self) -> bool {
        self.empty
    }
}

type Feed = mpsc::UnboundedSender<Result<Frame<Bytes>, Failure>>;

fn fed() -> (Feed, Fed) {
    let (feed, frames) = mpsc::unbounded_channel();
    (
        feed,
        Fed {
            frames,
            empty: false,
        },
    )
}

fn empty() -> Fed {
    let (_feed, mut body) = fed();
    body.empty = true;
    body
}

fn data(bytes: impl Into<Bytes>) -> Result<Frame<Bytes>, Failure> {
    Ok(Frame::data(bytes.into()))
}

fn head(method: &str) -> http::request::Parts {
    let request = Request::builder()
        .method(method)
        .uri("/x")
        .header("host", "a");
    request.body(()).expect("valid").into_parts().0
}

/// Reads until what was read ends with `end`.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(end.as_bytes()) {
        let mut byte = [0];
        let read = stream.read(&mut byte).await.expect("read");
        assert!(
            read > 0,
            "closed after {:?}",
            String::from_utf8_lossy(&text)
        );
        text.push(byte[0]);
    }
    String::from_utf8(text).expect("text")
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("in time")
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let (listener, target) = listener().await;
    let client = client(8);
    let server = async {
        let (mut stream, _) = listener.accept().await.expect("accept");
        for _ in 0..3 {
            let text = read_until(&mut stream, "\r\n\r\n").await;
            assert_eq!(text, "GET /x HTTP/1.1\r\nhost: a\r\n\r\n");
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
            stream.write_all(answer).await.expect("write");
        }
    };
    let requests = async {
        for _ in 0..3 {
            let response = client
                .send(&target, &head("GET"), empty(), &account())
                .await
                .expect("answer");
            let body = response.into_body().collect().await.expect("body");
            assert_eq!(body.to_bytes(), "hi");
        }
        assert_eq!(client.stats().idle, 1);
        assert_eq!(client.stats().active, 0);
    };
    within(async { tokio::join!(server, requests) }).await;
}

#[tokio::test]
async fn bodies_stream_both_ways_at_once() {
    let (listener, target) = listener().await;
    let client = client(8);
    let (feed, body) = fed();
    let server = async {
        let (mut stream, _) = listener.accept().await.expect("accept");
        let text = read_until(&mut stream, "\r\n\r\n").await;
        assert!(text.contains("transfer-encoding: chunked\r\n"), "{text}");
        let start = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n";
        stream.write_all(start).await.expect("write");
        assert_eq!(read_until(&mut stream, "one\r\n").await, "3\r\none\r\n");
        let big = "b".repeat(100_000);
        assert_eq!(
            read_until(&mut stream, "b\r\n").await,
            format!("186a0\r\n{big}\r\n")
        );
        assert_eq!(
            read_until(&mut stream, "\r\n\r\n").await,
            "0\r\nx-sum: 7\r\n\r\n"
        );
        stream
            .write_all(b"0\r\nx-end: 1\r\n\r\n")
            .await
            .expect("write");
    };
    let request = async {
        let response = client
            .send(&target, &head("POST"), body, &account())
            .await
            .expect("answer");
        let mut body = response.into_body();
        let first = body.frame().await.expect("frame").expect("data");
        assert_eq!(first.into_data().expect("data").bytes, "ok");
        feed.send(data("one")).expect("open");
        feed.send(data("b".repeat(100_000))).expect("open");
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "7".parse().expect("valid"));
        feed.send(Ok(Frame::trailers(trailers))).expect("open");
        let last = body.frame().await.expect("frame").expect("trailers");
        assert_eq!(last.into_trailers().expect("trailers")["x-end"], "1");
        assert!(body.frame().await.is_none());
        assert_eq!(client.stats().idle, 1, "both sides ended cleanly");
    };
    within(async { tokio::join!(server, request) }).await;
}

#[tokio::test]
async fn a_stale_connection_costs_an_idempotent_request_nothing() {
    let (listener, target) = listener().await;
    let client = client(8);
    let server = async {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.expect("accept");
            read_until(&mut stream, "\r\n\r\n").await;
            let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
            stream.write_all(answer).await.expect("write");
            // Reads the next request and goes away without an answer.
            let mut ignored = [0; 1];
            let _end = stream.read(&mut ignored).await;
        }
    };
    let requests = async {
        for _ in 0..2 {
            let response = client
                .send(&target, &head("GET"), empty(), &account())
                .await
                .expect("answer");
            assert_eq!(response.status(), 204);
        }
        let mut post = head("POST");
        post.headers.insert("x", "y".parse().expect("valid"));
        let failure = client
            .send(&target, &post, empty(), &account())
            .await
            .expect_err("gone");
        assert!(
            matches!(
                failure,
                Failure::UpstreamReset {
                    reused: true,
                    sent: true
                }
            ),
            "a POST that may have been executed is not repeated: {failure:?}"
        );
    };
    within(async { tokio::join!(server, requests) }).await;
}

#[tokio::test]
async fn an_early_answer_arrives_and_ends_the_connection() {
    let (listener, target) = listener().await;
    let client = client(8);
    let (feed, body) = fed();
    let server = async {
        let (mut stream, _) = listener.accept().await.expect("accept");
        read_until(&mut stream, "\r\n\r\n").await;
        let answer = b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer).await.expect("write");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.expect("closed");
    };
    let request = async {
        let response = client
            .send(&target, &head("POST"), body, &account())
            .await
            .expect("answer");
        assert_eq!(response.status(), 413);
        assert!(response.body().is_end_stream());
        drop(response);
        assert_eq!(client.stats(), super::PoolStats::default());
        assert!(feed.is_closed(), "the body is not read on");
    };
    within(async { tokio::join!(server, request) }).await;
}

#[tokio::test]
async fn answers_that_end_early_are_errors() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhi"[..],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhi",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n",
    ] {
        let (listener, target) = listener().await;
        let client = client(8);
        let server = async {
            let (mut stream, _) = listener.accept().await.expect("accept");
            read_until(&mut stream, "\r\n\r\n").await;
            stream.write_all(answer).await.expect("write");
        };
        let request = async {
            let response = client
                .send(&target, &head("GET"), empty(), &account())
                .await
                .expect("head");
            let failure = response.into_body().collect().await.expect_err("cut");
            assert_eq!(failure, Failure::Truncated);
            assert_eq!(client.stats(), super::PoolStats::default());
        };
        within(async { tokio::join!(server, request) }).await;
    }
}

#[tokio::test]
async fn an_answer_without_length_ends_with_the_connection() {
    let (listener, target) = listener().await;
    let client = client(8);
    let server = async {
        let (mut stream, _) = listener.accept().await.expect("accept");
        read_until(&mut stream, "\r\n\r\n").await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\n\r\nall of it")
            .await
            .expect("write");
    };
    let request = async {
        let response = client
            .send(&target, &head("GET"), empty(), &account())
            .await
            .expect("head");
        let body = response.into_body().collect().await.expect("body");
        assert_eq!(body.to_bytes(), "all of it");
        assert_eq!(client.stats().idle, 0);
    };
    within(async { tokio::join!(server, request) }).await;
}

#[tokio::test]
async fn unasked_bytes_and_closed_connections_are_not_reused() {
    let (listener, target) = listener().await;
    let client = client(8);
    let server = async {
        for extra in ["", "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil", ""] {
            let (mut stream, _) = listener.accept().await.expect("accept");
            read_until(&mut stream, "\r\n\r\n").await;
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi{extra}");
            stream.write_all(answer.as_bytes()).await.expect("write");
        }
    };
    let requests = async {
        for _ in 0..3 {
            let response = client
                .send(&target, &head("POST"), empty(), &account())
                .await
                .expect("answer");
            let body = response.into_body().collect().await.expect("body");
            assert_eq!(body.to_bytes(), "hi");
            // The server closes; the reactor sees it before the next request.
            while client.stats().idle > 0 {
                client.sweep(Instant::now());
                tokio::task::yield_now().await;
            }
        }
    };
    within(async { tokio::join!(server, requests) }).await;
}

#[tokio::test]
async fn an_upgrade_becomes_a_tunnel_with_its_early_bytes() {
    let (listener, target) = listener().await;
    let client = client(8);
    let server = async {
        let (mut stream, _) = listener.accept().await.expect("accept");
        read_until(&mut stream, "\r\n\r\n").await;
        let answer = b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nearly";
        stream.write_all(answer).await.expect("write");
        assert_eq!(read_until(&mut stream, "ping").await, "ping");
    };
    let request = async {
        let mut head = head("GET");
        head.headers.insert("upgrade", "x".parse().expect("valid"));
        let response = client
            .send(&target, &head, empty(), &account())
            .await
            .expect("answer");
        assert_eq!(response.status(), 101);
        let mut tunnel = response.into_body().into_tunnel().expect("a tunnel");
        let mut early = [0; 5];
        tunnel.read_exact(&mut early).await.expect("early");
        assert_eq!(&early, b"early");
        tunnel.write_all(b"ping").await.expect("write");
    };
    within(async { tokio::join!(server, request) }).await;
}

#[tokio::test]
async fn a_source_keeps_to_its_budget_and_prefers_new_targets_to_idle_ones() {
    let (one, first) = listener().await;
    let (two, second) = listener().await;
    let client = client(1);
    let serve = async |listener: &TcpListener| {
        let (mut stream, _) = listener.accept().await.expect("accept");
        read_until(&mut stream, "\r\n\r\n").await;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n";
        stream.write_all(answer).await.expect("write");
        stream
    };
    let requests = async {
        let held = client
            .send(&first, &head("GET"), empty(), &account())
            .await
            .expect("answer");
        let failure = client
            .send(&second, &head("GET"), empty(), &account())
            .await
            .expect_err("full");
        assert!(matches!(failure, Failure::Overloaded(_)));
        drop(held);
        client
            .send(&second, &head("GET"), empty(), &account())
            .await
            .expect("room again")
    };
    within(async { tokio::join!(serve(&one), serve(&two), requests) }).await;
}

#[tokio::test]
async fn the_bodys_failure_is_the_requests() {
    let (listener, target) = listener().await;
    let client = client(8);
    let (feed, body) = fed();
    feed.send(data("part")).expect("open");
    feed.send(Err(Failure::Revoked)).expect("open");
    let server = async {
        let (mut stream, _) = listener.accept().await.expect("accept");
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await.expect("closed");
        assert!(
            !text.ends_with(b"0\r\n\r\n"),
            "not ended as if it were whole"
        );
    };
    let request = async {
        let failure = client
            .send(&target, &head("POST"), body, &account())
            .await
            .expect_err("cut");
        assert_eq!(failure, Failure::Revoked);
    };
    within(async { tokio::join!(server, request) }).await;
}
