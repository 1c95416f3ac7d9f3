//! The filter on requests of many clients.
#![expect(clippy::expect_used, reason = "helpers of tests fail as the tests do")]

use filter_canary_by_header::Canary;
use serde_json::{Value, json};
use weft_sdk::testing::{TestHost, TestRequest, TestResponse};

fn host(change: impl FnOnce(&mut Value)) -> TestHost<Canary> {
    let mut config = json!({"mark": {"name": "x-version"}});
    change(&mut config);
    TestHost::new(config).expect("the configuration is good")
}

fn is_canary(host: &TestHost<Canary>, request: TestRequest) -> bool {
    let exchange = host.send(request);
    assert!(exchange.request().passed());
    exchange.request().header("x-version").as_deref() == Some("canary")
}

#[test]
fn a_header_chooses() {
    let host = host(|_| {});
    assert!(is_canary(
        &host,
        TestRequest::get("/").header("X-Canary", "always")
    ));
    assert!(!is_canary(
        &host,
        TestRequest::get("/").header("x-canary", "never")
    ));
    assert!(!is_canary(
        &host,
        TestRequest::get("/").header("x-canary", "alwaysnot")
    ));
    assert!(!is_canary(&host, TestRequest::get("/")));
}

#[test]
fn a_client_cannot_mark_itself() {
    let host = host(|_| {});
    let exchange = host.send(TestRequest::get("/").header("x-version", "canary"));
    assert_eq!(exchange.request().header("x-version"), None);
}

#[test]
fn a_chosen_request_is_marked_and_goes_where_all_go() {
    let host = host(|it| it["mark"]["value"] = "v2".into());
    let exchange = host.send(TestRequest::get("/").header("x-canary", "always"));
    let marks = exchange.request().header_values("x-version");
    assert_eq!(marks, ["v2"]);
    assert_eq!(exchange.attributes().authority, "service.test");
    assert_eq!(exchange.span_attribute("canary").as_deref(), Some("true"));
    // Which version answers it cannot know.
    exchange.respond(TestResponse::new(200));
    assert_eq!(exchange.response().header("x-served-by"), None);

    let other = host.send(TestRequest::get("/"));
    assert_eq!(other.span_attribute("canary"), None);
}

#[test]
fn a_share_of_the_clients_is_chosen_and_stays_so() {
    let host = host(|it| {
        it["percent"] = 10.into();
        it["by"] = json!({"header": "x-user"});
    });
    let chosen = |user: u32| {
        is_canary(
            &host,
            TestRequest::get("/").header("x-user", format!("user-{user}")),
        )
    };
    let first: Vec<bool> = (0..2000).map(chosen).collect();
    let count = first.iter().filter(|chosen| **chosen).count();
    assert!((140..=260).contains(&count), "{count} of 2000");
    assert!((0..2000).all(|user| chosen(user) == first[user as usize]));
    assert!(!is_canary(&host, TestRequest::get("/")), "nobody");
    // What the request says comes first.
    let said = TestRequest::get("/")
        .header("x-user", "user-0")
        .header("x-canary", "always");
    assert!(is_canary(&host, said));
}

#[test]
fn a_cookie_tells_clients_apart() {
    let host = host(|it| {
        it["percent"] = 50.into();
        it["by"] = json!({"cookie": "sid"});
    });
    let with = |cookie: &str| TestRequest::get("/").header("cookie", cookie);
    let chosen = (0..100)
        .find(|number| is_canary(&host, with(&format!("sid={number}"))))
        .expect("half of them are");
    assert!(is_canary(&host, with(&format!("a=b; sid={chosen};c=d"))));
    assert!(!is_canary(&host, with(&format!("xsid={chosen}"))));
    let crumbs = with("a=b").header("cookie", format!("sid={chosen}"));
    assert!(is_canary(&host, crumbs));
}

#[test]
fn all_or_none() {
    for (percent, expected) in [(0, false), (100, true)] {
        let host = host(|it| {
            it["percent"] = percent.into();
            it["by"] = json!({"header": "x-user"});
        });
        for user in ["a", "b", "c", ""] {
            let request = TestRequest::get("/").header("x-user", user);
            assert_eq!(is_canary(&host, request), expected, "{user}");
        }
    }
}

#[test]
fn a_wrong_configuration_names_the_field() {
    for (config, named) in [
        (json!({}), "missing field `mark`"),
        (
            json!({"mark": {"name": "x-v"}, "authority": "a"}),
            "unknown field `authority`",
        ),
        (
            json!({"mark": {"name": "x-v"}, "percent": 101, "by": {"header": "x"}}),
            "percent: ",
        ),
        (json!({"mark": {"name": "x-v"}, "percent": 1}), "by: "),
        (json!({"mark": {"name": "X-Canary"}}), "mark.name: "),
        (json!({"mark": {"name": ""}}), "mark.name: \"\" is no name"),
        (
            json!({"mark": {"name": "Content-Length"}}),
            "mark.name: content-length frames",
        ),
        (
            json!({"mark": {"name": "x-v"}, "by": {"label": "x"}}),
            "by: ",
        ),
        (
            json!({"mark": {"name": "x-request-id"}}),
            "mark.name: x-request-id is the proxy's own",
        ),
        (
            json!({"mark": {"name": "x-a", "value": "a\nb"}}),
            "mark.value: ",
        ),
        (
            json!({"mark": {"name": "x-v"}, "header": "x a"}),
            "header: ",
        ),
        (
            json!({"mark": {"name": "x-v"}, "by": {"header": "x a"}}),
            "by.header: ",
        ),
    ] {
        let err = TestHost::<Canary>::new(config)
            .err()
            .expect("it is refused");
        assert!(err.contains(named), "{err}");
    }
}
