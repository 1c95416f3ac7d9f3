//! Bodies and trailers: held, streamed, replaced.

use weft_sdk::prelude::*;
use weft_sdk::testing::{Answer, TestHost, TestRequest, TestResponse};

/// Handles the body as its configuration says.
struct Bodies(String);

#[derive(Deserialize, JsonSchema)]
struct Config {
    how: String,
}

#[filter]
impl Filter for Bodies {
    type Config = Config;

    fn new(config: Config, _plugin: &Plugin) -> Result<Self> {
        Ok(Self(config.how))
    }

    async fn on_request(self: Rc<Self>, request: Request) -> Result<Flow> {
        let mut body = request.body();
        match self.0.as_str() {
            "collect" => {
                let all = body.collect(10).await?;
                request.headers().set("x-size", all.len().to_string())?;
            }
            "first" => {
                body.next().await;
                body.replace("*");
            }
            "replace all" => {
                while body.next().await.is_some() {}
                body.replace("new");
            }
            "replace early" => {
                body.next().await;
                body.replace("early ");
                while body.next().await.is_some() {}
            }
            "stream" => {
                let mut body = body.streaming();
                while let Some(part) = body.next().await {
                    body.replace(part.to_ascii_uppercase());
                }
            }
            "slow" => {
                let mut body = body.streaming();
                while body.next().await.is_some() {
                    request.fetch("scan:80").get("/").await?;
                }
            }
            "stop" => {
                let mut body = body.streaming();
                while let Some(part) = body.next().await {
                    if part.starts_with(b"bad") {
                        return Ok(Reply::new(400).into());
                    }
                }
            }
            "late header" => {
                let mut body = body.streaming();
                body.next().await;
                request.headers().set("x-late", "1")?;
            }
            "trailers" => {
                let trailers = request.trailers().await;
                let value = trailers.and_then(|trailers| {
                    trailers.set("x-added", "1").ok()?;
                    trailers.get_str("x-sum")
                });
                let value = value.unwrap_or_else(|| "none".to_owned());
                request.headers().set("x-trailer", value)?;
            }
            _ => {}
        }
        Ok(Flow::Continue)
    }

    async fn on_response(self: Rc<Self>, response: Response) -> Result<Flow> {
        if self.0 == "response" {
            let mut body = response.body();
            let all = body.collect(100).await?;
            body.replace([&all[..], b"!"].concat());
        }
        Ok(Flow::Continue)
    }
}

fn host(how: &str) -> TestHost<Bodies> {
    TestHost::new(serde_json::json!({ "how": how })).expect("a configuration")
}

fn three() -> TestRequest {
    TestRequest::post("/").body("ab").body("cd").body("ef")
}

#[test]
fn a_body_that_is_read_holds_the_head_back() {
    let exchange = host("collect").send(three());
    let request = exchange.request();
    assert_eq!(request.header("x-size").as_deref(), Some("6"));
    assert_eq!(request.body(), b"abcdef");
    assert!(request.passed());
}

#[test]
fn a_request_without_a_body_has_an_empty_one() {
    for how in ["collect", "stream", "first"] {
        let exchange = host(how).send(TestRequest::get("/"));
        assert!(exchange.request().passed(), "{how}");
    }
}

#[test]
fn too_much_is_an_error() {
    let exchange = host("collect").send(three().body("0123456789"));
    let failure = exchange.failure().expect("a failure");
    assert_eq!(failure, "the body has more than 10 bytes");
    assert_eq!(exchange.request().body(), b"", "nothing was sent on");
}

#[test]
fn what_was_read_is_replaced_and_the_rest_goes_on() {
    assert_eq!(host("first").send(three()).request().body(), b"*cdef");
    assert_eq!(host("replace all").send(three()).request().body(), b"new");
    assert_eq!(
        host("replace early").send(three()).request().body(),
        b"early cdef"
    );
}

#[test]
fn a_stream_is_changed_part_by_part() {
    let exchange = host("stream").send(three());
    assert_eq!(exchange.request().body(), b"ABCDEF");
    assert!(exchange.request().passed());
}

#[test]
fn a_part_goes_on_when_the_next_is_asked_for() {
    let host = host("slow");
    host.answer("scan:80", |_| Answer::ok("").after(Duration::from_secs(1)));
    let exchange = host.send(three());
    assert!(exchange.request().head_sent());
    assert_eq!(
        exchange.request().body(),
        b"",
        "the first part is looked at"
    );
    host.advance(Duration::from_secs(1));
    assert_eq!(exchange.request().body(), b"ab");
    host.advance(Duration::from_secs(1));
    assert_eq!(exchange.request().body(), b"abcd");
    assert!(exchange.request().held());
    host.advance(Duration::from_secs(1));
    assert_eq!(exchange.request().body(), b"abcdef");
    assert!(exchange.request().passed());
}

#[test]
fn a_stream_is_ended_early_by_a_reply() {
    let exchange = host("stop").send(three().body("bad").body("more"));
    assert_eq!(exchange.request().body(), b"abcdef");
    assert_eq!(exchange.reply().expect("a reply").status, 400);
}

#[test]
fn a_head_that_has_gone_on_is_not_changed() {
    let exchange = host("late header").send(three());
    assert!(exchange.failure().expect("a failure").contains("x-late"));
}

#[test]
fn trailers_come_after_the_body() {
    let host = host("trailers");
    let exchange = host.send(three().trailer("x-sum", "42"));
    assert_eq!(
        exchange.request().header("x-trailer").as_deref(),
        Some("42")
    );
    assert_eq!(exchange.request().trailer("x-added").as_deref(), Some("1"));
    assert_eq!(exchange.request().body(), b"abcdef");
    for without in [three(), TestRequest::get("/")] {
        let exchange = host.send(without);
        let value = exchange.request().header("x-trailer");
        assert_eq!(value.as_deref(), Some("none"));
    }
}

#[test]
fn trailers_alone_follow_a_head() {
    let exchange = host("trailers").send(TestRequest::get("/").trailer("x-sum", "1"));
    assert_eq!(exchange.request().header("x-trailer").as_deref(), Some("1"));
}

#[test]
fn a_response_body_is_replaced() {
    let exchange = host("response").send(TestRequest::get("/"));
    exchange.respond(TestResponse::new(200).body("hel").body("lo"));
    assert_eq!(exchange.response().body(), b"hello!");
}

#[test]
fn more_than_may_be_held_is_answered_for_the_filter() {
    let big = vec![b'x'; (1 << 20) + 1];
    let exchange = host("replace all").send(TestRequest::post("/").body(big).body("more"));
    assert_eq!(exchange.reply().expect("a reply").status, 413);
}

/// Reads a body although its interests name only the head.
struct HeadOnly;

#[filter]
impl Filter for HeadOnly {
    const INTERESTS: Interests = Interests::REQUEST_HEADERS;
    type Config = NoConfig;

    fn new(_config: NoConfig, _plugin: &Plugin) -> Result<Self> {
        Ok(Self)
    }

    async fn on_request(self: Rc<Self>, request: Request) -> Result<Flow> {
        if request.path() == "/read" {
            request.body().next().await;
        }
        Ok(Flow::Continue)
    }
}

#[test]
fn a_body_that_never_comes_is_no_empty_body() {
    let host = TestHost::<HeadOnly>::new("{}").expect("a configuration");
    let exchange = host.send(TestRequest::post("/read").body("x"));
    assert!(exchange.failure().expect("a failure").contains("INTERESTS"));
    let exchange = host.send(TestRequest::post("/").body("x"));
    assert_eq!(exchange.request().body(), b"x");
}
