//! The filter on requests and responses.
#![expect(clippy::expect_used, reason = "helpers of tests fail as the tests do")]

use filter_header_transform::HeaderTransform;
use serde_json::{Value, json};
use weft_sdk::testing::{TestHost, TestRequest, TestResponse};

fn host(config: Value) -> TestHost<HeaderTransform> {
    TestHost::new(config).expect("the configuration is good")
}

fn refused(config: Value) -> String {
    TestHost::<HeaderTransform>::new(config)
        .err()
        .expect("the configuration is refused")
}

#[test]
fn headers_of_a_request_are_changed() {
    let host = host(json!({"request": {
        "rename": {"X-Old": "x-new"},
        "remove": ["cookie", "not-there"],
        "set": {"x-env": "prod"},
        "add": {"via": "weft"},
    }}));
    let exchange = host.send(
        TestRequest::get("/")
            .header("x-old", "1")
            .header("x-old", "2")
            .header("x-new", "0")
            .header("cookie", "a=b")
            .header("x-env", "dev")
            .header("via", "edge"),
    );
    let request = exchange.request();
    assert_eq!(request.header_values("x-new"), ["0", "1", "2"]);
    assert_eq!(request.header("x-old"), None);
    assert_eq!(request.header("cookie"), None);
    assert_eq!(request.header_values("x-env"), ["prod"]);
    assert_eq!(request.header_values("via"), ["edge", "weft"]);
    assert!(request.passed());
}

#[test]
fn headers_of_a_response_are_changed() {
    let host = host(json!({"response": {
        "remove": ["server"],
        "set": {"x-frame-options": "DENY", "x-echo": "${header.x-ask}"},
    }}));
    let exchange = host.send(TestRequest::get("/").header("x-ask", "why"));
    exchange.respond(TestResponse::new(200).header("server", "secret/1.0"));
    let response = exchange.response();
    assert_eq!(response.header("server"), None);
    assert_eq!(response.header("x-frame-options").as_deref(), Some("DENY"));
    assert_eq!(response.header("x-echo").as_deref(), Some("why"));
}

#[test]
fn variables_are_filled_in() {
    let host = host(json!({"request": {"set": {
        "x-caller": "${source.namespace}/${source.pod} ${source.label.app}",
        "x-cost": "$$5 ${header.x-none}.",
        "x-for": "${request.method} ${request.path}",
    }}}));
    let request = TestRequest::post("/v1?a=1").from("empire", "tiefighter", 7, &[("app", "ship")]);
    let exchange = host.send(request);
    let request = exchange.request();
    assert_eq!(
        request.header("x-caller").as_deref(),
        Some("empire/tiefighter ship")
    );
    assert_eq!(request.header("x-cost").as_deref(), Some("$5 ."));
    assert_eq!(request.header("x-for").as_deref(), Some("POST /v1?a=1"));
}

#[test]
fn a_body_goes_by_untouched() {
    let host = host(json!({"request": {"set": {"x": "y"}}}));
    let exchange = host.send(TestRequest::post("/").body("ab").body("cd"));
    assert_eq!(exchange.request().body(), b"abcd");
}

#[test]
fn a_header_that_cannot_be_changed_is_refused_at_load() {
    for (changes, named) in [
        (
            json!({"set": {"content-length": "0"}}),
            "request.set.content-length: content-length frames",
        ),
        (
            json!({"set": {"x a": "0"}}),
            "request.set.x a: \"x a\" is no name",
        ),
        (json!({"add": {"Host": "a"}}), "request.add.Host: "),
        (json!({"remove": ["x-a", "te"]}), "request.remove[1]: "),
        (json!({"rename": {"x-a": ""}}), "request.rename.x-a: "),
        (json!({"rename": {"host": "x-a"}}), "request.rename.host: "),
        (
            json!({"rename": {"X-A": "x-a"}}),
            "request.rename.X-A: x-a is the same header",
        ),
    ] {
        let err = refused(json!({"request": changes}));
        assert!(err.starts_with(named), "{err}");
        let err = refused(json!({"response": changes}));
        assert!(err.starts_with("response."), "{err}");
    }
}

#[test]
fn a_wrong_configuration_names_the_field() {
    let unknown = refused(json!({"request": {"set": {"x-a": "${source.color}"}}}));
    assert!(
        unknown.starts_with("request.set.x-a: there is no variable source.color"),
        "{unknown}"
    );
    let open = refused(json!({"response": {"add": {"x-a": "${source.pod"}}}));
    assert!(open.starts_with("response.add.x-a: "), "{open}");
    let dollar = refused(json!({"response": {"add": {"x-a": "5$"}}}));
    assert!(dollar.contains("after $"), "{dollar}");
    let line = refused(json!({"request": {"set": {"x-a": "a\r\nb: c"}}}));
    assert!(line.contains("line break"), "{line}");
    let own = refused(json!({"request": {"remove": ["x-a", "X_Request_Id"]}}));
    assert!(own.starts_with("request.remove[1]: "), "{own}");
    let read = refused(json!({"request": {"set": {"x-a": "${header.x y}"}}}));
    assert!(read.starts_with("request.set.x-a: "), "{read}");
    // The proxy writes it in requests alone.
    let answered = json!({"response": {"remove": ["x-request-id"]}});
    assert!(TestHost::<HeaderTransform>::new(answered).is_ok());
    let nothing = refused(json!({}));
    assert!(nothing.contains("change nothing"), "{nothing}");
    let typo = refused(json!({"request": {"sett": {}}}));
    assert!(typo.contains("sett"), "{typo}");
}
