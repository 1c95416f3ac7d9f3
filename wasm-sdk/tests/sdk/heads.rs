//! Headers, targets, replies, errors.

use weft_sdk::prelude::*;
use weft_sdk::testing::{TestHost, TestRequest, TestResponse};

/// Does what the header `do` says.
struct Heads;

#[filter]
impl Filter for Heads {
    type Config = NoConfig;

    fn new(_config: NoConfig, _plugin: &Plugin) -> Result<Self> {
        Ok(Self)
    }

    async fn on_request(self: Rc<Self>, request: Request) -> Result<Flow> {
        let headers = request.headers();
        match headers.get_str("do").as_deref() {
            Some("edit") => {
                headers.set("X-Set", "1")?;
                headers.append("x-add", "b")?;
                headers.remove("X-Gone")?;
                headers.remove("never-there")?;
            }
            Some("bytes") => {
                let value = headers.get("x-raw").context("x-raw")?;
                headers.set(
                    "x-text",
                    if value.to_str().is_some() {
                        "yes"
                    } else {
                        "no"
                    },
                )?;
                headers.set("x-copy", &value)?;
                headers.set("x-shown", value.to_string())?;
            }
            Some("inject") => headers.set("x-a", "b\r\nevil: 1")?,
            Some("frame") => headers.set("content-length", "0")?,
            Some("unframe") => headers.remove("Transfer-Encoding")?,
            Some("move") => {
                request.set_path("/new?x=1")?;
                request.set_authority("other.test")?;
                request.set_method("PUT")?;
                headers.set("x-path", request.path())?;
            }
            Some("bad path") => request.set_path("no slash")?,
            Some("reply") => {
                return Ok(Reply::new(418)
                    .header("X-Kind", "teapot")
                    .body("short and stout")
                    .reason("it is one")
                    .into());
            }
            Some("fail") => return Err(Error::new("cannot tell")),
            Some("count") => {
                headers.set("x-count", headers.get_all("x-many").len().to_string())?;
                headers.set("x-entries", headers.entries().len().to_string())?;
            }
            _ => {}
        }
        Ok(Flow::Continue)
    }

    async fn on_response(self: Rc<Self>, response: Response) -> Result<Flow> {
        if response.status() == 500 {
            response.set_status(503)?;
            response.headers().set(
                "x-asked",
                response.request_headers().get_str("do").unwrap_or_default(),
            )?;
        }
        if response.status() == 404 {
            return Ok(Reply::new(200).body("instead").into());
        }
        Ok(Flow::Continue)
    }
}

fn host() -> TestHost<Heads> {
    TestHost::new("{}").expect("it has no configuration")
}

#[test]
fn headers_are_changed_in_any_case() {
    let exchange = host().send(
        TestRequest::get("/")
            .header("do", "edit")
            .header("x-add", "a")
            .header("x-gone", "1")
            .header("x-set", "0")
            .header("x-set", "00"),
    );
    let request = exchange.request();
    assert!(request.passed());
    assert_eq!(request.header_values("x-set"), ["1"]);
    assert_eq!(request.header_values("x-add"), ["a", "b"]);
    assert_eq!(request.header("x-gone"), None);
}

#[test]
fn a_value_that_is_no_text_is_bytes() {
    let exchange = host().send(
        TestRequest::get("/")
            .header("do", "bytes")
            .header("x-raw", b"\xff\xfe"),
    );
    let request = exchange.request();
    assert_eq!(request.header("x-text").as_deref(), Some("no"));
    assert_eq!(
        request.header("x-shown").as_deref(),
        Some("\u{fffd}\u{fffd}")
    );
    assert!(request.passed());
}

#[test]
fn a_refused_change_is_an_error_that_names_the_header() {
    for (what, named) in [
        ("inject", "x-a"),
        ("frame", "content-length"),
        ("unframe", "transfer-encoding"),
        ("bad path", "path"),
    ] {
        let exchange = host().send(TestRequest::get("/").header("do", what));
        let failure = exchange.failure().expect("it is not ignored");
        assert!(failure.contains(named), "{failure}");
        assert!(!exchange.request().head_sent());
    }
}

#[test]
fn a_name_is_checked_before_a_request_comes() {
    for good in ["x-user", "X-User", "x_user!", "a"] {
        assert!(weft_sdk::Headers::check_name(good).is_ok(), "{good}");
    }
    for bad in [
        "", "x user", "x:user", ":path", "x-\u{e4}", "x\r\ny", "Host", "TE",
    ] {
        let err = weft_sdk::Headers::check_name(bad)
            .expect_err(bad)
            .to_string();
        assert!(err.contains("header"), "{err}");
    }
}

#[test]
fn a_request_goes_where_the_filter_says() {
    let exchange = host().send(TestRequest::get("/old").header("do", "move"));
    let attributes = exchange.attributes();
    assert_eq!(attributes.path, "/new?x=1");
    assert_eq!(attributes.authority, "other.test");
    assert_eq!(attributes.method, "PUT");
    let seen = exchange.request().header("x-path");
    assert_eq!(
        seen.as_deref(),
        Some("/new?x=1"),
        "the filter sees its own change"
    );
}

#[test]
fn a_reply_is_all_that_the_client_gets() {
    let exchange = host().send(TestRequest::get("/").header("do", "reply"));
    let reply = exchange.reply().expect("a reply");
    assert_eq!(reply.status, 418);
    assert_eq!(reply.header("x-kind").as_deref(), Some("teapot"));
    assert_eq!(reply.text(), "short and stout");
    assert_eq!(reply.reason, "it is one");
    assert!(!exchange.request().head_sent());
}

#[test]
fn an_error_fails_that_request_alone() {
    let host = host();
    let failed = host.send(TestRequest::get("/").header("do", "fail"));
    assert_eq!(failed.failure().as_deref(), Some("cannot tell"));
    let fine = host.send(TestRequest::get("/"));
    assert!(fine.request().passed());
}

#[test]
fn all_values_and_all_headers_are_there() {
    let exchange = host().send(
        TestRequest::get("/")
            .header("do", "count")
            .header("x-many", "a")
            .header("x-many", "b"),
    );
    let request = exchange.request();
    assert_eq!(request.header("x-count").as_deref(), Some("2"));
    assert_eq!(request.header("x-entries").as_deref(), Some("4"));
}

#[test]
fn a_response_is_changed_or_replaced() {
    let host = host();
    let exchange = host.send(TestRequest::get("/").header("do", "nothing"));
    exchange.respond(TestResponse::new(500));
    assert_eq!(exchange.status(), Some(503));
    let asked = exchange.response().header("x-asked");
    assert_eq!(asked.as_deref(), Some("nothing"));

    let exchange = host.send(TestRequest::get("/"));
    exchange.respond(TestResponse::new(404).body("gone"));
    assert_eq!(exchange.reply().expect("a reply").text(), "instead");
    assert!(!exchange.response().head_sent());
}
