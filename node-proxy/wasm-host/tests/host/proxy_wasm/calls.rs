//! Calls of a filter's own, and ticks.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use weft_wasm_host::{
    Command, ContextId, Event, FetchError, FetchRequest, FetchResponse, FetchResult, Guest, Side,
    Step,
};

use super::{pairs, word};
use crate::support::guest::ProxyWasm;
use crate::support::{FakeExchange, HEAD, Setup, commands, head, header, open};

/// Calls out at the head; goes on when the answer is 200.
const CALLS: &str = r#"
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (call $tell (call $http_call CLUSTER PAIRS BODY (i32.const 0) (i32.const 0) (i32.const 500)
      (i32.const 808)))
    (i32.const 1))
  (func (export "proxy_on_http_call_response") (param i32 i32 i32 i32 i32)
    (call $tell (local.get 2))
    (drop (call $buffer (i32.const 4) (i32.const 0) (local.get 3) (i32.const 800) (i32.const 804)))
    (call $say (i32.load (i32.const 800)) (i32.load (i32.const 804)))
    (call $tell (i32.eq (local.get 1) (i32.load (i32.const 808))))
    (if (local.get 2) (then (call $tell (call $continue (i32.const 0))))))"#;

fn calling() -> ProxyWasm {
    calling_for(CLUSTER, "POST", "/check", "authz")
}

const CLUSTER: &str = "outbound|81||authz.default.svc.cluster.local";

fn calling_for(cluster: &str, method: &str, path: &str, authority: &str) -> ProxyWasm {
    let (text, length) = pairs(&[
        (":method", method),
        (":path", path),
        (":authority", authority),
        ("a", "b"),
    ]);
    let data = format!("{cluster}hi{text}");
    let places = [
        ("CLUSTER", 0, cluster.len()),
        ("BODY", cluster.len(), 2),
        ("PAIRS", cluster.len() + 2, length),
    ];
    let calls = places
        .iter()
        .fold(CALLS.to_owned(), |calls, (name, at, length)| {
            let range = format!("(i32.const {}) (i32.const {length})", 1024 + at);
            calls.replace(name, &range)
        });
    ProxyWasm::new(&calls).data(&data)
}

fn answered(status: u16) -> FetchResult {
    Ok(Box::new(FetchResponse {
        status: StatusCode::from_u16(status).expect("a status"),
        headers: HeaderMap::from_iter([(http::header::SERVER, HeaderValue::from_static("authz"))]),
        body: Bytes::from_static(b"yes"),
        trailers: HeaderMap::new(),
    }))
}

fn fetch(guest: &mut dyn Guest) -> (ContextId, u64, FetchRequest) {
    match commands(guest).pop() {
        Some((context, Command::StartFetch { id, request })) => (context, id, *request),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_call_holds_the_request_until_it_is_answered() {
    let setup = Setup::new();
    let mut guest = setup.instance(&calling().wasm());
    let context = open(&mut *guest, FakeExchange::get("/"));
    assert_eq!(guest.on_event(context, HEAD), Ok(Step::Pending));
    assert_eq!(word(setup.lines.take()), "0");
    let (of, id, request) = fetch(&mut *guest);
    assert_eq!(of, context);
    assert_eq!(request.method, Method::POST);
    assert_eq!(request.service, "authz.default:81");
    assert_eq!(
        (&*request.path, request.authority.as_deref()),
        ("/check", Some("authz"))
    );
    assert_eq!(request.headers["a"], "b");
    assert_eq!(request.body.as_ref(), b"hi");
    assert_eq!(request.timeout, Duration::from_millis(500));
    let result = answered(200);
    let step = guest.on_event(context, Event::FetchDone { id, result });
    assert_eq!(step, Ok(Step::Proceed));
    assert_eq!(word(setup.lines.take()), "2yes10");
}

#[test]
fn what_a_call_is_made_of_has_an_end() {
    let setup = Setup::new();
    let longest = "/".repeat(8192);
    let longer = "/".repeat(8193);
    let told = |module: &ProxyWasm| {
        let mut guest = setup.instance(&module.wasm());
        assert_eq!(head(&mut *guest), Ok(Step::Pending));
        let asked = commands(&mut *guest).len();
        (word(setup.lines.take()), asked)
    };
    let good = ("0".to_owned(), 1);
    assert_eq!(told(&calling_for(CLUSTER, "GET", &longest, "authz")), good);
    let name = longer.replace('/', "n");
    for (cluster, method, path, authority) in [
        (&*name, "GET", "/", "authz"),
        (CLUSTER, &*name, "/", "authz"),
        (CLUSTER, "GET", &*longer, "authz"),
        (CLUSTER, "GET", "/", &*name),
    ] {
        let module = calling_for(cluster, method, path, authority);
        assert_eq!(told(&module), ("2".to_owned(), 0));
    }
    let mut small = Setup::new();
    small.spec.limits.fetch_body = 1;
    let mut guest = small.instance(&calling().wasm());
    assert_eq!(head(&mut *guest), Ok(Step::Pending));
    assert_eq!(commands(&mut *guest), []);
    assert_eq!(word(small.lines.take()), "2");
}

#[test]
fn a_call_of_grpc_has_an_end_too() {
    let setup = Setup::new();
    for (cluster, service, method, told) in [
        (5, 8192, 5, "0"),
        (8193, 3, 5, "2"),
        (5, 8193, 5, "2"),
        (5, 3, 8193, "2"),
    ] {
        // Of one letter, each from the same place.
        let module = ProxyWasm::on_headers(&format!(
            "(call $tell (call $grpc_call (i32.const 1024) (i32.const {cluster})
               (i32.const 1024) (i32.const {service}) (i32.const 1024) (i32.const {method})
               (i32.const 0) (i32.const 0) (i32.const 1024) (i32.const 2) (i32.const 500)
               (i32.const 808)))
             (i32.const 1)"
        ))
        .data(&"a".repeat(8193));
        let mut guest = setup.instance(&module.wasm());
        assert_eq!(head(&mut *guest), Ok(Step::Pending));
        assert_eq!(
            word(setup.lines.take()),
            told,
            "{cluster} {service} {method}"
        );
    }
}

#[test]
fn a_call_that_fails_has_no_headers() {
    let setup = Setup::new();
    let mut guest = setup.instance(&calling().wasm());
    let context = open(&mut *guest, FakeExchange::get("/"));
    guest.on_event(context, HEAD).expect("pending");
    let (_, id, _) = fetch(&mut *guest);
    setup.lines.take();
    let result = Err(FetchError::Timeout);
    let step = guest.on_event(context, Event::FetchDone { id, result });
    assert_eq!(step, Ok(Step::Pending));
    assert_eq!(word(setup.lines.take()), "01");
}

#[test]
fn a_call_of_grpc_is_a_request_of_http2() {
    let setup = Setup::new();
    let module = ProxyWasm::new(
        r#"
      (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (call $tell (call $grpc_call (i32.const 1024) (i32.const 5) (i32.const 1029) (i32.const 3)
          (i32.const 1032) (i32.const 5) (i32.const 0) (i32.const 0) (i32.const 1037) (i32.const 2)
          (i32.const 500) (i32.const 808)))
        (i32.const 1))
      (func (export "proxy_on_grpc_receive") (param i32 i32 i32)
        (drop (call $buffer (i32.const 5) (i32.const 0) (local.get 2) (i32.const 800)
          (i32.const 804)))
        (call $say (i32.load (i32.const 800)) (i32.load (i32.const 804)))
        (drop (call $continue (i32.const 0))))
      (func (export "proxy_on_grpc_close") (param i32 i32 i32)
        (call $tell (local.get 2))
        (drop (call $status (i32.const 812) (i32.const 800) (i32.const 804)))
        (call $say (i32.load (i32.const 800)) (i32.load (i32.const 804))))"#,
    )
    .data("authza.BCheckhi");
    let mut guest = setup.instance(&module.wasm());
    let context = open(&mut *guest, FakeExchange::get("/"));
    assert_eq!(guest.on_event(context, HEAD), Ok(Step::Pending));
    let (_, id, request) = fetch(&mut *guest);
    assert!(request.http2);
    assert_eq!(
        (&*request.path, &*request.service),
        ("/a.B/Check", "authz:80")
    );
    assert_eq!(request.body.as_ref(), b"\0\0\0\0\x02hi");
    let mut response = answered(200).expect("good");
    response.body = request.body;
    response
        .trailers
        .insert("grpc-status", HeaderValue::from_static("0"));
    let result = Ok(response);
    let step = guest.on_event(context, Event::FetchDone { id, result });
    assert_eq!(step, Ok(Step::Proceed));
    assert_eq!(word(setup.lines.take()), "0hi");
    let context = open(&mut *guest, FakeExchange::get("/"));
    guest.on_event(context, HEAD).expect("pending");
    let (_, id, _) = fetch(&mut *guest);
    let result = Err(FetchError::Timeout);
    let step = guest.on_event(context, Event::FetchDone { id, result });
    assert_eq!(step, Ok(Step::Pending));
    assert_eq!(word(setup.lines.take()), "04timed out");
}

/// Holds every request, and lets the first go at a tick.
const TICKS: &str = r#"
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (call $tell (call $tick (i32.const 100)))
    (i32.const 1))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 1))
  (func (export "proxy_on_tick") (param i32)
    (call $tell (local.get 0))
    (call $tell (call $effective (i32.const 2)))
    (call $tell (call $continue (i32.const 0)))
    (drop (call $replace (i32.const 0) (i32.const 1024) (i32.const 1) (i32.const 1024)
      (i32.const 1))))"#;

#[test]
fn a_tick_may_let_requests_go() {
    let setup = Setup::new();
    let mut guest = setup.instance(&ProxyWasm::new(TICKS).data("x").wasm());
    let timer = |guest: &mut dyn Guest| match &commands(guest)[..] {
        [(ContextId::INSTANCE, Command::SetTimer { id, after })] => {
            assert_eq!(*after, Duration::from_millis(100));
            *id
        }
        other => panic!("{other:?}"),
    };
    let id = timer(&mut *guest);
    let context = open(&mut *guest, FakeExchange::get("/"));
    assert_eq!(guest.on_event(context, HEAD), Ok(Step::Pending));
    setup.lines.take();
    let step = guest.on_event(ContextId::INSTANCE, Event::Timer { id });
    assert_eq!(step, Ok(Step::Pending));
    assert_eq!(word(setup.lines.take()), "100");
    let all = commands(&mut *guest);
    assert!(matches!(
        all[0],
        (ContextId::INSTANCE, Command::SetTimer { .. })
    ));
    let decided = Command::Decide {
        side: Side::Request,
        step: Step::Proceed,
    };
    assert_eq!(all[1..], [(context, decided)]);
    let exchange = guest.reclaim(context).expect("lent");
    assert_eq!(header(&*exchange, "x").as_deref(), Some("x"));
    let again = guest.on_event(ContextId::INSTANCE, Event::Timer { id });
    assert_eq!(again, Ok(Step::Pending), "that timer is over");
    assert_eq!(word(setup.lines.take()), "");
}

#[test]
fn nobody_ticks_who_did_not_ask() {
    let mut guest = Setup::new().instance(&ProxyWasm::on_headers("(i32.const 0)").wasm());
    assert_eq!(head(&mut *guest), Ok(Step::Proceed));
    assert_eq!(commands(&mut *guest), []);
}
