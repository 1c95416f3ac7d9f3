//! What one event may give out, hold and say; what comes twice or too late.

use bytes::Bytes;
use http::StatusCode;
use weft_wasm_host::{
    Command, ConfigureError, Event, Fault, FaultKind, Guest, Side, Step, side_of,
};

use crate::support::guest::{
    Component, EMIT, FAIL, MORE, PENDING, PROCEED, ProxyWasm, REPLY, REQUEST_BODY, REQUEST_HEADERS,
};
use crate::support::{FakeExchange, HEAD, Setup, body, commands, head, open};

/// With these limits an event gives out 4,000 bytes.
fn narrow() -> Setup {
    let mut setup = Setup::new();
    setup.spec.limits.held_body = 1000;
    setup.spec.limits.fetch_body = 1000;
    assert_eq!(setup.spec.limits.output(), 4000);
    setup
}

/// Gives so many bytes in place of a body.
fn emitting(bytes: usize) -> String {
    format!(
        "(i32.store8 (i32.const 1024) (i32.const {EMIT}))
         (i32.store (i32.const 1028) (i32.const 4096))
         (i32.store (i32.const 1032) (i32.const {bytes}))
         (i32.const 1024)"
    )
}

/// Answers with so many bytes, for a reason of so many.
fn replying(bytes: usize, reason: usize) -> String {
    format!(
        "(i32.store8 (i32.const 1024) (i32.const {REPLY}))
         (i32.store (i32.const 1028) (i32.const 403))
         (i32.store (i32.const 1032) (i32.const 0))
         (i32.store (i32.const 1036) (i32.const 0))
         (i32.store (i32.const 1040) (i32.const 4096))
         (i32.store (i32.const 1044) (i32.const {bytes}))
         (i32.store (i32.const 1048) (i32.const 2048))
         (i32.store (i32.const 1052) (i32.const {reason}))
         (i32.const 1024)"
    )
}

/// Fetches with so many bytes of a body; where the answer to it is.
fn fetching(bytes: usize) -> String {
    format!(
        "(call $start_fetch (local.get $ctx)
           (i32.const 2048) (i32.const 4) (i32.const 2052) (i32.const 3)
           (i32.const 2055) (i32.const 1) (i32.const 0) (i32.const 0)
           (i32.const 4096) (i32.const {bytes}) (i32.const 0) (i32.const 0)
           (i32.const 0) (i32.const 0) (i32.const 1104))"
    )
}

fn fetches(guest: &mut dyn Guest) -> usize {
    let commands = commands(guest);
    let fetches = commands
        .iter()
        .filter(|(_, command)| matches!(command, Command::StartFetch { .. }));
    fetches.count()
}

#[test]
fn what_an_event_gives_out_has_an_end() {
    let setup = narrow();
    for code in [emitting, |bytes| replying(bytes, 0)] {
        let mut guest = setup.instance(&Component::new(&code(4000)).wasm());
        assert!(matches!(
            head(&mut *guest),
            Ok(Step::Emit(_) | Step::Reply(_))
        ));
        let mut guest = setup.instance(&Component::new(&code(4001)).wasm());
        let fault = head(&mut *guest).expect_err("too much");
        assert!(
            matches!(&fault, Fault::Answer(what) if what.contains("4001 bytes")),
            "{fault:?}"
        );
        assert!(!fault.is_fatal() && fault.status().is_none());
        assert_eq!(head(&mut *guest), Err(fault), "each event begins anew");
    }
}

#[test]
fn bodies_of_fetches_count_with_what_else_an_event_gives_out() {
    let data = r#"(data (i32.const 2048) "a:80GET/")"#;
    let five = fetching(1000).repeat(5);
    let proceed = format!("{five} (call $step (i32.const {PROCEED}))");
    let mut guest = narrow().instance(&Component::new(&proceed).with(data).wasm());
    for _event in 0..2 {
        assert_eq!(head(&mut *guest), Ok(Step::Proceed));
        assert_eq!(fetches(&mut *guest), 4);
    }
    let emit = format!("{} {}", fetching(1000).repeat(3), emitting(1001));
    let mut guest = narrow().instance(&Component::new(&emit).with(data).wasm());
    assert!(matches!(head(&mut *guest), Err(Fault::Answer(_))));
}

#[test]
fn what_is_far_too_much_is_not_even_copied() {
    let mut setup = narrow();
    setup.spec.limits.kv.value = 1000;
    // Within its memory, and far beyond what a call may bring.
    let module = Component::new(&format!(
        "(drop (memory.grow (i32.const 64))) {}",
        emitting(3 << 20)
    ));
    let mut guest = setup.instance(&module.wasm());
    assert!(matches!(head(&mut *guest), Err(Fault::Trap(_))));
}

#[test]
fn a_reason_is_one_line_of_bounded_length() {
    let text = format!("a\\0d\\0ab{}", "v".repeat(1500));
    let data = format!(r#"(data (i32.const 2048) "{text}")"#);
    let expected = format!("a\\r\\nb{}…", "v".repeat(1018));
    let reply = Component::new(&replying(0, 1504)).with(&data);
    let Ok(Step::Reply(reply)) = head(&mut *Setup::new().instance(&reply.wasm())) else {
        panic!("no reply");
    };
    assert_eq!(reply.reason, expected);
    let fails = Component::new("(i32.const 1040)")
        .with(&data)
        .with(&format!(
            r#"(data (i32.const 1040) "\{FAIL:02x}\00\00\00\00\08\00\00\e0\05\00\00")"#
        ));
    let fault = head(&mut *Setup::new().instance(&fails.wasm())).expect_err("undecided");
    assert_eq!(fault, Fault::Undecided(expected));
    let mut refuses = Component::step(PROCEED)
        .with(r#"(data (i32.const 340) "\01\00\00\00\00\08\00\00\00\20\00\00")"#)
        .with(&data);
    refuses.configure = "i32.const 340".to_owned();
    let error = Setup::new()
        .configure(&refuses.wasm())
        .expect_err("refused");
    let ConfigureError::Fault(Fault::Config(why)) = error else {
        panic!("{error:?}");
    };
    assert!(why.starts_with("a\\r\\nb"), "{why}");
    assert!(why.len() < 4200 && !why.contains('\0'), "{}", why.len());
}

#[test]
fn a_line_has_so_many_labels() {
    // Forty labels of nothing.
    let component = Component::new(&format!(
        "(call $log (local.get $ctx) (i32.const 2) (i32.const 2048) (i32.const 1)
           (i32.const 8192) (i32.const 40))
         (call $step (i32.const {PROCEED}))"
    ))
    .with(r#"(data (i32.const 2048) "a")"#);
    let setup = Setup::new();
    head(&mut *setup.instance(&component.wasm())).expect("proceeds");
    assert_eq!(setup.lines.take(), [format!("Info a{}", " =".repeat(16))]);
}

/// Holds bodies, as long as there is more of them; lets all else go.
fn collecting() -> Component {
    Component::new(&format!(
        "(call $step (i32.const {PROCEED}))
         (if (i32.and (i32.or (i32.eq (local.get $kind) (i32.const {REQUEST_BODY}))
                              (i32.eq (local.get $kind) (i32.const 4)))
                      (i32.eqz (local.get $c)))
           (then (drop (call $step (i32.const {MORE})))))"
    ))
}

/// A part of ten bytes.
fn part(side: Side, end: bool) -> Event {
    let data = Bytes::from_static(b"0123456789");
    match side {
        Side::Request => Event::RequestBody { data, end },
        Side::Response => Event::ResponseBody { data, end },
    }
}

#[test]
fn a_body_is_held_up_to_its_limit() {
    let module = ProxyWasm::new(
        r#"(func (export "proxy_on_request_body") (param i32 i32 i32) (result i32)
             (i32.eqz (local.get 2)))
           (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32)
             (i32.eqz (local.get 2)))"#,
    );
    let mut setup = Setup::new();
    setup.spec.limits.held_body = 20;
    for wasm in [collecting().wasm(), module.wasm()] {
        let mut guest = setup.instance(&wasm);
        for (side, status) in [
            (Side::Request, StatusCode::PAYLOAD_TOO_LARGE),
            (Side::Response, StatusCode::BAD_GATEWAY),
        ] {
            let context = open(&mut *guest, FakeExchange::get("/").answered(200));
            for _part in 0..2 {
                assert_eq!(guest.on_event(context, part(side, false)), Ok(Step::More));
            }
            let fault = guest
                .on_event(context, part(side, false))
                .expect_err("full");
            assert_eq!(fault, Fault::Held { side, most: 20 });
            assert_eq!(fault.status(), Some(status), "whatever the policy says");
            assert!(!fault.is_fatal());
            assert_eq!(guest.close(context).1, Ok(()));
            // Where it ends within the limit, and after that, there is room again.
            let context = open(&mut *guest, FakeExchange::get("/").answered(200));
            for _part in 0..2 {
                assert_eq!(guest.on_event(context, part(side, false)), Ok(Step::More));
            }
            let last = guest.on_event(context, part(side, true));
            assert!(matches!(last, Ok(Step::Proceed)), "{last:?}");
            assert_eq!(guest.close(context).1, Ok(()));
        }
        assert_eq!(guest.contexts(), 0);
    }
}

#[test]
fn nobody_holds_what_was_let_go() {
    let streams = Component::step(PROCEED);
    let mut setup = Setup::new();
    setup.spec.limits.held_body = 20;
    let mut guest = setup.instance(&streams.wasm());
    let context = open(&mut *guest, FakeExchange::get("/"));
    for _part in 0..10 {
        let step = guest.on_event(context, part(Side::Request, false));
        assert_eq!(step, Ok(Step::Proceed));
    }
}

#[test]
fn more_of_a_message_that_is_over_is_no_answer() {
    let mut guest = Setup::new().instance(&Component::step(MORE).wasm());
    let more = |guest: &mut dyn Guest, events: &[Event]| {
        let context = open(guest, FakeExchange::get("/").answered(200));
        let steps: Vec<_> = events
            .iter()
            .map(|event| guest.on_event(context, event.clone()))
            .collect();
        let (last, before) = steps.split_last().expect("one");
        assert!(before.iter().all(|step| *step == Ok(Step::More)));
        last.clone()
    };
    let head = |end| Event::RequestHeaders { end };
    for events in [
        vec![head(true)],
        vec![head(false), body(b"x", true)],
        vec![head(false), body(b"x", false), Event::RequestTrailers],
        vec![Event::ResponseHeaders { end: true }],
        vec![Event::ResponseTrailers],
    ] {
        let fault = more(&mut *guest, &events).expect_err("it is over");
        assert!(matches!(fault, Fault::Answer(_)), "{events:?}: {fault:?}");
        assert_eq!((fault.kind(), fault.is_fatal()), (FaultKind::Trap, false));
    }
    // Of the other message there is more.
    let both = [Event::ResponseHeaders { end: false }, body(b"x", false)];
    assert_eq!(more(&mut *guest, &both), Ok(Step::More));
}

#[test]
fn a_module_that_pauses_at_the_end_of_a_body_is_asked_for_no_more() {
    let module = ProxyWasm::new(
        r#"(func (export "proxy_on_request_body") (param i32 i32 i32) (result i32)
             (i32.const 1))"#,
    );
    let mut guest = Setup::new().instance(&module.wasm());
    let context = open(&mut *guest, FakeExchange::get("/"));
    assert_eq!(guest.on_event(context, body(b"x", false)), Ok(Step::More));
    assert_eq!(guest.on_event(context, body(b"x", true)), Ok(Step::Pending));
}

#[test]
fn a_second_answer_of_one_request_is_not_sent() {
    let mut guest = Setup::new().instance(&Component::new(&replying(1, 0)).wasm());
    let context = open(&mut *guest, FakeExchange::get("/").answered(200));
    let first = guest.on_event(context, HEAD);
    assert!(matches!(first, Ok(Step::Reply(_))), "{first:?}");
    for event in [HEAD, Event::ResponseHeaders { end: true }] {
        assert_eq!(guest.on_event(context, event), Ok(Step::Pass));
    }
    assert!(matches!(head(&mut *guest), Ok(Step::Reply(_))));
}

/// The first exchange is held at its heads, as it is told; any other one sets a timer of the first
/// one's, at its head and at its end.
fn nudging(request: u32, response: u32) -> Component {
    let nudge = "(drop (call $set_timer (i64.const 1) (i64.const 0)))";
    let mut component = Component::new(&format!(
        "(if (i64.eq (local.get $ctx) (i64.const 1)) (then
           (if (i32.eq (local.get $kind) (i32.const {REQUEST_HEADERS})) (then
             (return (call $step (i32.const {request})))))
           (return (call $step (i32.const {response})))))
         {nudge}
         (call $step (i32.const {PROCEED}))"
    ));
    component.drop = format!("(if (i64.ne (local.get $ctx) (i64.const 1)) (then {nudge}))");
    component
}

#[test]
fn a_timer_that_another_one_sets_is_about_what_is_held() {
    for (request, response, sides) in [
        (PENDING, PENDING, Some([Side::Request, Side::Request])),
        (PROCEED, PENDING, Some([Side::Response, Side::Response])),
        // Nothing is held: of the message that was there last.
        (PENDING, PROCEED, Some([Side::Request, Side::Request])),
        (PROCEED, PROCEED, None),
    ] {
        let mut guest = Setup::new().instance(&nudging(request, response).wasm());
        let held = open(&mut *guest, FakeExchange::get("/").answered(200));
        assert_eq!(held.number(), 1);
        guest.on_event(held, HEAD).expect("a step");
        guest
            .on_event(held, Event::ResponseHeaders { end: true })
            .expect("a step");
        let other = open(&mut *guest, FakeExchange::get("/"));
        guest.on_event(other, HEAD).expect("proceeds");
        assert_eq!(guest.close(other).1, Ok(()));
        let set: Vec<_> = commands(&mut *guest)
            .into_iter()
            .map(|(of, command)| match command {
                Command::SetTimer { id, .. } if of == held => side_of(id),
                other => panic!("{other:?}"),
            })
            .collect();
        let sides = sides.unwrap_or([Side::Response; 2]);
        assert_eq!(set, sides, "{request} {response}");
    }
}

#[test]
fn a_timer_of_ones_own_is_about_the_message_at_hand() {
    // Its request is held; the timer is set when the response's head is there.
    let component = Component::new(&format!(
        "(if (i32.ne (local.get $kind) (i32.const {REQUEST_HEADERS})) (then
           (drop (call $set_timer (local.get $ctx) (i64.const 5)))))
         (call $step (i32.const {PENDING}))"
    ));
    let mut guest = Setup::new().instance(&component.wasm());
    let context = open(&mut *guest, FakeExchange::get("/").answered(200));
    guest.on_event(context, HEAD).expect("pending");
    guest
        .on_event(context, Event::ResponseHeaders { end: true })
        .expect("pending");
    let Some((_, Command::SetTimer { id, .. })) = commands(&mut *guest).pop() else {
        panic!("no timer");
    };
    assert_eq!(side_of(id), Side::Response);
}
