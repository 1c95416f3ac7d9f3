//! The filter on requests.
#![expect(clippy::expect_used, reason = "helpers of tests fail as the tests do")]

use std::time::Duration;

use filter_rate_limit::RateLimit;
use serde_json::{Value, json};
use weft_sdk::testing::{TestHost, TestRequest};

fn host(config: Value) -> TestHost<RateLimit> {
    TestHost::new(config).expect("the configuration is good")
}

/// The status of the filter's answer, none where it lets the request through.
fn status(host: &TestHost<RateLimit>, request: TestRequest) -> Option<u16> {
    let exchange = host.send(request);
    assert_eq!(exchange.failure(), None);
    exchange.reply().map(|reply| reply.status)
}

fn landing() -> TestRequest {
    TestRequest::post("/v1/request-landing").from("default", "tiefighter", 7, &[])
}

#[test]
fn the_sixth_in_a_second_is_too_many() {
    let host = host(json!({"limit": 5}));
    for _ in 0..5 {
        assert_eq!(status(&host, landing()), None);
    }
    let exchange = host.send(landing());
    let reply = exchange.reply().expect("a reply");
    assert_eq!(reply.status, 429);
    assert_eq!(reply.header("retry-after").as_deref(), Some("1"));
    assert_eq!(reply.header("x-ratelimit-limit").as_deref(), Some("5"));
    assert_eq!(reply.reason, "over 5 requests in 1 s");
    assert_eq!(
        exchange.span_attribute("rate_limit.key").as_deref(),
        Some("7")
    );
    host.advance(Duration::from_secs(1));
    assert_eq!(status(&host, landing()), None, "a new window");
}

#[test]
fn all_workers_of_a_node_count_together() {
    let first = host(json!({"limit": 2}));
    let second = first.another(json!({"limit": 2})).expect("a second worker");
    assert_eq!(status(&first, landing()), None);
    assert_eq!(status(&second, landing()), None);
    assert_eq!(status(&first, landing()), Some(429));
    assert_eq!(status(&second, landing()), Some(429));
}

#[test]
fn each_worker_counts_by_itself() {
    let config = json!({"limit": 1, "scope": "worker"});
    let first = host(config.clone());
    let second = first.another(config).expect("a second worker");
    assert_eq!(status(&first, landing()), None);
    assert_eq!(status(&second, landing()), None);
    assert_eq!(status(&first, landing()), Some(429));
    first.advance(Duration::from_millis(999));
    assert_eq!(status(&first, landing()), Some(429));
    first.advance(Duration::from_millis(1));
    assert_eq!(status(&first, landing()), None);
}

#[test]
fn clients_are_told_apart_by_the_key() {
    let by_header = host(json!({"limit": 1, "key": {"header": "x-user"}}));
    let of = |user: &str| TestRequest::get("/").header("x-user", user);
    assert_eq!(status(&by_header, of("ada")), None);
    assert_eq!(status(&by_header, of("ada")), Some(429));
    assert_eq!(status(&by_header, of("bob")), None);
    assert_eq!(status(&by_header, TestRequest::get("/")), None);
    assert_eq!(
        status(&by_header, TestRequest::get("/")),
        Some(429),
        "one limit without it"
    );

    let by_identity = host(json!({"limit": 1, "key": "identity"}));
    let from = |pod: &str, identity| TestRequest::get("/").from("default", pod, identity, &[]);
    assert_eq!(status(&by_identity, from("a", 1)), None);
    assert_eq!(status(&by_identity, from("b", 1)), Some(429));
    assert_eq!(status(&by_identity, from("b", 2)), None);

    let by_source = host(json!({"limit": 1, "key": "source"}));
    assert_eq!(status(&by_source, from("a", 1)), None);
    assert_eq!(status(&by_source, from("b", 1)), None);
    assert_eq!(status(&by_source, from("a", 1)), Some(429));

    let for_all = host(json!({"limit": 1, "key": "all"}));
    assert_eq!(status(&for_all, from("a", 1)), None);
    assert_eq!(status(&for_all, from("b", 2)), Some(429));
}

#[test]
fn other_requests_are_not_counted() {
    let host = host(json!({
        "limit": 1,
        "when": {"methods": ["POST"], "path_prefix": "/v1/request-landing"},
    }));
    for _ in 0..3 {
        assert_eq!(status(&host, TestRequest::get("/v1/request-landing")), None);
        assert_eq!(status(&host, TestRequest::post("/v1/other")), None);
    }
    assert_eq!(status(&host, landing()), None);
    assert_eq!(status(&host, landing()), Some(429));
}

#[test]
fn the_status_can_be_chosen_and_outcomes_are_counted() {
    let host = host(json!({"limit": 1, "status": 503}));
    assert_eq!(status(&host, landing()), None);
    assert_eq!(status(&host, landing()), Some(503));
    assert_eq!(status(&host, landing()), Some(503));
    let count = |outcome| host.metric("requests", &[("outcome", outcome)]);
    assert!((count("allowed") - 1.0).abs() < f64::EPSILON);
    assert!((count("limited") - 2.0).abs() < f64::EPSILON);
}

#[test]
fn clients_beyond_the_quota_share_one_window() {
    let first = host(json!({"limit": 2, "key": {"header": "x-user"}}));
    let second = first
        .another(json!({"limit": 2, "key": {"header": "x-user"}}))
        .expect("a second worker");
    let of = |user: &str| TestRequest::get("/").header("x-user", user);
    // The shared window, and one client.
    first.set_kv_quota(2, 1000);
    assert_eq!(status(&first, of("ada")), None);
    assert_eq!(status(&first, of("b")), None);
    assert_eq!(status(&second, of("c")), None);
    assert_eq!(status(&first, of("d")), Some(429), "it shares with b and c");
    assert_eq!(status(&first, of("ada")), None, "it has its own");
    first.advance(Duration::from_secs(1));
    assert_eq!(status(&second, of("d")), None);
    assert_eq!(status(&second, of("e")), None, "a new window");
}

#[test]
fn a_quota_without_any_room_is_a_failure() {
    let host = host(json!({"limit": 1}));
    host.set_kv_quota(0, 0);
    let exchange = host.send(landing());
    assert!(exchange.failure().expect("a failure").contains("quota"));
}

#[test]
fn a_wrong_configuration_names_the_field() {
    for (config, named) in [
        (json!({"limit": 0}), "limit: at least 1"),
        (
            json!({"limit": 1, "per_seconds": 0}),
            "per_seconds: at least 1",
        ),
        (json!({"limit": 1, "status": 200}), "status: between"),
        (json!({"limit": 1, "max_keys": 0}), "max_keys: at least 1"),
        (
            json!({"limit": 1, "max_keys": 50_001}),
            "max_keys: at most 50000",
        ),
        (json!({"limit": -1}), "limit: "),
        (json!({"limit": 1, "key": "color"}), "key: "),
        (json!({"limit": 1, "burst": 3}), "burst"),
        (
            json!({"limit": 1, "key": {"header": "x user"}}),
            "key.header: \"x user\" is no name",
        ),
    ] {
        let err = TestHost::<RateLimit>::new(config)
            .err()
            .expect("it is refused");
        assert!(err.contains(named), "{err}");
    }
}
