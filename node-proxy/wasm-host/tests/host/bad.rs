//! Modules that do everything wrong. Each harms itself alone, and its failure has a name.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use weft_wasm_host::{
    Command, ConfigureError, ContextId, Event, Fault, FetchResponse, LoadError, Loader,
    MAX_DEADLINE, Step, thread_time,
};

use crate::support::guest::{Component, EMIT, PROCEED, ProxyWasm};
use crate::support::{
    FakeExchange, HEAD, ManualClock, Setup, body, commands, head, open, own_runtime, runtime,
};

const LOOP: &str = "(loop $forever (br $forever))";
/// A function that calls itself until there is no stack.
const RECURSE: &str = "(func $deep (result i32) (i32.add (call $deep) (i32.const 1)))";

fn answer() -> FetchResponse {
    FetchResponse {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body: Bytes::new(),
        trailers: HeaderMap::new(),
    }
}

/// What an instance of each kind says when its first event does this.
fn faults(code: &str, extra: &str) -> [Fault; 2] {
    let component = Component::new(&format!("{code} (call $step (i32.const {PROCEED}))"));
    let module = ProxyWasm::new(&format!(
        r#"{extra} (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             {code} (i32.const 0))"#
    ));
    [component.with(extra).wasm(), module.wasm()].map(|wasm| {
        let mut guest = Setup::new().instance(&wasm);
        head(&mut *guest).expect_err("it fails")
    })
}

#[test]
fn an_infinite_loop_is_stopped() {
    let start = Instant::now();
    for fault in faults(LOOP, "") {
        let limit = MAX_DEADLINE;
        assert_eq!(fault, Fault::Timeout { limit });
    }
    // Twice 100 ms of CPU time, on a machine that does other things too.
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_call_is_stopped_soon_after_its_deadline() {
    // Shorter and longer than the engine's tick, each after it has slept.
    for limit in [1, 5].map(Duration::from_millis) {
        let mut setup = Setup::of(own_runtime(&Arc::new(ManualClock::default()), 4));
        setup.spec.limits.deadline = limit;
        let component = Component::new(&format!("{LOOP} (call $step (i32.const {PROCEED}))"));
        let mut guest = setup.instance(&component.wasm());
        let before = thread_time();
        assert_eq!(head(&mut *guest), Err(Fault::Timeout { limit }));
        let used = thread_time() - before;
        assert!(used >= limit, "it has its time: {used:?}");
        // A ticker that slept on would look a second later.
        assert!(used < Duration::from_millis(500), "{used:?}");
    }
}

#[test]
fn a_long_deadline_on_a_quiet_engine_ends_in_time() {
    // Longer than the engine waits for another call before it goes to sleep; it would then need a
    // second for each millisecond that is left.
    let limit = Duration::from_millis(320);
    let mut setup = Setup::of(own_runtime(&Arc::new(ManualClock::default()), 4));
    setup.spec.limits.start_deadline = limit;
    let module = ProxyWasm::new(&format!(
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
        {LOOP} (i32.const 1))"#
    ));
    let start = Instant::now();
    let refused = setup.configure(&module.wasm()).expect_err("it never ends");
    assert_eq!(refused, ConfigureError::Fault(Fault::Timeout { limit }));
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_loop_of_calls_to_the_host_is_stopped_too() {
    let code = "(loop $forever
        (call $log (local.get $ctx) (i32.const 0) (i32.const 0) (i32.const 9) (i32.const 0)
          (i32.const 0))
        (br $forever))";
    let component = Component::new(&format!("{code} (call $step (i32.const {PROCEED}))"));
    let mut guest = Setup::new().instance(&component.wasm());
    assert!(matches!(head(&mut *guest), Err(Fault::Timeout { .. })));
}

#[test]
fn infinite_recursion_is_a_trap() {
    for fault in faults("(drop (call $deep))", RECURSE) {
        assert_eq!(
            fault,
            Fault::Trap("wasm trap: call stack exhausted".to_owned())
        );
    }
}

#[test]
fn memory_grows_to_its_limit_and_no_further() {
    let grow = "(loop $more (drop (memory.grow (i32.const 16))) (br $more))";
    for fault in faults(grow, "") {
        assert_eq!(
            fault,
            Fault::Memory {
                what: "the filter's limit of memory"
            }
        );
    }
}

#[test]
fn a_table_grows_to_its_limit_and_no_further() {
    let grow = "(loop $more
        (drop (table.grow $t (ref.null func) (i32.const 100)))
        (br $more))";
    for fault in faults(grow, "(table $t 1 funcref)") {
        let what = "the filter's limit of table elements";
        assert_eq!(fault, Fault::Memory { what });
    }
}

#[test]
fn a_huge_table_or_memory_is_refused_at_load() {
    let loader = Loader::new(runtime());
    for extra in ["(table 10000000 funcref)", "(table 100000 funcref)"] {
        for wasm in [
            Component::step(PROCEED).with(extra).wasm(),
            ProxyWasm::new(extra).wasm(),
        ] {
            let error = loader.load(&wasm, None).expect_err("too large");
            assert!(matches!(error, LoadError::Compile(_)), "{error:?}");
        }
    }
}

#[test]
fn a_module_that_begins_with_more_than_its_limit_does_not_start() {
    let mut setup = Setup::new();
    setup.spec.limits.memory = 65_536;
    for wasm in [Component::step(PROCEED).wasm(), ProxyWasm::default().wasm()] {
        let error = setup
            .configure(&wasm)
            .expect_err("its memory has two pages");
        let expected = Fault::Memory {
            what: "the filter's limit of memory",
        };
        assert_eq!(error, ConfigureError::Fault(expected));
    }
}

#[test]
fn what_wasm_forbids_is_a_trap() {
    for (code, what) in [
        ("unreachable", "wasm `unreachable` instruction executed"),
        (
            "(drop (i32.load (i32.const -1)))",
            "out of bounds memory access",
        ),
        (
            "(drop (i32.div_u (i32.const 1) (i32.const 0)))",
            "integer divide by zero",
        ),
    ] {
        for fault in faults(code, "") {
            assert_eq!(fault, Fault::Trap(format!("wasm trap: {what}")));
        }
    }
}

#[test]
fn a_component_that_lies_about_its_pointers_traps() {
    let outside = Component::new(&format!(
        "(i32.store8 (i32.const 1024) (i32.const {EMIT}))
         (i32.store (i32.const 1028) (i32.const -16))
         (i32.store (i32.const 1032) (i32.const 64))
         (i32.const 1024)"
    ));
    let no_step = Component::new("(call $step (i32.const 77))");
    let nowhere = Component::new("(i32.const -4)");
    let of_host = Component::new(&format!(
        "(call $get_header (local.get $ctx) (i32.const 0) (i32.const -1) (i32.const 4)
           (i32.const 1100))
         (call $step (i32.const {PROCEED}))"
    ));
    for component in [outside, no_step, nowhere, of_host] {
        let mut guest = Setup::new().instance(&component.wasm());
        assert!(matches!(head(&mut *guest), Err(Fault::Trap(_))));
    }
}

#[test]
fn a_manifest_or_configuration_that_traps_is_refused() {
    let mut describes = Component::step(PROCEED);
    describes.describe = "unreachable".to_owned();
    let mut configures = Component::step(PROCEED);
    configures.configure = "unreachable".to_owned();
    let mut loops = Component::step(PROCEED);
    loops.configure = format!("{LOOP} (i32.const 320)");
    let starts = Component::step(PROCEED).with("(func $s unreachable) (start $s)");
    for component in [describes, configures, starts] {
        let error = Setup::new()
            .configure(&component.wasm())
            .expect_err("traps");
        assert!(
            matches!(error, ConfigureError::Fault(Fault::Trap(_))),
            "{error:?}"
        );
    }
    let mut setup = Setup::new();
    setup.spec.limits.start_deadline = Duration::from_millis(20);
    let error = setup.configure(&loops.wasm()).expect_err("too long");
    assert!(
        matches!(error, ConfigureError::Fault(Fault::Timeout { .. })),
        "{error:?}"
    );
}

#[test]
fn a_trap_in_any_event_of_a_component_is_a_fault() {
    // At a head it sets a timer and sends a fetch, but for the kind of event at which it traps.
    let component = |kind: usize| {
        Component::new(&format!(
            "(if (i32.eq (local.get $kind) (i32.const {kind})) (then unreachable))
             (drop (call $set_timer (local.get $ctx) (i64.const 1)))
             (call $start_fetch (local.get $ctx)
               (i32.const 2048) (i32.const 4) (i32.const 2052) (i32.const 3)
               (i32.const 2055) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0)
               (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
               (i32.const 1104))
             (call $step (i32.const {PROCEED}))"
        ))
        .with(r#"(data (i32.const 2048) "a:80GET/")"#)
    };
    for kind in 0..8 {
        let mut guest = Setup::new().instance(&component(kind).wasm());
        let context = open(&mut *guest, FakeExchange::get("/").answered(200));
        let (mut fetch, mut timer) = (0, 0);
        if kind >= 6 {
            assert_eq!(guest.on_event(context, HEAD), Ok(Step::Proceed));
            for (_, command) in commands(&mut *guest) {
                match command {
                    Command::StartFetch { id, .. } => fetch = id,
                    Command::SetTimer { id, .. } => timer = id,
                    other => panic!("{other:?}"),
                }
            }
        }
        let event = match kind {
            0 => HEAD,
            1 => body(b"x", false),
            2 => Event::RequestTrailers,
            3 => Event::ResponseHeaders { end: false },
            4 => Event::ResponseBody {
                data: Bytes::new(),
                end: true,
            },
            5 => Event::ResponseTrailers,
            6 => Event::FetchDone {
                id: fetch,
                result: Ok(Box::new(answer())),
            },
            _ => Event::Timer { id: timer },
        };
        let step = guest.on_event(context, event);
        assert!(matches!(step, Err(Fault::Trap(_))), "{kind}: {step:?}");
    }
}

#[test]
fn a_trap_in_the_end_of_a_request_is_a_fault() {
    let mut component = Component::step(PROCEED);
    component.drop = "unreachable".to_owned();
    let mut modules = vec![component.wasm()];
    for export in ["proxy_on_done", "proxy_on_log", "proxy_on_delete"] {
        let result = if export == "proxy_on_done" {
            "(result i32)"
        } else {
            ""
        };
        let function = format!(r#"(func (export "{export}") (param i32) {result} unreachable)"#);
        modules.push(ProxyWasm::new(&function).wasm());
    }
    for wasm in modules {
        let mut guest = Setup::new().instance(&wasm);
        let context = open(&mut *guest, FakeExchange::get("/"));
        let (exchange, closed) = guest.close(context);
        assert!(exchange.is_some(), "the request itself is not lost");
        assert!(matches!(closed, Err(Fault::Trap(_))), "{closed:?}");
    }
}

#[test]
fn a_trap_in_any_callback_of_proxy_wasm_is_a_fault() {
    for (export, parameters, result) in [
        ("proxy_on_request_headers", 3, true),
        ("proxy_on_request_body", 3, true),
        ("proxy_on_request_trailers", 2, true),
        ("proxy_on_response_headers", 3, true),
        ("proxy_on_response_body", 3, true),
        ("proxy_on_response_trailers", 2, true),
    ] {
        let parameters = "i32 ".repeat(parameters);
        let result = if result { "(result i32)" } else { "" };
        let module = ProxyWasm::new(&format!(
            r#"(func (export "{export}") (param {parameters}) {result} unreachable)"#
        ));
        let mut guest = Setup::new().instance(&module.wasm());
        let context = open(&mut *guest, FakeExchange::get("/").answered(200));
        let event = match export {
            "proxy_on_request_headers" => HEAD,
            "proxy_on_request_body" => body(b"x", true),
            "proxy_on_request_trailers" => Event::RequestTrailers,
            "proxy_on_response_headers" => Event::ResponseHeaders { end: true },
            "proxy_on_response_body" => Event::ResponseBody {
                data: Bytes::new(),
                end: true,
            },
            _ => Event::ResponseTrailers,
        };
        let step = guest.on_event(context, event);
        assert!(matches!(step, Err(Fault::Trap(_))), "{export}: {step:?}");
    }
}

#[test]
fn a_trap_where_no_request_is_at_hand_is_a_fault() {
    let module = ProxyWasm::new(
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
             (drop (call $tick (i32.const 10))) (i32.const 1))
           (func (export "proxy_on_tick") (param i32) unreachable)"#,
    );
    let mut guest = Setup::new().instance(&module.wasm());
    let Some((_, Command::SetTimer { id, .. })) = commands(&mut *guest).pop() else {
        panic!("no timer");
    };
    let step = guest.on_event(ContextId::INSTANCE, Event::Timer { id });
    assert!(matches!(step, Err(Fault::Trap(_))), "{step:?}");
    let module =
        ProxyWasm::new(r#"(func (export "proxy_on_context_create") (param i32 i32) unreachable)"#);
    let error = Setup::new().configure(&module.wasm()).expect_err("traps");
    assert!(
        matches!(error, ConfigureError::Fault(Fault::Trap(_))),
        "{error:?}"
    );
}

#[test]
fn an_allocator_that_lies_is_a_status() {
    // It gives addresses outside of its memory; the fetched value is never written.
    let text = ProxyWasm::on_headers(
        "(call $tell (call $get (i32.const 0) (i32.const 1024) (i32.const 1) (i32.const 800)
           (i32.const 804)))
         (i32.const 0)",
    )
    .data("x")
    .text("0_2_1")
    .replace(
        "(local.set $at (global.get $top))",
        "(local.set $at (i32.const -64))",
    );
    let setup = Setup::new();
    let mut guest = setup.instance(&wat::parse_str(text).expect("valid"));
    let context = open(&mut *guest, FakeExchange::get("/").with("x", "1"));
    assert_eq!(guest.on_event(context, HEAD), Ok(Step::Proceed));
    assert_eq!(setup.lines.take(), ["Info 6"]);
}

#[test]
fn a_module_that_ends_itself_is_a_trap() {
    let text = ProxyWasm::on_headers("(call $exit (i32.const 3)) (i32.const 0)")
        .text("0_2_1")
        .replace(
            "(memory (export",
            r#"(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
               (memory (export"#,
        );
    let mut guest = Setup::new().instance(&wat::parse_str(text).expect("valid"));
    let expected = Fault::Trap("the filter ended itself with code 3".to_owned());
    assert_eq!(head(&mut *guest), Err(expected));
}

#[test]
fn an_unknown_import_is_a_trap_only_when_it_is_called() {
    let text = |code: &str| {
        ProxyWasm::on_headers(code).text("0_2_1").replace(
            "(memory (export",
            r#"(import "env" "proxy_from_the_future" (func $future))
               (memory (export"#,
        )
    };
    let setup = Setup::new();
    let wasm = wat::parse_str(text("(i32.const 0)")).expect("valid");
    let filter = setup.filter(&wasm);
    assert_eq!(
        filter.module().unknown_imports(),
        ["env.proxy_from_the_future"]
    );
    assert_eq!(
        head(&mut *filter.instantiate().expect("an instance")),
        Ok(Step::Proceed)
    );
    let wasm = wat::parse_str(text("(call $future) (i32.const 0)")).expect("valid");
    let mut guest = setup.instance(&wasm);
    assert!(matches!(head(&mut *guest), Err(Fault::Trap(why)) if why.contains("from_the_future")));
}
