//! Filters that mean harm, beside one that does not: whatever they do, they fail alone, their
//! requests are answered as their owner said, and their successor finds nothing of them.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode};
use weft_wasm_host::{
    Command, ConfigureError, ContextId, Effect, Event, FailPolicy, Fault, FaultKind, FetchResponse,
    Isolation, OnError, Slot, Step, Ticket,
};

use crate::support::guest::{Component, PROCEED, ProxyWasm, REQUEST_BODY};
use crate::support::{
    FakeExchange, HEAD, ManualClock, Setup, body, commands, head, open, own_runtime, runtime,
};

fn enter(slot: &mut Slot) -> Ticket {
    let ticket = slot.open().expect("an instance");
    slot.lend(ticket, Box::new(FakeExchange::get("/")));
    ticket
}

/// What a body brings about; a head goes on.
fn bad(code: &str, extra: &str) -> [Vec<u8>; 2] {
    let component = Component::new(&format!(
        "(if (i32.eq (local.get $kind) (i32.const {REQUEST_BODY})) (then {code}))
         (call $step (i32.const {PROCEED}))"
    ));
    let module = ProxyWasm::new(&format!(
        r#"{extra} (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32)
             {code} (i32.const 0))"#
    ));
    [component.with(extra).wasm(), module.wasm()]
}

#[test]
fn one_filter_fails_and_the_other_does_not_notice() {
    let setup = Setup::new();
    let mut good = Slot::new(setup.filter(&Component::step(PROCEED).wasm()));
    let beside = enter(&mut good);
    for (code, extra) in [
        ("unreachable", ""),
        ("(loop $forever (br $forever))", ""),
        (
            "(drop (call $deep))",
            "(func $deep (result i32) (i32.add (call $deep) (i32.const 1)))",
        ),
        (
            "(loop $more (drop (memory.grow (i32.const 16))) (br $more))",
            "",
        ),
        (
            "(loop $more (drop (table.grow $t (ref.null func) (i32.const 100))) (br $more))",
            "(table $t 1 funcref)",
        ),
    ] {
        for wasm in bad(code, extra) {
            let filter = setup.filter(&wasm);
            let mut slot = Slot::new(Arc::clone(&filter));
            let (parked, culprit) = (enter(&mut slot), enter(&mut slot));
            let fault = slot.on_event(culprit, body(b"x", true)).step;
            let fault = fault.expect_err("it fails");
            assert!(fault.is_fatal(), "{fault:?}");
            // Closed: 503.
            let policy = filter.on_error().policy(fault.kind());
            assert_eq!(policy, FailPolicy::Closed);
            let failed: Vec<_> = slot
                .effects()
                .filter_map(|(of, effect)| matches!(effect, Effect::Failed(_)).then_some(of))
                .collect();
            assert_eq!(failed, [parked]);
            // Its successor is there, and so is whoever was there before.
            let next = enter(&mut slot);
            assert_eq!(slot.on_event(next, HEAD).step, Ok(Step::Proceed));
            assert_eq!(good.on_event(beside, HEAD).step, Ok(Step::Proceed));
        }
    }
    assert_eq!(good.instances(), 1);
    assert!(good.effects().next().is_none());
}

#[test]
fn a_filter_fails_closed_unless_its_owner_says_otherwise() {
    use FaultKind::{Config, Load, Timeout, Trap};
    let kinds = [Load, Config, Trap, Timeout];
    let default = Setup::new().filter(&Component::step(PROCEED).wasm());
    for kind in kinds {
        assert_eq!(default.on_error().policy(kind), FailPolicy::Closed);
        let mut open = OnError::default();
        *match kind {
            Load => &mut open.load,
            Config => &mut open.config,
            Trap => &mut open.trap,
            Timeout => &mut open.timeout,
        } = FailPolicy::Open;
        for other in kinds {
            let expected = match other == kind {
                true => FailPolicy::Open,
                false => FailPolicy::Closed,
            };
            assert_eq!(open.policy(other), expected, "{kind:?} {other:?}");
        }
        assert_eq!(
            OnError::all(FailPolicy::Open).policy(kind),
            FailPolicy::Open
        );
    }
    // A body that is too large to be held never passes, however open the filter is.
    let side = weft_wasm_host::Side::Request;
    let held = Fault::Held { side, most: 1 };
    assert_eq!(held.status(), Some(StatusCode::PAYLOAD_TOO_LARGE));
    let trap = Fault::Trap(String::new());
    assert_eq!(trap.status(), None);
}

#[test]
fn what_each_failure_is_decides_which_policy_holds() {
    let limit = Duration::from_millis(5);
    let kinds = [
        (Fault::Trap(String::new()), FaultKind::Trap),
        (Fault::Timeout { limit }, FaultKind::Timeout),
        (
            Fault::Memory {
                what: "the filter's limit of memory",
            },
            FaultKind::Trap,
        ),
        (Fault::Answer(String::new()), FaultKind::Trap),
        (Fault::Undecided(String::new()), FaultKind::Trap),
        (Fault::Config(String::new()), FaultKind::Config),
        (Fault::NoRoom(String::new()), FaultKind::Timeout),
    ];
    for (fault, kind) in kinds {
        assert_eq!(fault.kind(), kind, "{fault}");
    }
    let of = FaultKind::Timeout;
    assert_eq!(Fault::Down { of }.kind(), of, "it holds on");
}

/// Registers a queue, ticks, calls out by HTTP and gRPC at a head; `export` traps, of this type.
fn trapping(export: &str, parameters: usize, result: bool) -> ProxyWasm {
    let parameters = "i32 ".repeat(parameters);
    let result = if result { "(result i32)" } else { "" };
    let trap = format!(r#"(func (export "{export}") (param {parameters}) {result} unreachable)"#);
    let configure = r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
        (drop (call $register (i32.const 1024) (i32.const 1) (i32.const 812)))
        (i32.const 1))"#;
    let headers = r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (drop (call $grpc_call (i32.const 1024) (i32.const 1) (i32.const 1024) (i32.const 1)
          (i32.const 1024) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 1024)
          (i32.const 1) (i32.const 500) (i32.const 808)))
        (drop (call $http_call (i32.const 1024) (i32.const 1) (i32.const 1028) (i32.const 61)
          (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 500)
          (i32.const 808)))
        (drop (call $enqueue (i32.const 1) (i32.const 1024) (i32.const 1)))
        (i32.const 1))"#;
    let others = [
        ("proxy_on_configure", configure),
        ("proxy_on_request_headers", headers),
    ];
    let others = others.iter().filter(|(name, _)| *name != export);
    let others: String = others.map(|(_, function)| *function).collect();
    let (pairs, length) =
        crate::proxy_wasm::pairs(&[(":method", "GET"), (":path", "/"), (":authority", "a")]);
    assert_eq!(length, 61);
    ProxyWasm::new(&format!("{others}{trap}")).data(&format!("a   {pairs}"))
}

#[test]
fn a_trap_in_any_other_callback_of_proxy_wasm_is_a_fault() {
    for (export, parameters, result) in [
        ("proxy_on_vm_start", 2, true),
        ("proxy_on_configure", 2, true),
        ("proxy_on_context_create", 2, false),
    ] {
        let module = trapping(export, parameters, result);
        let error = Setup::new().configure(&module.wasm()).expect_err("traps");
        assert!(
            matches!(error, ConfigureError::Fault(Fault::Trap(_))),
            "{export}: {error:?}"
        );
    }
    for (export, parameters, grpc) in [
        ("proxy_on_http_call_response", 5, None),
        ("proxy_on_grpc_receive_initial_metadata", 3, Some("0")),
        ("proxy_on_grpc_receive", 3, Some("0")),
        ("proxy_on_grpc_receive_trailing_metadata", 3, Some("0")),
        ("proxy_on_grpc_close", 3, Some("7")),
    ] {
        // What is in the queue is of no interest here.
        let mut guest = Setup::new().instance(&trapping(export, parameters, false).wasm());
        let context = open(&mut *guest, FakeExchange::get("/"));
        assert_eq!(guest.on_event(context, HEAD), Ok(Step::Pending));
        let fetch = commands(&mut *guest)
            .into_iter()
            .find_map(|one| match one.1 {
                Command::StartFetch { id, request } if request.http2 == grpc.is_some() => Some(id),
                _ => None,
            });
        let mut response = FetchResponse {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: bytes::Bytes::from_static(b"\0\0\0\0\0"),
            trailers: HeaderMap::new(),
        };
        response.headers.insert("a", HeaderValue::from_static("b"));
        if let Some(status) = grpc {
            let status = HeaderValue::from_static(status);
            response.trailers.insert("grpc-status", status);
        }
        let id = fetch.expect("a fetch");
        let result = Ok(Box::new(response));
        let step = guest.on_event(context, Event::FetchDone { id, result });
        assert!(matches!(step, Err(Fault::Trap(_))), "{export}: {step:?}");
    }
    let mut guest = Setup::new().instance(&trapping("proxy_on_queue_ready", 2, false).wasm());
    assert!(matches!(head(&mut *guest), Err(Fault::Trap(_))));
}

/// Every function that a module may import, and its arguments: `i` is of 32 bits, `l` of 64.
const IMPORTS: [(&str, &str, &str); 45] = [
    ("env", "proxy_log", "iii"),
    ("env", "proxy_get_log_level", "i"),
    ("env", "proxy_get_current_time_nanoseconds", "i"),
    ("env", "proxy_set_tick_period_milliseconds", "i"),
    ("env", "proxy_set_effective_context", "i"),
    ("env", "proxy_done", ""),
    ("env", "proxy_get_property", "iiii"),
    ("env", "proxy_set_property", "iiii"),
    ("env", "proxy_call_foreign_function", "iiiiii"),
    ("env", "proxy_get_header_map_pairs", "iii"),
    ("env", "proxy_get_header_map_size", "ii"),
    ("env", "proxy_get_header_map_value", "iiiii"),
    ("env", "proxy_set_header_map_pairs", "iii"),
    ("env", "proxy_add_header_map_value", "iiiii"),
    ("env", "proxy_replace_header_map_value", "iiiii"),
    ("env", "proxy_remove_header_map_value", "iii"),
    ("env", "proxy_get_buffer_bytes", "iiiii"),
    ("env", "proxy_get_buffer_status", "iii"),
    ("env", "proxy_set_buffer_bytes", "iiiii"),
    ("env", "proxy_continue_stream", "i"),
    ("env", "proxy_close_stream", "i"),
    ("env", "proxy_send_local_response", "iiiiiiii"),
    ("env", "proxy_http_call", "iiiiiiiiii"),
    ("env", "proxy_grpc_call", "iiiiiiiiiiii"),
    ("env", "proxy_grpc_stream", "iiiiiiiii"),
    ("env", "proxy_grpc_send", "iiii"),
    ("env", "proxy_grpc_cancel", "i"),
    ("env", "proxy_grpc_close", "i"),
    ("env", "proxy_get_status", "iii"),
    ("env", "proxy_get_shared_data", "iiiii"),
    ("env", "proxy_set_shared_data", "iiiii"),
    ("env", "proxy_register_shared_queue", "iii"),
    ("env", "proxy_resolve_shared_queue", "iiiii"),
    ("env", "proxy_enqueue_shared_queue", "iii"),
    ("env", "proxy_dequeue_shared_queue", "iii"),
    ("env", "proxy_define_metric", "iiii"),
    ("env", "proxy_increment_metric", "il"),
    ("env", "proxy_record_metric", "il"),
    ("env", "proxy_get_metric", "ii"),
    ("wasi_snapshot_preview1", "fd_write", "iiii"),
    ("wasi_snapshot_preview1", "random_get", "ii"),
    ("wasi_snapshot_preview1", "environ_sizes_get", "ii"),
    ("wasi_snapshot_preview1", "args_sizes_get", "ii"),
    ("wasi_snapshot_preview1", "clock_time_get", "ili"),
    ("wasi_snapshot_preview1", "clock_res_get", "ii"),
];

/// Calls all of them, over and over, with numbers that lead to the edges of its memory, out of it,
/// or nowhere.
fn wild() -> Vec<u8> {
    let types = |arguments: &str| -> String {
        let arguments = arguments.chars();
        arguments
            .map(|one| if one == 'l' { "i64 " } else { "i32 " })
            .collect()
    };
    let imports: String = IMPORTS
        .iter()
        .enumerate()
        .map(|(at, (module, name, arguments))| {
            let types = types(arguments);
            format!(r#"(import "{module}" "{name}" (func $f{at} (param {types}) (result i32)))"#)
        })
        .collect();
    let calls: String = IMPORTS
        .iter()
        .enumerate()
        .map(|(at, (_, _, arguments))| {
            let arguments = arguments.chars().map(|one| match one {
                'l' => "(i64.extend_i32_s (call $pick))",
                _ => "(call $pick)",
            });
            let arguments: String = arguments.collect();
            format!("(drop (call $f{at} {arguments}))")
        })
        .collect();
    let text = format!(
        r#"(module {imports}
  (memory (export "memory") 2)
  (global $seed (mut i32) (i32.const 1))
  (data (i32.const 1024) "\00\00\00\00\01\00\00\00\04\00\00\00\ff\ff\ff\ff\10\00\00\00\ff\ff\ff\7f\00\00\01\00\ff\ff\01\00\00\00\02\00\00\04\00\00\02\00\00\00\03\00\00\00\06\00\00\00\07\00\00\00\ff\00\00\00\f0\ff\ff\ff")
  (data (i32.const 4096) ":path\00/\00x\00\00\01\00\00\00\ff\ff\ff\ff")
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "malloc") (param i32) (result i32) (call $pick))
  (func $pick (result i32)
    (global.set $seed (i32.xor (global.get $seed) (i32.shl (global.get $seed) (i32.const 13))))
    (global.set $seed (i32.xor (global.get $seed) (i32.shr_u (global.get $seed) (i32.const 17))))
    (global.set $seed (i32.xor (global.get $seed) (i32.shl (global.get $seed) (i32.const 5))))
    (i32.load (i32.add (i32.const 1024)
      (i32.and (global.get $seed) (i32.const 60)))))
  (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32)
    (local $n i32)
    (loop $again
      {calls}
      (br_if $again (i32.lt_u
        (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 300))))
    (i32.const 0)))"#
    );
    wat::parse_str(text).expect("valid")
}

#[test]
fn wild_pointers_and_lengths_are_refused_one_by_one() {
    let mut setup = Setup::new();
    setup.spec.limits.deadline = weft_wasm_host::MAX_DEADLINE;
    let filter = setup.filter(&wild());
    assert_eq!(filter.module().imports().len(), IMPORTS.len());
    assert!(filter.module().unknown_imports().is_empty());
    let mut guest = filter.instantiate().expect("an instance");
    // Each request goes on with other numbers. It may answer, hold or let go.
    for request in 0..5 {
        let exchange = FakeExchange::get("/").with("x", "y").answered(200);
        let context = open(&mut *guest, exchange);
        let step = guest.on_event(context, body(b"body", true));
        step.unwrap_or_else(|fault| panic!("request {request}: {fault}"));
        let exchange = guest.reclaim(context).expect("not lost");
        let fields = exchange.fields(weft_wasm_host::Fields::RequestHeaders);
        assert!(fields.is_some_and(|fields| fields.len() < 300));
        assert_eq!(guest.close(context).1, Ok(()));
    }
    let others = Setup::new();
    let mut other = others.instance(&ProxyWasm::default().wasm());
    assert_eq!(head(&mut *other), Ok(Step::Proceed));
}

#[test]
fn a_wild_pointer_of_a_component_is_its_end() {
    let calls = [
        "(call $get_header (local.get $ctx) (i32.const 0) (i32.const 2048) (i32.const 4)
           (i32.const -4))",
        "(drop (call $set_header (local.get $ctx) (i32.const 0) (i32.const -1) (i32.const 1)
           (i32.const 2048) (i32.const 1)))",
        "(drop (call $append_header (local.get $ctx) (i32.const 0) (i32.const 2048)
           (i32.const 1) (i32.const 2048) (i32.const -1)))",
        "(drop (call $set_target (local.get $ctx) (i32.const 131071) (i32.const 2)
           (i32.const 2048) (i32.const 1)))",
        "(call $get_attributes (local.get $ctx) (i32.const 131070))",
        "(call $kv_incr (i32.const 2048) (i32.const 2147483647) (i64.const 1) (i32.const 0)
           (i64.const 0) (i32.const 1104))",
        "(call $metric (i32.const 0) (i32.const 2048) (i32.const 1) (i32.const -16)
           (i32.const 268435455) (i32.const 1104))",
        "(call $span_attribute (local.get $ctx) (i32.const 131072) (i32.const 1)
           (i32.const 2048) (i32.const 1))",
        "(call $span_event (local.get $ctx) (i32.const 2048) (i32.const 1) (i32.const 131064)
           (i32.const 2))",
        "(call $log (local.get $ctx) (i32.const 2) (i32.const -1) (i32.const -1) (i32.const 0)
           (i32.const 0))",
        "(call $log (local.get $ctx) (i32.const 77) (i32.const 2048) (i32.const 1)
           (i32.const 0) (i32.const 0))",
        "(call $start_fetch (local.get $ctx) (i32.const 2048) (i32.const 4) (i32.const 2048)
           (i32.const 3) (i32.const 2048) (i32.const 1) (i32.const 8) (i32.const -1)
           (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
           (i32.const 0) (i32.const 1104))",
    ];
    let setup = Setup::new();
    for call in calls {
        let component = Component::new(&format!("{call} (call $step (i32.const {PROCEED}))"));
        let component = component.with(r#"(data (i32.const 2048) "name")"#);
        let mut guest = setup.instance(&component.wasm());
        let fault = head(&mut *guest).expect_err(call);
        assert!(matches!(fault, Fault::Trap(_)), "{call}: {fault:?}");
    }
    assert!(setup.lines.take().is_empty());
}

#[test]
fn a_context_of_nobody_is_nobody() {
    // Whatever number it gives, it sees and changes nothing of others.
    let other = "(i64.add (local.get $ctx) (i64.const 4294967296))";
    let code: String = [other, "(i64.const 99)", "(i64.const -1)", "(i64.const 0)"]
        .iter()
        .map(|ctx| {
            format!(
                "(call $get_header {ctx} (i32.const 0) (i32.const 2048) (i32.const 1)
                   (i32.const 1100))
                 (if (i32.load8_u (i32.const 1100)) (then unreachable))
                 (if (call $set_header {ctx} (i32.const 0) (i32.const 2048) (i32.const 1)
                       (i32.const 2048) (i32.const 1)) (then unreachable))
                 (drop (call $set_timer {ctx} (i64.const 1)))"
            )
        })
        .collect();
    let component = Component::new(&format!("{code} (call $step (i32.const {PROCEED}))"))
        .with(r#"(data (i32.const 2048) "x")"#);
    let mut guest = Setup::new().instance(&component.wasm());
    let context = open(&mut *guest, FakeExchange::get("/").with("x", "1"));
    assert_eq!(guest.on_event(context, HEAD), Ok(Step::Proceed));
    let asked = commands(&mut *guest);
    assert!(
        matches!(
            &asked[..],
            [(ContextId::INSTANCE, Command::SetTimer { .. })]
        ),
        "{asked:?}"
    );
}

#[test]
fn an_instance_finds_nothing_of_an_earlier_one() {
    // Logs what is in its memory, its table and its globals, then writes there.
    let module = ProxyWasm::new(
        r#"(table $t 4 funcref)
           (elem declare func $say)
           (global $kept (mut i32) (i32.const 0))
           (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (call $tell (i32.load (i32.const 70000)))
             (call $tell (i32.eqz (ref.is_null (table.get $t (i32.const 1)))))
             (call $tell (global.get $kept))
             (i32.store (i32.const 70000) (i32.const 7))
             (table.set $t (i32.const 1) (ref.func $say))
             (global.set $kept (i32.const 7))
             (i32.const 0))"#,
    );
    // One instance at once, so that each has the place of the one before.
    let clock = Arc::new(ManualClock::default());
    let mut setup = Setup::of(own_runtime(&clock, 1));
    setup.spec.isolation = Isolation::Request;
    let mut slot = Slot::new(setup.filter(&module.wasm()));
    for _request in 0..3 {
        let ticket = enter(&mut slot);
        assert_eq!(slot.on_event(ticket, HEAD).step, Ok(Step::Proceed));
        slot.close(ticket);
        let told: String = setup.lines.take().concat();
        assert_eq!(told, "Info 0Info 0Info 0");
    }
    // Another filter in the same place neither.
    let peeks = ProxyWasm::on_headers("(call $tell (i32.load (i32.const 70000))) (i32.const 0)");
    let mut other = Slot::new(setup.filter(&peeks.wasm()));
    let ticket = enter(&mut other);
    assert_eq!(other.on_event(ticket, HEAD).step, Ok(Step::Proceed));
    assert_eq!(setup.lines.take(), ["Info 0"]);
}

#[test]
fn what_is_refused_at_load_leaves_no_trace() {
    let runtime = runtime();
    let before = Setup::of(Arc::clone(&runtime));
    let mut slot = Slot::new(before.filter(&Component::step(PROCEED).wasm()));
    let ticket = enter(&mut slot);
    let loader = weft_wasm_host::Loader::new(runtime);
    for bytes in [
        &b"\0asm\x01\0\0\0"[..],
        b"\0asm\x0d\0\x01\0",
        b"\0asm\x01\0\0\0\x0a\xff\xff\xff\xff\x0f",
        b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x0a\x04\x01\x02\0\xff",
    ] {
        loader.load(bytes, None).expect_err("no filter");
    }
    assert_eq!(slot.on_event(ticket, HEAD).step, Ok(Step::Proceed));
}
