//! The filter on requests good and bad.
#![expect(clippy::expect_used, reason = "helpers of tests fail as the tests do")]

use filter_request_inspect::RequestInspect;
use serde_json::{Value, json};
use weft_sdk::testing::{TestHost, TestRequest};

fn host(config: Value) -> TestHost<RequestInspect> {
    TestHost::new(config).expect("the configuration is good")
}

/// Status and reason of a refusal.
fn refusal(host: &TestHost<RequestInspect>, request: TestRequest) -> Option<(u16, String)> {
    let exchange = host.send(request);
    assert_eq!(exchange.failure(), None);
    let reply = exchange.reply();
    assert_eq!(reply.is_none(), exchange.request().passed());
    reply.map(|reply| (reply.status, reply.reason))
}

fn status(host: &TestHost<RequestInspect>, request: TestRequest) -> Option<u16> {
    refusal(host, request).map(|it| it.0)
}

#[test]
fn the_head_is_limited() {
    let host = host(json!({
        "methods": ["GET", "POST"],
        "max_path_bytes": 10,
        "max_headers": 2,
        "max_header_bytes": 20,
    }));
    assert_eq!(status(&host, TestRequest::get("/short")), None);
    let method = refusal(&host, TestRequest::new("TRACE", "/"));
    assert_eq!(method, Some((405, "method TRACE".to_owned())));
    assert_eq!(status(&host, TestRequest::get("/much/too/long")), Some(414));
    assert_eq!(status(&host, TestRequest::get("/?q=1234567")), Some(414));
    let with = |names: &[&str]| {
        names.iter().fold(TestRequest::get("/"), |request, name| {
            request.header(name, "1")
        })
    };
    assert_eq!(status(&host, with(&["a", "b"])), None);
    assert_eq!(status(&host, with(&["a", "b", "c"])), Some(431));
    assert_eq!(status(&host, with(&["a-name-of-20-letters"])), Some(431));
}

#[test]
fn the_body_is_limited_however_it_comes() {
    let host = host(json!({"max_body_bytes": 5}));
    assert_eq!(status(&host, TestRequest::post("/").body("12345")), None);
    assert_eq!(
        status(&host, TestRequest::post("/").body("123").body("456")),
        Some(413)
    );
    let said = TestRequest::post("/")
        .header("content-length", "6")
        .body("123456");
    assert_eq!(
        refusal(&host, said),
        Some((413, "a body of 6 bytes".to_owned()))
    );
    // A length that is none says nothing.
    let lie = TestRequest::post("/")
        .header("content-length", "-1")
        .body("123456");
    assert_eq!(status(&host, lie), Some(413));
    assert_eq!(status(&host, TestRequest::get("/")), None);
}

#[test]
fn only_some_kinds_of_content_come_in() {
    let host = host(json!({"content_types": ["application/json", "image/*"]}));
    let of = |kind: &str| {
        TestRequest::post("/")
            .header("content-type", kind)
            .body("{}")
    };
    assert_eq!(status(&host, of("application/json")), None);
    assert_eq!(status(&host, of("Application/JSON; charset=utf-8")), None);
    assert_eq!(status(&host, of("image/png")), None);
    assert_eq!(status(&host, of("application/jsonp")), Some(415));
    assert_eq!(status(&host, of("imagery/png")), Some(415));
    assert_eq!(status(&host, TestRequest::post("/").body("{}")), Some(415));
    let two = of("image/png").header("content-type", "text/html");
    assert_eq!(status(&host, two), Some(415), "the second one counts, too");
    let both = of("image/png").header("content-type", "application/json");
    assert_eq!(status(&host, both), None);
    assert_eq!(status(&host, of("image/png, text/html")), Some(415));
    assert_eq!(
        status(&host, TestRequest::get("/")),
        None,
        "no body, no kind"
    );
}

#[test]
fn a_body_that_is_not_searched_is_not_held() {
    // More than the proxy would hold.
    let upload = |parts: usize| {
        let request = TestRequest::post("/").header("content-type", "image/png");
        (0..parts).fold(request, |request, _| request.body(vec![b'x'; 512 * 1024]))
    };
    let by_kind = host(json!({"content_types": ["image/*"]}));
    assert_eq!(status(&by_kind, upload(8)), None);
    let by_size = host(json!({"content_types": ["image/*"], "max_body_bytes": 4 << 20}));
    assert_eq!(status(&by_size, upload(8)), None);
    let long = by_size.send(upload(9));
    let reply = long.reply().expect("a reply");
    assert_eq!(reply.status, 413);
    assert_eq!(reply.reason, "a body of more than 4194304 bytes");
    let sent = long.request().body().len();
    assert!(sent <= 4 << 20, "{sent} bytes are more than may go on");
}

#[test]
fn patterns_are_found_where_they_are_looked_for() {
    let host = host(json!({"deny": [
        {"name": "dotfiles", "in": "path", "pattern": r"/\.[a-z]", "status": 404},
        {"name": "sql", "in": "query", "pattern": r"(?i)\bunion\b.+\bselect\b"},
        {"name": "bots", "in": "header", "header": "User-Agent", "pattern": "(?i)badbot"},
        {"name": "shellshock", "in": "header", "pattern": r"\(\)\s*\{"},
        {"name": "card", "in": "body", "pattern": r"\b\d{16}\b"},
    ]}));
    let of = |name: &str, status| Some((status, format!("rule {name}")));
    assert_eq!(
        refusal(&host, TestRequest::get("/a/.git/config")),
        of("dotfiles", 404)
    );
    assert_eq!(refusal(&host, TestRequest::get("/?file=/.git")), None);
    assert_eq!(
        refusal(&host, TestRequest::get("/?q=1+UNION+all+Select+1")),
        of("sql", 403)
    );
    let agent = |name: &str| TestRequest::get("/").header(name, "BadBot/1.0");
    assert_eq!(refusal(&host, agent("user-agent")), of("bots", 403));
    assert_eq!(refusal(&host, agent("x-agent")), None);
    let shock = TestRequest::get("/").header("x-any", "() { :; }");
    assert_eq!(refusal(&host, shock), of("shellshock", 403));
    // Across two parts, and among bytes that are no text.
    let body = TestRequest::post("/")
        .body(b"\xff\xfe 41111111")
        .body(b"11111111 \xff");
    assert_eq!(refusal(&host, body), of("card", 403));
    let fine = TestRequest::post("/").body("411111111111").body("111");
    assert_eq!(refusal(&host, fine), None);
}

#[test]
fn an_encoding_hides_nothing() {
    let host = host(json!({"deny": [
        {"name": "path", "in": "path", "pattern": "<script", "status": 404},
        {"name": "query", "in": "query", "pattern": "(?i)<script|union +select"},
        {"name": "raw", "in": "query", "pattern": "%00"},
        {"name": "body", "in": "body", "pattern": "<script|union +select"},
    ]}));
    let of = |name: &str, status| Some((status, format!("rule {name}")));
    for (path, expected) in [
        ("/a/%3Cscript", of("path", 404)),
        ("/?q=<script", of("query", 403)),
        ("/?q=%3Cscript", of("query", 403)),
        ("/?q=%3c%73%43ript", of("query", 403)),
        ("/?q=union+select", of("query", 403)),
        ("/?q=union%20%20select", of("query", 403)),
        ("/?q=a%00", of("raw", 403)),
        ("/?q=%253Cscript", None),
        ("/union+select", None),
    ] {
        assert_eq!(refusal(&host, TestRequest::get(path)), expected, "{path}");
    }
    let form = |kind: &str, body: &str| {
        TestRequest::post("/")
            .header("content-type", kind)
            .body(body)
    };
    let kind = "Application/x-www-form-urlencoded; charset=utf-8";
    for body in ["a=%3Cscript", "a=union+select", "a=<script"] {
        assert_eq!(refusal(&host, form(kind, body)), of("body", 403), "{body}");
    }
    let second = form("text/plain", "a=%3Cscript").header("content-type", kind);
    assert_eq!(refusal(&host, second), of("body", 403));
    let text = form("text/plain", "a=%3Cscript");
    assert_eq!(refusal(&host, text), None, "there it is no escape");
}

#[test]
fn a_compressed_body_is_refused_where_it_would_be_searched() {
    let of = |encoding: &str| {
        TestRequest::post("/")
            .header("content-encoding", encoding)
            .body("x")
    };
    let searching = host(json!({"deny": [{"name": "y", "in": "body", "pattern": "y"}]}));
    for (encoding, refused) in [
        ("gzip", true),
        ("identity, GZIP", true),
        ("br", true),
        ("identity", false),
        ("Identity", false),
        ("", false),
    ] {
        let status = status(&searching, of(encoding));
        assert_eq!(status, refused.then_some(415), "{encoding}");
    }
    let second = of("identity").header("content-encoding", "deflate");
    assert_eq!(
        refusal(&searching, second),
        Some((
            415,
            "content encoding \"deflate\" cannot be searched".to_owned()
        ))
    );
    let empty = TestRequest::get("/").header("content-encoding", "gzip");
    assert_eq!(
        status(&searching, empty),
        None,
        "there is nothing to search"
    );
    let counting = host(json!({"max_body_bytes": 10}));
    assert_eq!(status(&counting, of("gzip")), None);
}

#[test]
fn a_body_that_cannot_be_searched_is_refused() {
    let host = host(json!({
        "deny": [{"name": "x", "in": "body", "pattern": "x"}],
        "max_searched_bytes": 4,
    }));
    assert_eq!(status(&host, TestRequest::post("/").body("abcd")), None);
    assert_eq!(
        status(&host, TestRequest::post("/").body("abcde")),
        Some(413)
    );
}

#[test]
fn a_pattern_takes_time_in_proportion_to_its_text() {
    let host = host(json!({"deny": [{"name": "evil", "in": "body", "pattern": "(a+)+$"}]}));
    let body = format!("{}b", "a".repeat(200_000));
    // With backtracking this would not end.
    assert_eq!(status(&host, TestRequest::post("/").body(body)), None);
}

#[test]
fn a_dry_run_only_tells() {
    let host = host(json!({"methods": ["GET"], "dry_run": true}));
    let exchange = host.send(TestRequest::post("/").body("x"));
    assert!(exchange.request().passed());
    assert_eq!(exchange.request().body(), b"x");
    assert_eq!(host.logs()[0].field("why"), Some("method POST"));
    let refused = host.metric("requests", &[("outcome", "refused")]);
    assert!((refused - 1.0).abs() < f64::EPSILON);
}

#[test]
fn a_wrong_configuration_names_the_field() {
    let rule = |pattern: &str| json!({"deny": [{"name": "a", "in": "path", "pattern": pattern}]});
    for (config, named) in [
        (rule("("), "deny[0].pattern: "),
        (rule(r"a{9999}{9999}"), "deny[0].pattern: "),
        (json!({"content_types": ["json"]}), "content_types[0]: "),
        (
            json!({"deny": [{"name": "a", "in": "cookie", "pattern": "x"}]}),
            "deny[0].in: ",
        ),
        (
            json!({"deny": [{"name": "a", "in": "path", "pattern": "x", "status": 200}]}),
            "deny[0].status: ",
        ),
        (
            json!({"deny": [{"name": "a", "in": "body", "pattern": "x"}],
                   "max_body_bytes": (1 << 20) + 1}),
            "max_body_bytes: at most 1048576",
        ),
        (
            json!({"deny": [{"name": "a", "in": "body", "pattern": "x"}],
                   "max_searched_bytes": (1 << 20) + 1}),
            "max_searched_bytes: at most 1048576",
        ),
        (
            json!({"deny": [{"name": "a", "in": "header", "header": "x y", "pattern": "x"}]}),
            "deny[0].header: ",
        ),
        (json!({"max_headers": -1}), "max_headers: "),
        (json!({"max_bytes": 1}), "max_bytes"),
    ] {
        let err = TestHost::<RequestInspect>::new(config)
            .err()
            .expect("it is refused");
        assert!(err.contains(named), "{err}");
    }
}
