//! What the proxy refuses is refused in a test too, and hangs nobody.

use std::cell::{Cell, RefCell};
use std::future::{IntoFuture as _, poll_fn};
use std::task::{Poll, Waker};

use weft_sdk::prelude::*;
use weft_sdk::testing::{Answer, TestHost, TestRequest, TestResponse};
use weft_sdk::time::GivenUp;

/// Does what the path says, and tells in the span what came of it.
#[derive(Default)]
struct Greedy {
    open: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

#[filter]
impl Filter for Greedy {
    type Config = NoConfig;

    fn new(_config: NoConfig, _plugin: &Plugin) -> Result<Self> {
        Ok(Self::default())
    }

    async fn on_request(self: Rc<Self>, request: Request) -> Result<Flow> {
        let result = match request.path().as_str() {
            "/wait" => {
                self.wait().await;
                String::new()
            }
            "/open" => {
                self.open.set(true);
                self.waiting.take().into_iter().for_each(Waker::wake);
                String::new()
            }
            "/timers" => timers(&request).await,
            "/fetches" => fetches(&request).await,
            "/written" => written(&request),
            "/headers" => headers(&request),
            "/said" => {
                for at in 0..100 {
                    request.log().info("a line", &[("at", &at)]);
                    request.span().event("an event", &[]);
                }
                String::new()
            }
            path => return reply(path),
        };
        request.span().set("result", result);
        Ok(Flow::Continue)
    }

    async fn on_response(self: Rc<Self>, response: Response) -> Result<Flow> {
        // What the proxy writes in requests it leaves to others in responses.
        response.headers().set("x-request-id", "1")?;
        Ok(Flow::Continue)
    }
}

impl Greedy {
    async fn wait(&self) {
        poll_fn(|cx| {
            if self.open.get() {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

async fn timers(request: &Request) -> String {
    let mut sleeps: Vec<_> = (0..16)
        .map(|_| Box::pin(request.sleep(Duration::from_secs(1))))
        .collect();
    let mut set = 0;
    poll_fn(|cx| {
        for sleep in &mut sleeps {
            set += usize::from(sleep.as_mut().poll(cx).is_pending());
        }
        Poll::Ready(())
    })
    .await;
    let refused = request.sleep(Duration::from_secs(1)).await;
    let limit = Duration::from_secs(1);
    let unwatched = request.timeout(limit, std::future::pending::<()>()).await;
    assert_eq!(unwatched, Err(GivenUp::TooManyTimers));
    let over = request.timeout(limit, async { 7 }).await;
    assert_eq!(over, Ok(7), "what is over needs no timer");
    drop(sleeps);
    let again = request.sleep(Duration::from_millis(1)).await;
    format!("{set} {} {}", refused.is_err(), again.is_ok())
}

async fn fetches(request: &Request) -> String {
    let mut all: Vec<_> = (0..17)
        .map(|_| request.fetch("a:80").get("/").into_future())
        .collect();
    let (mut pending, mut refused) = (0, String::new());
    poll_fn(|cx| {
        for fetch in &mut all {
            match fetch.as_mut().poll(cx) {
                Poll::Pending => pending += 1,
                Poll::Ready(answer) => {
                    refused = answer.err().map(|it| it.to_string()).unwrap_or_default()
                }
            }
        }
        Poll::Ready(())
    })
    .await;
    format!("{pending} {refused}")
}

/// How many values of 1 KiB can be written, and how many headers there can be.
fn written(request: &Request) -> String {
    let value = "x".repeat(1024 - 3);
    let headers = request.headers();
    let values = (0..100).take_while(|_| headers.set("x-a", &value).is_ok());
    format!("{}", values.count())
}

fn headers(request: &Request) -> String {
    let headers = request.headers();
    let large = "x".repeat(16 * 1024 + 1);
    let refused = [
        headers.set("x-a", &large),
        headers.set("x-a", "a\x7fb"),
        headers.set("x-a", "a\x01b"),
        headers.set("x-request-id", "1"),
        headers.append("X-Envoy-Retry-On", "5xx"),
        headers.remove("x_request_id"),
        headers.set("proxy-authenticate", "1"),
    ];
    assert!(refused.iter().all(Result::is_err), "{refused:?}");
    assert!(headers.set("x-b", "tab\tand \u{e9}").is_ok());
    let count = (0..300).take_while(|_| headers.append("x-many", "1").is_ok());
    format!("{}", count.count())
}

fn reply(path: &str) -> Result<Flow> {
    Ok(match path {
        "/99" => Reply::new(99),
        "/600" => Reply::new(600),
        "/name" => Reply::new(200).header("x y", "1"),
        "/value" => Reply::new(200).header("x", "a\nb"),
        "/many" => (0..300).fold(Reply::new(200), |reply, _| reply.header("x", "1")),
        _ => return Ok(Flow::Continue),
    }
    .into())
}

fn host() -> TestHost<Greedy> {
    TestHost::new("{}").expect("it has no configuration")
}

fn result(host: &TestHost<Greedy>, path: &str) -> String {
    let exchange = host.send(TestRequest::get(path));
    host.advance(Duration::from_millis(1));
    assert!(
        exchange.request().passed(),
        "{path}: {:?}",
        exchange.failure()
    );
    exchange.span_attribute("result").expect("a result")
}

#[test]
fn a_timer_that_is_refused_is_an_error_at_once() {
    assert_eq!(result(&host(), "/timers"), "16 true true");
}

#[test]
fn so_many_fetches_are_under_way_at_once_and_no_more() {
    let host = host();
    host.answer("a:80", |_| Answer::never());
    assert_eq!(result(&host, "/fetches"), "16 too many fetches at once");
}

#[test]
fn headers_have_bounds() {
    assert_eq!(result(&host(), "/written"), "64");
    // One that was there, and x-b.
    let exchange = host().send(TestRequest::get("/headers").header("x-there", "1"));
    let count = exchange.span_attribute("result").expect("a result");
    assert_eq!(count, "254");
}

#[test]
fn what_one_call_says_has_bounds() {
    let host = host();
    let exchange = host.send(TestRequest::get("/said"));
    assert_eq!(host.logs().len(), 64);
    assert_eq!(exchange.span_events().len(), 64);
    let exchange = host.send(TestRequest::get("/said"));
    assert_eq!(host.logs().len(), 128);
    assert_eq!(exchange.span_events().len(), 64);
}

#[test]
fn a_reply_that_cannot_be_sent_is_a_failure() {
    for (path, why) in [
        ("/99", "status 99"),
        ("/600", "status 600"),
        ("/name", "\"x y\" is no name"),
        ("/value", "control characters"),
        ("/many", "too many headers"),
    ] {
        let exchange = host().send(TestRequest::get(path));
        let failure = exchange.failure().expect("it fails");
        assert!(failure.contains(why), "{path}: {failure}");
        assert!(exchange.reply().is_none());
    }
}

#[test]
fn a_response_may_have_what_a_request_may_not() {
    let host = host();
    let exchange = host.send(TestRequest::get("/"));
    exchange.respond(TestResponse::new(200));
    let id = exchange.response().header("x-request-id");
    assert_eq!(id.as_deref(), Some("1"));
}

/// Each of them is polled again by a timer of its own, of which one call may set 256.
#[test]
fn nobody_is_forgotten_who_is_woken_with_many_others() {
    let host = host();
    let waiting: Vec<_> = (0..600)
        .map(|_| host.send(TestRequest::get("/wait")))
        .collect();
    assert!(waiting.iter().all(|exchange| exchange.request().held()));
    let _opening = host.send(TestRequest::get("/open"));
    let held = waiting.iter().filter(|exchange| exchange.request().held());
    assert_eq!(held.count(), 0);
}
