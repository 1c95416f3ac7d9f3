//! Shared values, metrics, logs and spans.

use weft_sdk::prelude::*;
use weft_sdk::testing::{TestHost, TestRequest};
use weft_sdk::{KvError, Level, time};

struct Shared {
    kv: Kv,
    seen: Counter,
    sizes: Histogram,
}

#[filter]
impl Filter for Shared {
    type Config = NoConfig;

    fn new(_config: NoConfig, plugin: &Plugin) -> Result<Self> {
        plugin.log().info("made", &[("kind", &"shared")]);
        Ok(Self {
            kv: plugin.kv(),
            seen: plugin.counter("seen", &[("where", "here"), ("a", "b")])?,
            sizes: plugin.histogram("sizes", &[])?,
        })
    }

    async fn on_request(self: Rc<Self>, request: Request) -> Result<Flow> {
        self.seen.increment();
        self.seen.add(-5.0);
        self.sizes.record(7.0);
        let result = match request.path().as_str() {
            "/count" => self
                .kv
                .increment("n", 1, Duration::from_secs(10))
                .map(|n| n.to_string()),
            "/number" => Ok(format!("{:?}", self.kv.number("n"))),
            "/set" => self.kv.set("text", "abc", None).map(|_| "set".to_owned()),
            "/wrong" => self.kv.increment("text", 1, None).map(|n| n.to_string()),
            "/cas" => {
                let taken = self.kv.compare_and_set("once", None, "1", None);
                let again = self.kv.compare_and_set("once", None, "2", None);
                assert!(matches!(again, Err(KvError::Conflict(Some(_)))));
                let next = self
                    .kv
                    .compare_and_set("once", taken.clone().ok(), "3", None);
                next.map(|next| (Some(next) > taken.ok()).to_string())
            }
            "/append" => self
                .kv
                .update("all", None, |old| [old.unwrap_or_default(), b"x"].concat())
                .map(|_| "appended".to_owned()),
            "/remove" => {
                self.kv.remove("text");
                Ok(self.kv.get("text").is_none().to_string())
            }
            _ => Ok(String::new()),
        };
        request.span().set("kv.result", result.is_ok());
        request.span().event("asked", &[("path", &request.path())]);
        request
            .log()
            .at(Level::Debug, "done", &[("n", &1), ("ok", &result.is_ok())]);
        let text = result.unwrap_or_else(|err| err.to_string());
        request.headers().set("x-result", text)?;
        request
            .headers()
            .set("x-random", time::random_fraction().to_string())?;
        Ok(Flow::Continue)
    }
}

fn host() -> TestHost<Shared> {
    TestHost::new("{}").expect("it has no configuration")
}

fn ask(host: &TestHost<Shared>, path: &str) -> String {
    let exchange = host.send(TestRequest::get(path));
    exchange.request().header("x-result").expect("a result")
}

#[test]
fn a_counter_is_shared_and_lives_for_its_time() {
    let host = host();
    let other = host.another("{}").expect("a second instance");
    assert_eq!(ask(&host, "/count"), "1");
    host.advance(Duration::from_secs(6));
    assert_eq!(ask(&other, "/count"), "2");
    assert_eq!(ask(&other, "/number"), "Some(2)");
    host.advance(Duration::from_secs(5));
    assert_eq!(ask(&host, "/count"), "1", "its time counts from the first");
}

#[test]
fn what_is_no_number_is_not_counted() {
    let host = host();
    assert_eq!(ask(&host, "/set"), "set");
    assert!(ask(&host, "/wrong").contains("text"));
    assert_eq!(host.stored("text").as_deref(), Some(&b"abc"[..]));
    assert_eq!(ask(&host, "/remove"), "true");
}

#[test]
fn versions_keep_updates_apart() {
    let host = host();
    assert_eq!(ask(&host, "/cas"), "true");
    ask(&host, "/append");
    ask(&host, "/append");
    assert_eq!(host.stored("all").as_deref(), Some(&b"xx"[..]));
}

#[test]
fn a_quota_is_an_error() {
    let host = host();
    host.set_kv_quota(1, 1000);
    assert_eq!(ask(&host, "/set"), "set");
    assert!(ask(&host, "/count").contains("quota"));
}

#[test]
fn metrics_add_up() {
    let host = host();
    ask(&host, "/");
    ask(&host, "/");
    let seen = host.metric("seen", &[("a", "b"), ("where", "here")]);
    assert!((seen - 2.0).abs() < f64::EPSILON, "{seen}");
    assert!((host.metric("sizes", &[]) - 7.0).abs() < f64::EPSILON);
}

#[test]
fn logs_and_spans_have_fields() {
    let host = host();
    let exchange = host.send(TestRequest::get("/x"));
    assert_eq!(
        exchange.span_attribute("kv.result").as_deref(),
        Some("true")
    );
    assert_eq!(exchange.span_events(), ["asked"]);
    let logs = host.logs();
    assert_eq!(logs[0].message, "made");
    assert_eq!(logs[0].field("kind"), Some("shared"));
    assert_eq!(logs[1].level, Level::Debug);
    assert_eq!(logs[1].field("ok"), Some("true"));
}

#[test]
fn randomness_is_what_the_test_says() {
    let host = host();
    host.set_random(&[0xff]);
    let exchange = host.send(TestRequest::get("/"));
    let random: f64 = exchange
        .request()
        .header("x-random")
        .and_then(|text| text.parse().ok())
        .expect("a number");
    assert!(random > 0.999 && random < 1.0, "{random}");
}
