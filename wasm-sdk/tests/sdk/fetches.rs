//! Fetches over HTTP and gRPC.

use weft_sdk::prelude::*;
use weft_sdk::testing::{Answer, TestHost, TestRequest};
use weft_sdk::{FetchError, GrpcError};

struct Fetches;

#[filter]
impl Filter for Fetches {
    type Config = NoConfig;

    fn new(_config: NoConfig, _plugin: &Plugin) -> Result<Self> {
        Ok(Self)
    }

    async fn on_request(self: Rc<Self>, request: Request) -> Result<Flow> {
        let result = match request.path().as_str() {
            "/http" => {
                let answer = request
                    .fetch("authz.ops:80")
                    .post("/check?x=1")
                    .header("X-Who", "me")
                    .body("who?")
                    .timeout(Duration::from_millis(250))
                    .await;
                answer.map(|it| format!("{} {}", it.status, String::from_utf8_lossy(&it.body)))
            }
            "/grpc" => {
                let answer = request
                    .fetch("users:50051")
                    .grpc("/users.Users/Get")
                    .metadata("x-tenant", "blue")
                    .message(b"ask")
                    .timeout(Duration::from_secs(1))
                    .await;
                Ok(match answer {
                    Ok(message) => String::from_utf8_lossy(&message).into_owned(),
                    Err(GrpcError::Status { code, message }) => format!("{code} {message}"),
                    Err(other) => other.to_string(),
                })
            }
            "/long" => {
                let path = format!("/{}", "x".repeat(8 * 1024));
                let answer = request.fetch("a:80").get(path).await;
                answer.map(|it| it.status.to_string())
            }
            "/large" => {
                let value = "x".repeat(16 * 1024 + 1);
                let fetch = request.fetch("a:80").get("/").header("x-a", value);
                fetch.await.map(|it| it.status.to_string())
            }
            "/host" => {
                let fetch = request
                    .fetch("a:80")
                    .get("/")
                    .header("host", "c")
                    .header("Host", "b");
                fetch.await.map(|it| it.status.to_string())
            }
            "/length" => {
                let fetch = request
                    .fetch("a:80")
                    .post("/")
                    .header("content-length", "0");
                fetch.await.map(|it| it.status.to_string())
            }
            "/both" => {
                // The second is started before the first has answered.
                let first = request.fetch("a:80").get("/").into_future();
                let second = request.fetch("b:80").get("/").into_future();
                let (first, second) = join(first, second).await;
                Ok(format!("{}{}", first?.status, second?.status))
            }
            "/given up" => {
                let slow = request.fetch("slow:80").get("/").into_future();
                let given_up = request.timeout(Duration::from_millis(5), slow).await;
                Ok(format!("{}", given_up.is_err()))
            }
            _ => Ok("nothing".to_owned()),
        };
        let text = result.unwrap_or_else(|err| err.to_string());
        request.headers().set("x-result", text)?;
        Ok(Flow::Continue)
    }
}

use std::future::{Future, IntoFuture as _, poll_fn};
use std::pin::pin;
use std::task::Poll;

async fn join<A: Future, B: Future>(a: A, b: B) -> (A::Output, B::Output) {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (mut left, mut right) = (None, None);
    poll_fn(|cx| {
        if left.is_none()
            && let Poll::Ready(value) = a.as_mut().poll(cx)
        {
            left = Some(value);
        }
        if right.is_none()
            && let Poll::Ready(value) = b.as_mut().poll(cx)
        {
            right = Some(value);
        }
        match (left.take(), right.take()) {
            (Some(a), Some(b)) => Poll::Ready((a, b)),
            (a, b) => {
                (left, right) = (a, b);
                Poll::Pending
            }
        }
    })
    .await
}

fn host() -> TestHost<Fetches> {
    TestHost::new("{}").expect("it has no configuration")
}

#[test]
fn a_request_is_held_until_the_answer_comes() {
    let host = host();
    host.answer("authz.ops:80", |fetch| {
        Answer::status(203)
            .body(format!("{} {}", fetch.method, fetch.path))
            .after(Duration::from_millis(100))
    });
    let exchange = host.send(TestRequest::get("/http"));
    assert!(exchange.request().held());
    host.advance(Duration::from_millis(99));
    assert!(exchange.request().held());
    host.advance(Duration::from_millis(1));
    let result = exchange.request().header("x-result");
    assert_eq!(result.as_deref(), Some("203 POST /check?x=1"));
    let sent = host.fetches();
    assert_eq!(sent[0].header("x-who").as_deref(), Some("me"));
    assert_eq!(sent[0].body, b"who?");
    assert!(!sent[0].http2);
}

#[test]
fn a_fetch_ends_in_time() {
    let host = host();
    host.answer("authz.ops:80", |_| Answer::never());
    let exchange = host.send(TestRequest::get("/http"));
    host.advance(Duration::from_millis(249));
    assert!(exchange.request().held());
    host.advance(Duration::from_millis(1));
    let result = exchange.request().header("x-result");
    assert_eq!(result.as_deref(), Some("no answer in time"));
}

#[test]
fn a_refused_fetch_says_why() {
    let host = host();
    let nobody = host.send(TestRequest::get("/http")).request();
    let result = nobody.header("x-result").expect("a result");
    assert_eq!(result, FetchError::NoEndpoint.to_string());
    host.answer("authz.ops:80", |_| Answer::error(FetchError::Denied));
    let denied = host.send(TestRequest::get("/http")).request();
    let result = denied.header("x-result").expect("a result");
    assert_eq!(result, FetchError::Denied.to_string());
}

#[test]
fn a_grpc_call_is_one_message_each_way() {
    let host = host();
    host.answer("users:50051", |_| Answer::grpc(b"ada"));
    let exchange = host.send(TestRequest::get("/grpc"));
    assert_eq!(
        exchange.request().header("x-result").as_deref(),
        Some("ada")
    );
    let sent = &host.fetches()[0];
    assert!(sent.http2);
    assert_eq!(sent.method, "POST");
    assert_eq!(sent.path, "/users.Users/Get");
    assert_eq!(sent.body, b"\0\0\0\0\x03ask");
    assert_eq!(
        sent.header("content-type").as_deref(),
        Some("application/grpc")
    );
    assert_eq!(sent.header("te").as_deref(), Some("trailers"));
    assert_eq!(sent.header("grpc-timeout").as_deref(), Some("1000m"));
    assert_eq!(sent.header("x-tenant").as_deref(), Some("blue"));
}

#[test]
fn what_is_wrong_with_a_grpc_answer_is_told() {
    let cases = [
        (
            Answer::status(200)
                .trailer("grpc-status", "5")
                .trailer("grpc-message", "no%20user%3A %C3%A4%zz"),
            "5 no user: \u{e4}%zz",
        ),
        // Trailers only: the status stands in the headers.
        (Answer::status(200).header("grpc-status", "7"), "7 "),
        (Answer::status(503), "HTTP status 503"),
        (
            Answer::ok(""),
            "the answer is not one of gRPC: it has no grpc-status",
        ),
        (
            Answer::ok("").trailer("grpc-status", "0"),
            "the answer is not one of gRPC: it has no message",
        ),
        (
            Answer::ok(b"\0\xff\xff\xff\xffx").trailer("grpc-status", "0"),
            "the answer is not one of gRPC: its message has another length than it says",
        ),
        (
            Answer::ok(b"\x01\0\0\0\x01x").trailer("grpc-status", "0"),
            "the answer is not one of gRPC: its message is compressed",
        ),
    ];
    for (answer, expected) in cases {
        let host = host();
        host.answer("users:50051", move |_| answer.clone());
        let exchange = host.send(TestRequest::get("/grpc"));
        assert_eq!(
            exchange.request().header("x-result").as_deref(),
            Some(expected)
        );
    }
}

#[test]
fn two_fetches_are_under_way_at_once() {
    let host = host();
    host.answer("a:80", |_| {
        Answer::status(201).after(Duration::from_millis(30))
    });
    host.answer("b:80", |_| {
        Answer::status(202).after(Duration::from_millis(10))
    });
    let exchange = host.send(TestRequest::get("/both"));
    assert_eq!(host.fetches().len(), 2);
    host.advance(Duration::from_millis(30));
    assert_eq!(
        exchange.request().header("x-result").as_deref(),
        Some("201202")
    );
}

#[test]
fn a_fetch_that_nobody_waits_for_is_cancelled() {
    let host = host();
    host.answer("slow:80", |_| Answer::ok("").after(Duration::from_secs(1)));
    let exchange = host.send(TestRequest::get("/given up"));
    host.advance(Duration::from_millis(5));
    assert_eq!(
        exchange.request().header("x-result").as_deref(),
        Some("true")
    );
    host.advance(Duration::from_secs(1));
    assert!(exchange.request().passed());
}

#[test]
fn what_the_proxy_would_not_send_is_refused_in_a_test_too() {
    let host = TestHost::<Fetches>::new("{}").expect("it has no configuration");
    host.answer("a:80", |_| Answer::ok(""));
    for (path, why) in [
        ("/long", "at most 8192 bytes"),
        ("/large", "too large"),
        ("/length", "the header content-length of a fetch: the proxy"),
    ] {
        let exchange = host.send(TestRequest::get(path));
        let result = exchange.request().header("x-result").expect("a result");
        assert!(result.contains(why), "{result}");
    }
    assert!(host.fetches().is_empty());
}

#[test]
fn a_fetch_may_name_another_host() {
    let host = TestHost::<Fetches>::new("{}").expect("it has no configuration");
    host.answer("a:80", |_| Answer::ok(""));
    let _exchange = host.send(TestRequest::get("/host"));
    let [fetch] = &host.fetches()[..] else {
        panic!("{:?}", host.fetches())
    };
    assert_eq!(fetch.header("host").as_deref(), Some("b"));
}
