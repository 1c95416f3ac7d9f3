//! The filter's lines.
#![expect(clippy::expect_used, reason = "helpers of tests fail as the tests do")]

use std::time::Duration;

use filter_access_log_redact::AccessLog;
use serde_json::{Value, json};
use weft_sdk::testing::{TestHost, TestRequest, TestResponse};

fn host(config: Value) -> TestHost<AccessLog> {
    TestHost::new(config).expect("the configuration is good")
}

#[test]
fn a_line_tells_all_but_the_secrets() {
    let host = host(json!({
        "request_headers": ["User-Agent", "authorization", "x-none", "x-note"],
        "response_headers": ["server", "set-cookie"],
    }));
    let request = TestRequest::post("/v1/pay?token=abc&item=7")
        .from("shop", "web-1", 5, &[])
        .header("user-agent", "curl/8 ada@example.test")
        .header("authorization", "Bearer secret")
        .header("x-note", "card 4111111111111111");
    let exchange = host.send(request);
    host.advance(Duration::from_millis(12));
    exchange.respond(
        TestResponse::new(201)
            .header("server", "x/1")
            .header("set-cookie", "s=1"),
    );
    assert!(exchange.request().passed());
    let lines = host.logs();
    assert_eq!(lines.len(), 1);
    let line = &lines[0];
    assert_eq!(line.message, "access");
    for (field, expected) in [
        ("source", "shop/web-1"),
        ("destination", "10.0.0.2"),
        ("method", "POST"),
        ("path", "/v1/pay?token=[redacted]&item=7"),
        ("status", "201"),
        ("milliseconds", "12"),
        ("request.user-agent", "curl/8 [mail]"),
        ("request.authorization", "[redacted]"),
        ("request.x-note", "card [card]"),
        ("response.server", "x/1"),
        ("response.set-cookie", "[redacted]"),
    ] {
        assert_eq!(line.field(field), Some(expected), "{field}");
    }
    assert_eq!(line.field("request.x-none"), None);
    drop(exchange);
    assert_eq!(host.logs().len(), 1, "one line for each");
}

#[test]
fn a_url_in_a_header_is_treated_as_the_path_is() {
    let host = host(json!({
        "request_headers": ["Referer", "x-from"],
        "response_headers": ["location"],
    }));
    let request = TestRequest::get("/")
        .authority("ada:pw@shop.test")
        .header(
            "referer",
            "https://shop.test/a?token=abc&m=ada%40example.test",
        )
        .header("x-from", "https://shop.test/?code=abc");
    let exchange = host.send(request);
    exchange.respond(TestResponse::new(302).header("location", "b?x=1#access_token=abc"));
    let lines = host.logs();
    for (field, expected) in [
        ("authority", "[redacted]@shop.test"),
        (
            "request.referer",
            "https://shop.test/a?token=[redacted]&m=[mail]",
        ),
        ("request.x-from", "https://shop.test/?code=[redacted]"),
        ("response.location", "b?x=1#access_token=[redacted]"),
    ] {
        assert_eq!(lines[0].field(field), Some(expected), "{field}");
    }
}

#[test]
fn what_is_never_answered_is_written_at_its_end() {
    let host = host(json!({}));
    let exchange = host.send(TestRequest::get("/"));
    assert!(host.logs().is_empty());
    host.advance(Duration::from_secs(3));
    drop(exchange);
    let lines = host.logs();
    assert_eq!(lines[0].field("status"), Some("none"));
    assert_eq!(lines[0].field("milliseconds"), Some("3000"));
}

#[test]
fn good_responses_can_be_left_out() {
    let host = host(json!({"min_status": 400}));
    for status in [200, 404] {
        let exchange = host.send(TestRequest::get("/"));
        exchange.respond(TestResponse::new(status));
    }
    drop(host.send(TestRequest::get("/")));
    let lines = host.logs();
    assert_eq!(lines.len(), 1, "what was not answered has no status");
    assert_eq!(lines[0].field("status"), Some("404"));
}

#[test]
fn what_is_usually_secret_in_a_query_is_replaced() {
    let host = host(json!({}));
    for name in [
        "token",
        "refresh_token",
        "client_secret",
        "password",
        "passwd",
        "code",
        "sig",
        "Signature",
        "session",
    ] {
        let exchange = host.send(TestRequest::get(&format!("/?a=1&{name}=abc")));
        exchange.respond(TestResponse::new(200));
        let expected = format!("/?a=1&{name}=[redacted]");
        let lines = host.logs();
        let last = lines.last().expect("a line");
        assert_eq!(last.field("path"), Some(&*expected));
    }
}

#[test]
fn bytes_that_are_no_text_are_written_as_such() {
    let host = host(json!({}));
    let exchange = host.send(TestRequest::get("/").header("user-agent", b"\xff ada@example.test"));
    exchange.respond(TestResponse::new(200));
    assert_eq!(
        host.logs()[0].field("request.user-agent"),
        Some("\u{fffd} [mail]")
    );
}

#[test]
fn a_wrong_configuration_names_the_field() {
    for (config, named) in [
        (
            json!({"patterns": [{"pattern": "("}]}),
            "patterns[0].pattern: ",
        ),
        (json!({"patterns": [{}]}), "patterns[0]: "),
        (json!({"min_status": "bad"}), "min_status: "),
        (json!({"headers": []}), "headers"),
        (
            json!({"request_headers": ["a", ""]}),
            "request_headers[1]: ",
        ),
        (
            json!({"response_headers": ["x y"]}),
            "response_headers[0]: ",
        ),
        (json!({"secret_headers": ["x\ny"]}), "secret_headers[0]: "),
    ] {
        let err = TestHost::<AccessLog>::new(config)
            .err()
            .expect("it is refused");
        assert!(err.contains(named), "{err}");
    }
}
