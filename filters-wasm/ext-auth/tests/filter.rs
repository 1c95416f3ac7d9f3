//! The filter with a Service that decides.
#![expect(clippy::expect_used, reason = "helpers of tests fail as the tests do")]

use std::time::Duration;

use filter_ext_auth::ExtAuth;
use serde_json::{Value, json};
use weft_sdk::FetchError;
use weft_sdk::testing::{Answer, TestHost, TestRequest};

fn host(change: impl FnOnce(&mut Value)) -> TestHost<ExtAuth> {
    let mut config = json!({"service": "authz.ops:80"});
    change(&mut config);
    TestHost::new(config).expect("the configuration is good")
}

#[test]
fn the_service_is_asked_and_a_good_answer_lets_through() {
    let host = host(|it| {
        it["path_prefix"] = "/check".into();
        it["accept_headers"] = json!(["x-user"]);
    });
    host.answer("authz.ops:80", |_| {
        Answer::ok("")
            .header("X-User", "ada")
            .header("x-other", "1")
    });
    let request = TestRequest::new("DELETE", "/item/1?x=2")
        .authority("shop.test")
        .header("authorization", "Bearer t")
        .header("accept", "text/html")
        .header("x-user", "root");
    let exchange = host.send(request);
    assert!(exchange.request().passed());
    assert_eq!(exchange.request().header_values("x-user"), ["ada"]);
    assert_eq!(exchange.request().header("x-other"), None);

    let asked = &host.fetches()[0];
    assert_eq!(asked.method, "DELETE");
    assert_eq!(asked.path, "/check/item/1?x=2");
    assert_eq!(asked.header("authorization").as_deref(), Some("Bearer t"));
    assert_eq!(asked.header("accept"), None);
    assert_eq!(
        asked.header("x-forwarded-method").as_deref(),
        Some("DELETE")
    );
    assert_eq!(
        asked.header("x-forwarded-host").as_deref(),
        Some("shop.test")
    );
    assert_eq!(
        asked.header("x-forwarded-uri").as_deref(),
        Some("/item/1?x=2")
    );
    assert_eq!(asked.timeout, Duration::from_secs(1));
}

#[test]
fn a_refusal_is_the_services_own() {
    let host = host(|_| {});
    host.answer("authz.ops:80", |_| {
        Answer::status(302)
            .header("location", "/login")
            .header("x-secret", "1")
            .body("go and log in")
    });
    let exchange = host.send(TestRequest::get("/"));
    let reply = exchange.reply().expect("a reply");
    assert_eq!(reply.status, 302);
    assert_eq!(reply.header("location").as_deref(), Some("/login"));
    assert_eq!(reply.header("x-secret"), None);
    assert_eq!(reply.text(), "go and log in");
    assert_eq!(reply.reason, "authz.ops:80 says 302");
    assert_eq!(
        exchange.span_attribute("ext_auth.status").as_deref(),
        Some("302")
    );
    assert!(!exchange.request().head_sent());
}

#[test]
fn a_service_that_does_not_decide_is_a_failure() {
    for answer in [
        Answer::status(500),
        Answer::error(FetchError::NoEndpoint),
        Answer::never(),
    ] {
        let host = host(|_| {});
        host.answer("authz.ops:80", move |_| answer.clone());
        let exchange = host.send(TestRequest::get("/"));
        host.advance(Duration::from_secs(1));
        let failure = exchange.failure().expect("a failure");
        assert!(failure.contains("authz.ops:80"), "{failure}");
        assert_eq!(exchange.reply(), None);
    }
}

#[test]
fn what_cannot_be_asked_about_is_refused_and_no_failure() {
    let host = host(|it| it["path_prefix"] = "/check".into());
    host.answer("authz.ops:80", |_| Answer::ok(""));
    let refusal = |request: TestRequest| {
        let exchange = host.send(request);
        assert_eq!(exchange.failure(), None);
        exchange.reply().map(|reply| reply.status)
    };
    let path = |bytes: usize| TestRequest::get(&format!("/{}", "a".repeat(bytes - 1)));
    let longest = 8 * 1024 - "/check".len();
    assert_eq!(refusal(path(longest)), None);
    assert_eq!(refusal(path(longest + 1)), Some(414));
    let shown = |bytes: usize| TestRequest::get("/").header("cookie", "c".repeat(bytes));
    assert_eq!(refusal(shown(16 * 1024)), None);
    assert_eq!(refusal(shown(16 * 1024 + 1)), Some(431));
    let all = (0..4).fold(TestRequest::get("/"), |request, _| {
        request.header("cookie", "c".repeat(16 * 1024))
    });
    assert_eq!(refusal(all), Some(431));
    let many = (0..300).fold(TestRequest::get("/"), |request, _| {
        request.header("cookie", "c")
    });
    assert_eq!(refusal(many), Some(431));
    // What the Service is not shown may be as large as the proxy lets it be.
    let hidden = TestRequest::get("/").header("x-other", "c".repeat(20 * 1024));
    assert_eq!(refusal(hidden), None);
    assert_eq!(refusal(TestRequest::new("CONNECT", "/")), Some(400));
    assert_eq!(host.fetches().len(), 3);
}

#[test]
fn the_body_is_shown_where_it_is_wanted() {
    let host = host(|it| it["send_body_bytes"] = 8.into());
    host.answer("authz.ops:80", |fetch| {
        Answer::status(if fetch.body == b"good" { 200 } else { 403 })
    });
    let good = host.send(TestRequest::post("/").body("go").body("od"));
    assert_eq!(good.request().body(), b"good");
    assert!(good.request().passed());
    let bad = host.send(TestRequest::post("/").body("bad"));
    assert_eq!(bad.reply().expect("a reply").status, 403);
    let long = host.send(TestRequest::post("/").body("123456789"));
    assert_eq!(long.reply().expect("a reply").status, 413);
    assert_eq!(host.fetches().len(), 2);
}

#[test]
fn a_permission_is_remembered_for_a_while_and_a_refusal_is_not() {
    let host = host(|it| {
        it["remember_seconds"] = 10.into();
        it["accept_headers"] = json!(["x-user"]);
    });
    host.answer("authz.ops:80", |fetch| {
        match fetch.header("authorization") {
            Some(token) => Answer::ok("").header("x-user", token),
            None => Answer::status(401),
        }
    });
    let ask = |path: &str, token: Option<&str>| {
        let request = TestRequest::get(path);
        let exchange = host.send(match token {
            Some(token) => request.header("authorization", token),
            None => request,
        });
        (exchange.request().header("x-user"), host.fetches().len())
    };
    assert_eq!(ask("/", Some("a")), (Some("a".to_owned()), 1));
    assert_eq!(ask("/", Some("a")), (Some("a".to_owned()), 1));
    assert_eq!(
        ask("/", Some("b")),
        (Some("b".to_owned()), 2),
        "another token"
    );
    assert_eq!(
        ask("/x", Some("a")),
        (Some("a".to_owned()), 3),
        "another path"
    );
    assert_eq!(ask("/", None), (None, 4));
    assert_eq!(ask("/", None), (None, 5));
    host.advance(Duration::from_secs(10));
    assert_eq!(ask("/", Some("a")), (Some("a".to_owned()), 6));
}

#[test]
fn a_wrong_configuration_names_the_field() {
    for (config, named) in [
        (json!({}), "service"),
        (json!({"service": ""}), "service: "),
        (
            json!({"service": "a:80", "path_prefix": "x"}),
            "path_prefix: ",
        ),
        (json!({"service": "a:80", "timeout_ms": 0}), "timeout_ms: "),
        (
            json!({"service": "a:80", "accept_headers": ["x-user", "x:roles"]}),
            "accept_headers[1]: ",
        ),
        (
            json!({"service": "a:80", "accept_headers": ["Host"]}),
            "accept_headers[0]: host frames",
        ),
        (
            json!({"service": "a:80", "accept_headers": ["X-Request-Id"]}),
            "accept_headers[0]: x-request-id is the proxy's own",
        ),
        (
            json!({"service": "a:80", "send_headers": ["cookie", "x y"]}),
            "send_headers[1]: ",
        ),
        (
            json!({"service": "a:80", "reply_headers": ["content-length"]}),
            "reply_headers[0]: content-length frames",
        ),
        (
            json!({"service": "a:80", "send_headers": "x"}),
            "send_headers: ",
        ),
    ] {
        let err = TestHost::<ExtAuth>::new(config)
            .err()
            .expect("it is refused");
        assert!(err.contains(named), "{err}");
    }
}
