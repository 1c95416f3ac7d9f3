//! The filter on requests, with dice that fall as the test says.
#![expect(clippy::expect_used, reason = "helpers of tests fail as the tests do")]

use std::time::Duration;

use filter_fault_injection::FaultInjection;
use serde_json::{Value, json};
use weft_sdk::testing::{TestHost, TestRequest};

fn host(config: Value) -> TestHost<FaultInjection> {
    TestHost::new(config).expect("the configuration is good")
}

#[test]
fn a_delayed_request_goes_on_after_its_time() {
    let host = host(json!({"delay": {"milliseconds": 200, "percent": 100}}));
    let exchange = host.send(TestRequest::get("/"));
    host.advance(Duration::from_millis(199));
    assert!(exchange.request().held());
    host.advance(Duration::from_millis(1));
    assert!(exchange.request().passed());
    assert_eq!(exchange.span_events(), ["fault: delay"]);
    assert!((host.metric("faults", &[("kind", "delay")]) - 1.0).abs() < f64::EPSILON);
}

#[test]
fn a_jitter_makes_it_longer() {
    let host = host(json!({
        "delay": {"milliseconds": 100, "jitter_milliseconds": 100, "percent": 100},
    }));
    // Half of it.
    host.set_random(&[0x80, 0, 0, 0]);
    let exchange = host.send(TestRequest::get("/"));
    host.advance(Duration::from_millis(149));
    assert!(exchange.request().held());
    host.advance(Duration::from_millis(1));
    assert!(exchange.request().passed());
}

#[test]
fn an_aborted_request_is_answered_here() {
    let host = host(json!({"abort": {"status": 500, "grpc_status": 14, "percent": 100}}));
    let exchange = host.send(TestRequest::get("/"));
    let reply = exchange.reply().expect("a reply");
    assert_eq!(
        (reply.status, reply.reason.as_str()),
        (500, "injected fault")
    );
    let grpc = host.send(TestRequest::post("/").header("content-type", "application/grpc+proto"));
    let reply = grpc.reply().expect("a reply");
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("grpc-status").as_deref(), Some("14"));
}

#[test]
fn so_many_of_a_hundred() {
    let host = host(json!({"abort": {"percent": 25}}));
    let aborted = |random: u8| {
        host.set_random(&[random, 0, 0, 0]);
        host.send(TestRequest::get("/")).reply().is_some()
    };
    assert!(aborted(0));
    assert!(aborted(63));
    assert!(!aborted(64), "64 of 256 is a quarter");
    assert!(!aborted(255));
    let never = self::host(json!({"abort": {"percent": 0}}));
    never.set_random(&[0]);
    assert!(never.send(TestRequest::get("/")).reply().is_none());
}

#[test]
fn a_delay_comes_before_an_abort() {
    let host = host(json!({
        "delay": {"milliseconds": 10, "percent": 100},
        "abort": {"percent": 100},
    }));
    let exchange = host.send(TestRequest::get("/"));
    assert!(exchange.request().held());
    host.advance(Duration::from_millis(10));
    assert_eq!(exchange.reply().expect("a reply").status, 503);
}

#[test]
fn other_requests_are_left_alone() {
    let host = host(json!({
        "abort": {"percent": 100},
        "when": {
            "header": {"name": "X-Fault", "value": "yes"},
            "path_prefix": "/api",
            "source_labels": {"app": "web"},
        },
    }));
    let hit = || {
        TestRequest::get("/api/1").header("x-fault", "yes").from(
            "default",
            "web-1",
            1,
            &[("app", "web")],
        )
    };
    assert!(host.send(hit()).reply().is_some());
    assert!(
        host.send(hit().attributes(|it| it.path = "/".to_owned()))
            .reply()
            .is_none()
    );
    assert!(
        host.send(hit().from("default", "db-1", 2, &[("app", "db")]))
            .reply()
            .is_none()
    );
    let other = TestRequest::get("/api/1").from("default", "web-1", 1, &[("app", "web")]);
    assert!(host.send(other.clone()).reply().is_none());
    assert!(host.send(other.header("x-fault", "no")).reply().is_none());
}

#[test]
fn a_wrong_configuration_names_the_field() {
    for (config, named) in [
        (json!({}), "neither delay nor abort"),
        (json!({"abort": {"percent": 101}}), "abort.percent: "),
        (
            json!({"delay": {"milliseconds": 1, "percent": -1}}),
            "delay.percent: ",
        ),
        (
            json!({"delay": {"milliseconds": 60_001, "percent": 1}}),
            "delay: at most",
        ),
        (
            json!({"abort": {"percent": 1, "status": 99}}),
            "abort.status: ",
        ),
        (json!({"abort": {"percent": "all"}}), "abort.percent: "),
        (
            json!({"abort": {"percent": 1}, "when": {"header": {"name": "x:a"}}}),
            "when.header.name: ",
        ),
    ] {
        let err = TestHost::<FaultInjection>::new(config)
            .err()
            .expect("it is refused");
        assert!(err.contains(named), "{err}");
    }
}
