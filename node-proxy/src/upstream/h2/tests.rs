//! The pool against servers of the h2 library.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use super::{Limits, Options, Pool, STREAMS};
use crate::failure::Failure;
use crate::memory::Account;
use crate::upstream::budget::Budget;
use crate::upstream::connect;
use crate::upstream::target::{Protocol, Target};

/// A body that is fed by the test; empty when nobody feeds it.
struct Fed(mpsc::UnboundedReceiver<Frame<Bytes>>);

impl Body for Fed {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        self.0.poll_recv(context).map(|frame| frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_closed() && self.0.is_empty()
    }
}

fn fed() -> (mpsc::UnboundedSender<Frame<Bytes>>, Fed) {
    let (feed, fed) = mpsc::unbounded_channel();
    (feed, Fed(fed))
}

fn empty() -> Fed {
    let (_feed, mut fed) = fed();
    fed.0.close();
    fed
}

fn account() -> Arc<Account> {
    Account::unbounded()
}

fn pool(connections: usize) -> Rc<Pool<Fed>> {
    pool_of(connections, 8192)
}

fn pool_of(connections: usize, max_head_bytes: usize) -> Rc<Pool<Fed>> {
    let options = Options {
        connect: connect::Options { mark: None },
        idle_timeout: Duration::from_secs(60),
        max_head_bytes,
        limits: Limits {
            stream_window: 256 * 1024,
            connection_window: 1024 * 1024,
            send_buffer: 256 * 1024,
        },
    };
    Rc::new(Pool::new(options, Budget::new(connections)))
}

fn target(address: SocketAddr) -> Target {
    Target {
        address,
        source: None,
        identity: 256,
        protocol: Protocol::Http2,
        connect_timeout: Duration::from_secs(5),
    }
}

fn head(path: &str) -> Parts {
    let request = Request::get(format!("http://deathstar{path}")).body(());
    request.expect("valid").into_parts().0
}

async fn run(test: impl Future<Output = ()>) {
    let deadline = Duration::from_secs(20);
    let local = LocalSet::new();
    let test = local.run_until(tokio::time::timeout(deadline, test));
    test.await.expect("it happened within the deadline");
}

type Accepted = h2::server::Connection<tokio::net::TcpStream, Bytes>;

async fn accept(listener: &TcpListener) -> Accepted {
    let (stream, _peer) = listener.accept().await.expect("accepted");
    h2::server::handshake(stream).await.expect("handshake")
}

/// Answers `count` requests on a connection with 200 and their path.
async fn answer(connection: &mut Accepted, count: usize) {
    for _ in 0..count {
        let (request, mut respond) = connection
            .accept()
            .await
            .expect("a request")
            .expect("a request");
        let mut stream = respond
            .send_response(http::Response::new(()), false)
            .expect("answered");
        let path = request.uri().path().to_owned();
        stream.send_data(path.into(), true).expect("answered");
    }
}

async fn listener() -> (TcpListener, Target) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("address");
    (listener, target(address))
}

#[tokio::test]
async fn a_burst_shares_one_connection() {
    run(async {
        let (listener, target) = listener().await;
        let server = tokio::task::spawn_local(async move {
            let mut connection = accept(&listener).await;
            answer(&mut connection, 20).await;
            // Until the pool closes it.
            while connection.accept().await.is_some() {}
            listener
        });
        let pool = pool(1);
        let requests = (0..20).map(|index| {
            let pool = Rc::clone(&pool);
            async move {
                let path = format!("/{index}");
                let response = pool.send(&target, &head(&path), empty(), &account()).await;
                let body = response.expect("answered").into_body();
                let body = body.collect().await.expect("a body").to_bytes();
                assert_eq!(body, path.as_bytes());
            }
        });
        futures_util::future::join_all(requests).await;
        assert_eq!(pool.active(), 0);
        // Swept when nobody used it for long enough, and then closed.
        let later = Instant::now() + Duration::from_secs(61);
        pool.sweep(later);
        server.await.expect("the server saw the end");
    })
    .await;
}

#[tokio::test]
async fn bodies_and_trailers_pass_both_ways() {
    run(async {
        let (listener, target) = listener().await;
        tokio::task::spawn_local(async move {
            let mut connection = accept(&listener).await;
            let (request, mut respond) = connection
                .accept()
                .await
                .expect("a request")
                .expect("a request");
            let serving = async move {
                let mut body = request.into_body();
                let mut stream = respond
                    .send_response(http::Response::new(()), false)
                    .expect("answered");
                while let Some(data) = body.data().await {
                    let data = data.expect("data");
                    let _given = body.flow_control().release_capacity(data.len());
                    stream.send_data(data, false).expect("echoed");
                }
                let trailers = body.trailers().await.expect("trailers");
                stream
                    .send_trailers(trailers.expect("trailers"))
                    .expect("echoed");
            };
            tokio::join!(serving, async {
                while connection.accept().await.is_some() {}
            });
        });
        let pool = pool(1);
        let (feed, body) = fed();
        feed.send(Frame::data(Bytes::from_static(b"one")))
            .expect("open");
        let response = pool.send(&target, &head("/"), body, &account()).await;
        let mut body = response.expect("answered").into_body();
        let frame = body.frame().await.expect("a frame").expect("a frame");
        assert_eq!(frame.into_data().expect("data").bytes, "one");
        assert_eq!(pool.active(), 1);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        feed.send(Frame::trailers(trailers)).expect("open");
        drop(feed);
        let frame = body.frame().await.expect("a frame").expect("a frame");
        assert_eq!(frame.into_trailers().expect("trailers")["grpc-status"], "0");
        drop(body);
        assert_eq!(pool.active(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_says_goodbye_is_replaced() {
    run(async {
        let (listener, target) = listener().await;
        let server = tokio::task::spawn_local(async move {
            let mut first = accept(&listener).await;
            answer(&mut first, 1).await;
            first.graceful_shutdown();
            // Delivers the answer and the goodbye.
            while first.accept().await.is_some() {}
            drop(first);
            let mut second = accept(&listener).await;
            answer(&mut second, 1).await;
            while second.accept().await.is_some() {}
        });
        let pool = pool(2);
        for path in ["/first", "/second"] {
            let response = pool.send(&target, &head(path), empty(), &account()).await;
            let body = response.expect("answered").into_body();
            let body = body.collect().await.expect("a body").to_bytes();
            assert_eq!(body, path.as_bytes());
            if path == "/first" {
                // Wait until the connection has heard it.
                while pool.live(&target) > 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
        drop(pool);
        server.await.expect("the server saw the end");
    })
    .await;
}

#[tokio::test]
async fn a_full_connection_gets_a_second_one_beside_it() {
    run(async {
        let (listener, target) = listener().await;
        let (told, mut accepted) = mpsc::unbounded_channel();
        tokio::task::spawn_local(async move {
            loop {
                let mut connection = accept(&listener).await;
                let told = told.clone();
                tokio::task::spawn_local(async move {
                    let mut held = Vec::new();
                    while let Some(Ok(request)) = connection.accept().await {
                        let _gone = told.send(());
                        held.push(request);
                    }
                });
            }
        });
        let pool = pool(2);
        let mut waiting = Vec::new();
        for _ in 0..=STREAMS {
            let pool = Rc::clone(&pool);
            waiting.push(tokio::task::spawn_local(async move {
                let _never = pool.send(&target, &head("/"), empty(), &account()).await;
            }));
            accepted.recv().await.expect("arrived");
        }
        assert_eq!(pool.live(&target), 2);
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
    })
    .await;
}

#[tokio::test]
async fn a_head_may_be_as_large_as_settings_say() {
    run(async {
        let (listener, target) = listener().await;
        tokio::task::spawn_local(async move {
            loop {
                let mut connection = accept(&listener).await;
                tokio::task::spawn_local(async move {
                    while let Some(Ok((_request, mut respond))) = connection.accept().await {
                        let mut response = http::Response::new(());
                        let large = http::HeaderValue::try_from("x".repeat(100_000));
                        response.headers_mut().insert("x", large.expect("valid"));
                        let _refused = respond.send_response(response, true);
                    }
                });
            }
        });
        let large = pool_of(1, 200_000)
            .send(&target, &head("/"), empty(), &account())
            .await;
        assert_eq!(large.expect("answered").headers()["x"].len(), 100_000);
        let small = pool_of(1, 90_000)
            .send(&target, &head("/"), empty(), &account())
            .await;
        assert!(small.is_err());
    })
    .await;
}

#[tokio::test]
async fn nobody_there_is_said_so() {
    run(async {
        let (listener, target) = listener().await;
        drop(listener);
        let failure = pool(1).send(&target, &head("/"), empty(), &account()).await;
        let failure = failure.map(|_response| ()).expect_err("refused");
        assert!(matches!(failure, Failure::ConnectError(_)), "{failure}");
    })
    .await;
}
