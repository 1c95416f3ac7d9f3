//! Filters of our own ABI.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use weft_wasm_host::{
    Command, ConfigureError, ContextId, Event, Fault, FetchError, FetchResponse, FetchResult, Side,
    Step, describe, side_of,
};

use crate::support::guest::{Component, EMIT, FETCH_DONE, MORE, PENDING, PROCEED, REPLY, TIMER};
use crate::support::{
    FakeExchange, HEAD, Setup, body, commands, head, header, load, open, runtime,
};

/// Puts a digit for each of its results into the header `r`.
fn results(calls: &[&str]) -> String {
    let tell: Vec<String> = calls
        .iter()
        .enumerate()
        .map(|(at, call)| {
            let to = 1200 + at;
            format!("(i32.store8 (i32.const {to}) (i32.add (i32.const 48) {call}))")
        })
        .collect();
    format!(
        "{} (drop (call $set_header (local.get $ctx) (i32.const 0) (i32.const 2048) (i32.const 1)
           (i32.const 1200) (i32.const {})))
         (call $step (i32.const {PROCEED}))",
        tell.join("\n"),
        calls.len()
    )
}

#[test]
fn a_manifest_says_what_a_filter_is() {
    let runtime = runtime();
    let module = load(&runtime, &Component::step(PROCEED).wasm());
    let manifest = describe(&runtime, &module).expect("it describes itself");
    assert_eq!(manifest.name, "test");
    assert_eq!(manifest.version, "1.2.3");
    assert_eq!(manifest.sdk, "wat1");
    assert_eq!(manifest.config_schema, "{}");
    assert!(manifest.interests.request_headers && manifest.interests.response_trailers);
    assert_eq!(
        module.imports(),
        ["weft:filter/types@0.1.0", "weft:filter/host@0.1.0"]
    );
}

#[test]
fn a_configuration_can_be_refused() {
    let mut component = Component::step(PROCEED).with(
        r#"(data (i32.const 340) "\01\00\00\00\00\08\00\00\0c\00\00\00")
           (data (i32.const 2048) "ttl: missing")"#,
    );
    component.configure = "i32.const 340".to_owned();
    let error = Setup::new()
        .configure(&component.wasm())
        .expect_err("refused");
    let expected = Fault::Config("ttl: missing".to_owned());
    assert_eq!(error, ConfigureError::Fault(expected));
}

#[test]
fn headers_are_read_and_changed() {
    let copy = Component::new(&format!(
        "(call $get_header (local.get $ctx) (i32.const 0) (i32.const 2048) (i32.const 4)
           (i32.const 1100))
         (if (i32.load8_u (i32.const 1100)) (then
           (drop (call $set_header (local.get $ctx) (i32.const 0) (i32.const 2052) (i32.const 5)
             (i32.load (i32.const 1104)) (i32.load (i32.const 1108))))))
         (call $step (i32.const {PROCEED}))"
    ))
    .with(r#"(data (i32.const 2048) "x-inx-out")"#);
    let mut guest = Setup::new().instance(&copy.wasm());
    let context = open(&mut *guest, FakeExchange::get("/").with("x-in", "there"));
    assert_eq!(guest.on_event(context, HEAD), Ok(Step::Proceed));
    let exchange = guest.reclaim(context).expect("lent");
    assert_eq!(header(&*exchange, "x-out").as_deref(), Some("there"));
    assert!(guest.reclaim(context).is_none());
    let context = open(&mut *guest, FakeExchange::get("/"));
    assert_eq!(guest.on_event(context, HEAD), Ok(Step::Proceed));
    let exchange = guest.reclaim(context).expect("lent");
    assert_eq!(header(&*exchange, "x-out"), None);
}

#[test]
fn what_a_filter_may_not_change_stays() {
    let set = |name: u32, length: u32, value: u32| {
        format!(
            "(call $set_header (local.get $ctx) (i32.const 0) (i32.const {name})
               (i32.const {length}) (i32.const {value}) (i32.const 4))"
        )
    };
    let calls = [
        set(2049, 14, 2100), // content-length
        set(2063, 12, 2100), // x-request-id, of the proxy
        set(2075, 1, 2100),  // x, fine
        set(2075, 1, 2104),  // x: CR LF
        set(2076, 5, 2100),  // :path
        set(2081, 4, 2100),  // host
        set(2085, 3, 2100),  // a b
        "(call $set_target (local.get $ctx) (i32.const 2077) (i32.const 4) (i32.const 2108)
           (i32.const 4))"
            .to_owned(), // path
        "(call $set_target (local.get $ctx) (i32.const 2088) (i32.const 6) (i32.const 2100)
           (i32.const 4))"
            .to_owned(), // scheme
    ];
    let calls: Vec<&str> = calls.iter().map(String::as_str).collect();
    let component = Component::new(&results(&calls)).with(
        r#"(data (i32.const 2048) "rcontent-lengthx-request-idx:pathhosta bscheme")
           (data (i32.const 2100) "good\0d\0a\0d\0a/new")"#,
    );
    let mut guest = Setup::new().instance(&component.wasm());
    let context = open(&mut *guest, FakeExchange::get("/old"));
    assert_eq!(guest.on_event(context, HEAD), Ok(Step::Proceed));
    let exchange = guest.reclaim(context).expect("lent");
    assert_eq!(header(&*exchange, "r").as_deref(), Some("001000010"));
    assert_eq!(header(&*exchange, "x").as_deref(), Some("good"));
    let target = weft_wasm_host::exchange::Target::Path;
    assert_eq!(exchange.target(target), "/new");
}

#[test]
fn headers_cannot_grow_without_end() {
    let component = Component::new(&format!(
        "(loop $again
           (br_if $again (call $append_header (local.get $ctx) (i32.const 0) (i32.const 2048)
             (i32.const 1) (i32.const 2048) (i32.const 1))))
         (call $step (i32.const {PROCEED}))"
    ))
    .with(r#"(data (i32.const 2048) "x")"#);
    let mut guest = Setup::new().instance(&component.wasm());
    let context = open(&mut *guest, FakeExchange::get("/"));
    assert_eq!(guest.on_event(context, HEAD), Ok(Step::Proceed));
    let exchange = guest.reclaim(context).expect("lent");
    let fields = exchange.fields(weft_wasm_host::Fields::RequestHeaders);
    assert_eq!(fields.expect("there").len(), 256);
}

#[test]
fn a_body_can_be_replaced() {
    // Gives back what it was given, but for the first byte.
    let component = Component::new(&format!(
        "(i32.store8 (i32.const 1024) (i32.const {EMIT}))
         (i32.store (i32.const 1028) (i32.add (i32.wrap_i64 (local.get $a)) (i32.const 1)))
         (i32.store (i32.const 1032) (i32.sub (local.get $b) (i32.const 1)))
         (i32.const 1024)"
    ));
    let mut setup = Setup::new();
    // Copies are slow in a build that is made for finding faults.
    setup.spec.limits.deadline = weft_wasm_host::MAX_DEADLINE;
    let mut guest = setup.instance(&component.wasm());
    let context = open(&mut *guest, FakeExchange::get("/"));
    let step = guest.on_event(context, body(b"hello", true));
    assert_eq!(step, Ok(Step::Emit(Bytes::from_static(b"ello"))));
    static LARGE: [u8; 300_000] = [7; 300_000];
    for _time in 0..20 {
        let step = guest.on_event(context, body(&LARGE, false));
        let Ok(Step::Emit(bytes)) = step else {
            panic!("{step:?}");
        };
        assert_eq!(bytes.len(), 299_999);
    }
}

#[test]
fn a_body_can_be_held_to_its_end() {
    // `more` while `$c` is 0, `proceed` when it is 1.
    let component = Component::new(&format!(
        "(call $step (i32.add (i32.const {MORE}) (local.get $c)))"
    ));
    let mut guest = Setup::new().instance(&component.wasm());
    let context = open(&mut *guest, FakeExchange::get("/"));
    assert_eq!(guest.on_event(context, body(b"a", false)), Ok(Step::More));
    assert_eq!(guest.on_event(context, body(b"", true)), Ok(Step::Proceed));
}

/// Fetches at the head, and lets go when the answer is there.
fn fetching() -> Component {
    Component::new(&format!(
        "(if (result i32) (i32.eq (local.get $kind) (i32.const {FETCH_DONE}))
           (then (if (result i32) (i32.and (i32.eqz (local.get $b))
                                  (i32.eq (local.get $c) (i32.const 200)))
             (then (call $step (i32.const {PROCEED})))
             (else (i32.const 1040))))
           (else
             (call $start_fetch (local.get $ctx)
               (i32.const 2048) (i32.const 8) (i32.const 2056) (i32.const 3)
               (i32.const 2059) (i32.const 6) (i32.const 0) (i32.const 0)
               (i32.const 2048) (i32.const 5) (i32.const 0) (i32.const 0)
               (i32.const 0) (i32.const 250) (i32.const 1104))
             (call $step (i32.const {PENDING}))))"
    ))
    .with(
        r#"(data (i32.const 2048) "authz:80PUT/check")
           (data (i32.const 1040) "\05\00\00\00\93\01\00\00")"#,
    )
}

fn answer(status: u16) -> FetchResult {
    let mut headers = HeaderMap::new();
    headers.insert("x", HeaderValue::from_static("y"));
    Ok(Box::new(FetchResponse {
        status: StatusCode::from_u16(status).expect("a status"),
        headers,
        body: Bytes::from_static(b"ok"),
        trailers: HeaderMap::new(),
    }))
}

#[test]
fn a_fetch_is_a_command_and_an_event() {
    let mut guest = Setup::new().instance(&fetching().wasm());
    let context = open(&mut *guest, FakeExchange::get("/"));
    assert_eq!(guest.on_event(context, HEAD), Ok(Step::Pending));
    let asked = commands(&mut *guest);
    let [(of, Command::StartFetch { id, request })] = &asked[..] else {
        panic!("{asked:?}");
    };
    assert_eq!(*of, context);
    assert_eq!(side_of(*id), Side::Request);
    assert_eq!((&*request.service, &*request.path), ("authz:80", "/check"));
    assert_eq!(request.method, Method::PUT);
    assert_eq!(request.body.as_ref(), b"authz");
    assert_eq!(request.timeout, Duration::from_millis(250));
    let done = |id, status| Event::FetchDone {
        id,
        result: answer(status),
    };
    let unknown = guest.on_event(context, done(id + 2, 200));
    assert_eq!(unknown, Ok(Step::Pending), "nobody asked for it");
    assert_eq!(guest.on_event(context, done(*id, 200)), Ok(Step::Proceed));
    assert_eq!(
        guest.on_event(context, done(*id, 200)),
        Ok(Step::Pending),
        "it came already"
    );
}

#[test]
fn a_fetch_that_fails_is_told_too() {
    let mut guest = Setup::new().instance(&fetching().wasm());
    for result in [answer(500), Err(FetchError::Failed("reset".to_owned()))] {
        let context = open(&mut *guest, FakeExchange::get("/"));
        guest.on_event(context, HEAD).expect("pending");
        let Some((_, Command::StartFetch { id, .. })) = commands(&mut *guest).pop() else {
            panic!("no fetch");
        };
        let step = guest.on_event(context, Event::FetchDone { id, result });
        assert!(
            matches!(&step, Ok(Step::Reply(reply)) if reply.status == 403),
            "{step:?}"
        );
    }
}

#[test]
fn fetches_are_bounded_and_end_with_their_request() {
    let mut setup = Setup::new();
    setup.spec.limits.fetches_per_context = 2;
    setup.spec.limits.fetches = 3;
    let mut guest = setup.instance(&fetching().wasm());
    let first = open(&mut *guest, FakeExchange::get("/"));
    let second = open(&mut *guest, FakeExchange::get("/"));
    for _time in 0..3 {
        guest.on_event(first, HEAD).expect("pending");
        guest.on_event(second, HEAD).expect("pending");
    }
    let asked = commands(&mut *guest);
    let of = |context| asked.iter().filter(|(of, _)| *of == context).count();
    assert_eq!((of(first), of(second)), (2, 1));
    let (exchange, closed) = guest.close(first);
    assert!(exchange.is_some());
    assert_eq!(closed, Ok(()));
    let cancelled = commands(&mut *guest);
    assert_eq!(cancelled.len(), 2);
    assert!(
        cancelled
            .iter()
            .all(|(of, command)| *of == first && matches!(command, Command::CancelFetch { .. }))
    );
    guest.on_event(second, HEAD).expect("pending");
    assert_eq!(commands(&mut *guest).len(), 1, "there is room again");
}

/// Does this so many times at a head.
fn repeating(times: u32, code: &str) -> Component {
    Component::new(&format!(
        "(local $n i32)
         (loop $again
           {code}
           (br_if $again (i32.lt_u
             (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const {times}))))
         (call $step (i32.const {PENDING}))"
    ))
}

#[test]
fn what_is_cancelled_at_once_is_never_asked_for() {
    let timers = repeating(
        100,
        "(call $cancel_timer (local.get $ctx)
           (call $set_timer (local.get $ctx) (i64.const 20)))",
    );
    let fetches = repeating(
        100,
        "(call $start_fetch (local.get $ctx)
           (i32.const 2048) (i32.const 8) (i32.const 2056) (i32.const 3)
           (i32.const 2059) (i32.const 6) (i32.const 0) (i32.const 0)
           (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
           (i32.const 0) (i32.const 250) (i32.const 1104))
         (call $cancel_fetch (local.get $ctx) (i64.load (i32.const 1112)))",
    )
    .with(r#"(data (i32.const 2048) "authz:80PUT/check")"#);
    for component in [timers, fetches] {
        let mut guest = Setup::new().instance(&component.wasm());
        assert_eq!(head(&mut *guest), Ok(Step::Pending));
        assert_eq!(commands(&mut *guest), []);
    }
}

#[test]
fn one_call_asks_for_no_more_than_so_much() {
    // Of the instance itself, which may wait for more than that.
    let component = repeating(600, "(drop (call $set_timer (i64.const 0) (i64.const 20)))");
    let mut guest = Setup::new().instance(&component.wasm());
    for _call in 0..2 {
        assert_eq!(head(&mut *guest), Ok(Step::Pending));
        assert_eq!(commands(&mut *guest).len(), 256);
    }
}

#[test]
fn a_timer_of_the_response_is_known_as_such() {
    let component = Component::new(&format!(
        "(if (result i32) (i32.eq (local.get $kind) (i32.const {TIMER}))
           (then (call $step (i32.const {PROCEED})))
           (else (drop (call $set_timer (local.get $ctx) (i64.const 20)))
             (call $step (i32.const {PENDING}))))"
    ));
    let mut guest = Setup::new().instance(&component.wasm());
    let context = open(&mut *guest, FakeExchange::get("/").answered(200));
    let event = Event::ResponseHeaders { end: true };
    assert_eq!(guest.on_event(context, event), Ok(Step::Pending));
    let Some((_, Command::SetTimer { id, after })) = commands(&mut *guest).pop() else {
        panic!("no timer");
    };
    assert_eq!(after, Duration::from_millis(20));
    assert_eq!(side_of(id), Side::Response);
    assert_eq!(
        guest.on_event(context, Event::Timer { id }),
        Ok(Step::Proceed)
    );
}

#[test]
fn a_reply_must_be_one_that_can_be_sent() {
    // Status in the low half of the word at 1028, one header at 1300.
    let reply = |status: u16, name: &str, value: &str| {
        let [low, high] = status.to_le_bytes();
        let component = Component::new("(i32.const 1024)").with(&format!(
            r#"(data (i32.const 1024) "\{REPLY:02x}\00\00\00\{low:02x}\{high:02x}\00\00\14\05\00\00\01\00\00\00\00\08\00\00\02\00\00\00\02\08\00\00\03\00\00\00")
               (data (i32.const 1300) "\00\0a\00\00\{:02x}\00\00\00\00\0b\00\00\{:02x}\00\00\00")
               (data (i32.const 2048) "nowhy")
               (data (i32.const 2560) "{name}")
               (data (i32.const 2816) "{value}")"#,
            name.len(),
            value.len(),
        ));
        let mut guest = Setup::new().instance(&component.wasm());
        let first = head(&mut *guest);
        assert_eq!(head(&mut *guest), first, "the instance goes on");
        first
    };
    let Ok(Step::Reply(good)) = reply(429, "retry-after", "1") else {
        panic!("a reply");
    };
    assert_eq!(good.status, 429);
    assert_eq!(good.headers["retry-after"], "1");
    assert_eq!((good.body.as_ref(), &*good.reason), (&b"no"[..], "why"));
    let Ok(Step::Reply(framed)) = reply(429, "content-length", "9") else {
        panic!("a reply");
    };
    assert!(framed.headers.is_empty(), "whoever sends it frames it");
    for (status, name) in [(99, "a"), (101, "a"), (600, "a"), (200, "a b")] {
        let step = reply(status, name, "1");
        assert!(
            matches!(step, Err(Fault::Answer(_))),
            "{status} {name}: {step:?}"
        );
    }
}

#[test]
fn values_and_metrics_are_shared_by_all_instances() {
    let component = Component::new(&format!(
        "(call $kv_incr (i32.const 2048) (i32.const 4) (i64.const 2) (i32.const 0) (i64.const 0)
           (i32.const 1104))
         (call $metric (i32.const 0) (i32.const 2048) (i32.const 4) (i32.const 0) (i32.const 0)
           (i32.const 1120))
         (call $metric_add (i32.load (i32.const 1124)) (f64.const 1.5))
         (call $step (i32.const {PROCEED}))"
    ))
    .with(r#"(data (i32.const 2048) "hits")"#);
    let setup = Setup::new();
    let filter = setup.filter(&component.wasm());
    for _instance in 0..2 {
        let mut guest = filter.instantiate().expect("an instance");
        for _request in 0..2 {
            assert_eq!(head(&mut *guest), Ok(Step::Proceed));
        }
    }
    let shared = &setup.spec.shared;
    assert_eq!(shared.kv.increment("hits", 0, None, 0), Ok(8));
    let metrics = shared.metrics.all();
    assert_eq!(metrics.len(), 1);
    assert_eq!(
        (metrics[0].key().name.as_str(), metrics[0].value()),
        ("hits", 6.0)
    );
}

#[test]
fn attributes_tell_who_asks_whom() {
    // The pod of the source: at 88 of the attributes, after its namespace.
    let component = Component::new(&format!(
        "(call $get_attributes (local.get $ctx) (i32.const 1400))
         (drop (call $set_header (local.get $ctx) (i32.const 0) (i32.const 2048) (i32.const 1)
           (i32.load (i32.const {pod})) (i32.load (i32.const {length}))))
         (call $step (i32.const {PROCEED}))",
        // request-id 8, trace-id 8, direction 4; in the peer: address 8, port 4, identity 4,
        // namespace 8.
        pod = 1400 + 20 + 24,
        length = 1400 + 20 + 28,
    ))
    .with(r#"(data (i32.const 2048) "r")"#);
    let mut guest = Setup::new().instance(&component.wasm());
    let context = open(&mut *guest, FakeExchange::get("/"));
    guest.on_event(context, HEAD).expect("proceeds");
    let exchange = guest.reclaim(context).expect("lent");
    assert_eq!(header(&*exchange, "r").as_deref(), Some("xwing"));
}

#[test]
fn who_drives_it_wrongly_is_told() {
    let mut guest = Setup::new().instance(&Component::step(PROCEED).wasm());
    let context = open(&mut *guest, FakeExchange::get("/"));
    assert!(guest.close(context).0.is_some());
    assert!(matches!(
        guest.on_event(context, HEAD),
        Err(Fault::Misuse(_))
    ));
    let nobody = guest.on_event(ContextId::INSTANCE, HEAD);
    assert!(matches!(nobody, Err(Fault::Misuse(_))));
    let again = guest.close(context);
    assert!(again.0.is_none() && again.1.is_ok());
    assert_eq!(
        head(&mut *guest),
        Ok(Step::Proceed),
        "nothing happened to it"
    );
}

#[test]
fn a_filter_has_room_for_so_many_requests() {
    let mut setup = Setup::new();
    setup.spec.limits.contexts = 2;
    let mut guest = setup.instance(&Component::step(PENDING).wasm());
    let first = open(&mut *guest, FakeExchange::get("/"));
    open(&mut *guest, FakeExchange::get("/"));
    assert!(matches!(guest.open(), Err(Fault::NoRoom(_))));
    assert_eq!(guest.contexts(), 2);
    assert_eq!(guest.close(first).1, Ok(()));
    guest.open().expect("room again");
}
