//! Answers of a filter's own, and bodies.

use bytes::Bytes;
use weft_wasm_host::{Command, ContextId, Event, Step};

use super::word;
use crate::support::guest::ProxyWasm;
use crate::support::{FakeExchange, HEAD, Setup, body, commands, head, open};

/// Answers at the head.
fn responding(status: u32, headers: &str, length: u32) -> ProxyWasm {
    ProxyWasm::on_headers(&format!(
        "(call $tell (call $respond (i32.const {status}) (i32.const 1024) (i32.const 3)
           (i32.const 1027) (i32.const 4) (i32.const 1040) (i32.const {length}) (i32.const -1)))
         (i32.const 1)"
    ))
    .data(&format!(
        "whybody\\00\\00\\00\\00\\00\\00\\00\\00\\00{headers}"
    ))
}

#[test]
fn a_filter_answers_itself() {
    let mut guest = Setup::new().instance(&responding(403, "", 0).wasm());
    let context = open(&mut *guest, FakeExchange::get("/"));
    let Ok(Step::Reply(reply)) = guest.on_event(context, HEAD) else {
        panic!("no reply");
    };
    assert_eq!((reply.status.as_u16(), &*reply.reason), (403, "why"));
    assert_eq!(reply.body.as_ref(), b"body");
    assert_eq!(reply.headers["content-type"], "text/plain");
    assert_eq!(guest.on_event(context, body(b"more", true)), Ok(Step::Pass));
}

#[test]
fn a_client_of_grpc_gets_an_answer_of_grpc() {
    let mut guest = Setup::new().instance(&responding(403, "", 0).wasm());
    let exchange = FakeExchange::get("/").with("content-type", "application/grpc+proto");
    let context = open(&mut *guest, exchange);
    let Ok(Step::Reply(reply)) = guest.on_event(context, HEAD) else {
        panic!("no reply");
    };
    assert_eq!(reply.status, 200);
    assert_eq!(reply.headers["grpc-status"], "7");
    assert_eq!(reply.headers["grpc-message"], "body");
    assert!(reply.body.is_empty());
}

#[test]
fn a_client_of_something_like_grpc_gets_a_plain_answer() {
    for (kind, grpc) in [
        ("application/grpc", true),
        ("application/grpc;charset=utf-8", true),
        ("application/grpc-web", false),
        ("application/grpc-web+proto", false),
        ("application/grpcish", false),
        ("application/json", false),
    ] {
        let mut guest = Setup::new().instance(&responding(403, "", 0).wasm());
        let context = open(
            &mut *guest,
            FakeExchange::get("/").with("content-type", kind),
        );
        let Ok(Step::Reply(reply)) = guest.on_event(context, HEAD) else {
            panic!("no reply");
        };
        let status = if grpc { 200 } else { 403 };
        assert_eq!(reply.status, status, "{kind}");
        assert_eq!(reply.headers.contains_key("grpc-status"), grpc, "{kind}");
    }
}

/// Answers twice at the head of the first exchange, and again at each tick.
const TWICE: &str = r#"
  (func $twice
    (call $tell (call $respond (i32.const 401) (i32.const 1024) (i32.const 2) (i32.const 0)
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const -1)))
    (call $tell (call $respond (i32.const 500) (i32.const 1024) (i32.const 2) (i32.const 0)
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const -1))))
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (drop (call $tick (i32.const 100))) (i32.const 1))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (call $twice) (i32.const 1))
  (func (export "proxy_on_tick") (param i32)
    (drop (call $effective (i32.const 2)))
    (call $twice))"#;

#[test]
fn a_second_answer_of_one_request_is_not_sent() {
    let setup = Setup::new();
    let mut guest = setup.instance(&ProxyWasm::new(TWICE).data("no").wasm());
    let context = open(&mut *guest, FakeExchange::get("/"));
    let Ok(Step::Reply(reply)) = guest.on_event(context, HEAD) else {
        panic!("no reply");
    };
    assert_eq!(reply.status, 401, "the first one");
    let timer = commands(&mut *guest).into_iter().find_map(|one| match one {
        (ContextId::INSTANCE, Command::SetTimer { id, .. }) => Some(id),
        _ => None,
    });
    let id = timer.expect("a tick");
    let ticked = guest.on_event(ContextId::INSTANCE, Event::Timer { id });
    assert_eq!(ticked, Ok(Step::Pending));
    let decided = commands(&mut *guest);
    assert!(
        !decided
            .iter()
            .any(|(_, command)| matches!(command, Command::Decide { .. })),
        "{decided:?}"
    );
    assert_eq!(
        word(setup.lines.take()),
        "0000",
        "a filter is not told: many end at a status that they do not expect"
    );
}

#[test]
fn an_answer_is_of_bounded_size() {
    // Reason and body are of its zeros.
    let responding = |details: u32, body: u32| {
        ProxyWasm::on_headers(&format!(
            "(call $tell (call $respond (i32.const 403) (i32.const 1024) (i32.const {details})
               (i32.const 8192) (i32.const {body}) (i32.const 0) (i32.const 0) (i32.const -1)))
             (i32.const 1)"
        ))
        .data(&"v".repeat(3000))
    };
    let mut setup = Setup::new();
    setup.spec.limits.held_body = 1000;
    setup.spec.limits.fetch_body = 1000;
    let mut guest = setup.instance(&responding(3000, 4000).wasm());
    let Ok(Step::Reply(reply)) = head(&mut *guest) else {
        panic!("no reply");
    };
    assert_eq!(reply.reason, format!("{}…", "v".repeat(1024)));
    assert_eq!(reply.body.len(), 4000);
    let mut guest = setup.instance(&responding(3, 4001).wasm());
    assert_eq!(head(&mut *guest), Ok(Step::Pending));
    assert_eq!(word(setup.lines.take()), "02");
}

#[test]
fn an_answer_that_cannot_be_sent_is_refused() {
    let setup = Setup::new();
    let forged = "\\01\\00\\00\\00\\01\\00\\00\\00\\04\\00\\00\\00a\\00b\\0d\\0ac\\00";
    for (status, headers, length) in [(99, "", 0), (101, "", 0), (1200, "", 0), (200, forged, 19)] {
        let mut guest = setup.instance(&responding(status, headers, length).wasm());
        assert_eq!(head(&mut *guest), Ok(Step::Pending));
    }
    assert_eq!(word(setup.lines.take()), "2222");
}

/// Holds the body until its end and puts `!` in front of it.
const BODIES: &str = r#"
  (func (export "proxy_on_request_body")
    (param $ctx i32) (param $size i32) (param $end i32) (result i32)
    (if (i32.eqz (local.get $end)) (then (return (i32.const 1))))
    (drop (call $buffer (i32.const 0) (i32.const 1) (local.get $size) (i32.const 800)
      (i32.const 804)))
    (call $say (i32.load (i32.const 800)) (i32.load (i32.const 804)))
    (call $tell (call $set_buffer (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 1024)
      (i32.const 1)))
    (i32.const 0))"#;

#[test]
fn a_body_is_held_and_replaced() {
    let setup = Setup::new();
    let mut guest = setup.instance(&ProxyWasm::new(BODIES).data("!").wasm());
    let context = open(&mut *guest, FakeExchange::get("/"));
    assert_eq!(
        guest.on_event(context, body(b"one ", false)),
        Ok(Step::More)
    );
    assert_eq!(
        guest.on_event(context, body(b"two ", false)),
        Ok(Step::More)
    );
    let emitted = Bytes::from_static(b"!one two three");
    let step = guest.on_event(context, body(b"three", true));
    assert_eq!(step, Ok(Step::Emit(emitted)));
    assert_eq!(word(setup.lines.take()), "ne two three0");
}

#[test]
fn nothing_of_an_earlier_request_can_be_read() {
    let setup = Setup::new();
    let peek = r#"
      (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (call $tell (call $buffer (i32.const 0) (i32.const 0) (i32.const 99) (i32.const 800)
          (i32.const 804)))
        (call $tell (call $get (i32.const 6) (i32.const 1024) (i32.const 1) (i32.const 800)
          (i32.const 804)))
        (call $tell (call $effective (i32.const 2)))
        (call $tell (call $get (i32.const 0) (i32.const 1025) (i32.const 6) (i32.const 800)
          (i32.const 804)))
        (i32.const 0))
      (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (i32.const 1))"#;
    let mut guest = setup.instance(&ProxyWasm::new(peek).data("!secret").wasm());
    let first = open(&mut *guest, FakeExchange::get("/").with("secret", "1"));
    let second = open(&mut *guest, FakeExchange::get("/"));
    assert_eq!(
        guest.on_event(first, body(b"secret", false)),
        Ok(Step::More)
    );
    assert_eq!(guest.close(first).1, Ok(()));
    assert_eq!(guest.on_event(second, HEAD), Ok(Step::Proceed));
    assert_eq!(
        word(setup.lines.take()),
        "1121",
        "the first context is gone"
    );
    // Its place is taken again by another one.
    let third = open(&mut *guest, FakeExchange::get("/"));
    assert_eq!(guest.on_event(third, HEAD), Ok(Step::Proceed));
    assert_eq!(word(setup.lines.take()), "1101");
}
