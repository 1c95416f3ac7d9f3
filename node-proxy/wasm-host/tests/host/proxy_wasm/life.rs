//! What a filter is told and keeps: properties, shared values, metrics, configuration, its end.

use std::time::Duration;

use bytes::Bytes;
use weft_wasm_host::{ConfigureError, Fault, Step};

use super::{statuses, told, word};
use crate::support::guest::ProxyWasm;
use crate::support::{FakeExchange, Setup, head};

#[test]
fn properties_have_the_names_of_envoy() {
    let get = |path: &str| {
        let length = path.len();
        let module = ProxyWasm::on_headers(&format!(
            "(call $tell (call $property (i32.const 1024) (i32.const {length}) (i32.const 800)
               (i32.const 804)))
             (call $say (i32.load (i32.const 800)) (i32.load (i32.const 804)))
             (i32.const 0)"
        ))
        .data(&path.replace('\0', "\\00"));
        told(
            &module,
            FakeExchange::get("/a?b=c").with("user-agent", "curl"),
        )
        .0
    };
    for (path, expected) in [
        ("request\0path", "0/a?b=c"),
        ("request\0url_path\0", "0/a"),
        ("request\0query", "0b=c"),
        ("request\0method", "0GET"),
        ("request\0useragent", "0curl"),
        ("request\0headers\0:authority", "0deathstar.default"),
        ("request\0headers\0absent", "1"),
        ("source\0address", "010.0.0.1:4000"),
        ("destination\0address", "0[fd00::2]:80"),
        ("weft\0source\0pod", "0xwing"),
        ("weft\0source\0labels\0app", "0xwing"),
        ("plugin_name", "0default/test"),
        ("plugin_root_id", "1"),
        ("response\0code", "1"),
        ("xds\0cluster_name", "1"),
    ] {
        assert_eq!(get(path), expected, "{path:?}");
    }
    assert!(get("destination\0port").starts_with("0P\\u{0}"));
    assert!(get("listener_direction").starts_with("0\\u{1}\\u{0}"));
}

#[test]
fn a_path_of_a_property_has_an_end() {
    // Of zeros: as many parts as it has bytes.
    let module = statuses(&[
        "(call $property (i32.const 4096) (i32.const 1024) (i32.const 800) (i32.const 804))",
        "(call $property (i32.const 4096) (i32.const 1025) (i32.const 800) (i32.const 804))",
        "(call $set_property (i32.const 4096) (i32.const 1025) (i32.const 1024) (i32.const 1))",
        "(call $set_property (i32.const 4096) (i32.const 1024) (i32.const 1024) (i32.const 1))",
    ]);
    let (told, _target) = told(&module, FakeExchange::get("/"));
    assert_eq!(told, "1220");
}

#[test]
fn a_property_that_was_set_is_of_one_request() {
    let module = statuses(&[
        "(call $property (i32.const 1024) (i32.const 3) (i32.const 800) (i32.const 804))",
        "(call $set_property (i32.const 1024) (i32.const 3) (i32.const 1024) (i32.const 3))",
        "(call $property (i32.const 1024) (i32.const 3) (i32.const 800) (i32.const 804))",
    ])
    .data("a\\00b");
    let setup = Setup::new();
    let mut guest = setup.instance(&module.wasm());
    for _request in 0..2 {
        assert_eq!(head(&mut *guest), Ok(Step::Proceed));
        assert_eq!(word(setup.lines.take()), "100");
    }
}

#[test]
fn shared_values_are_compared_before_they_are_swapped() {
    let get = "(call $get_data (i32.const 1024) (i32.const 1) (i32.const 800) (i32.const 804)
                 (i32.const 808))";
    let set = |version: &str| {
        format!(
            "(call $set_data (i32.const 1024) (i32.const 1) (i32.const 1024) (i32.const 1) {version})"
        )
    };
    let (any, same) = (set("(i32.const 0)"), set("(i32.load (i32.const 808))"));
    let module = statuses(&[get, &any, get, &same, &same, get, &same]).data("k");
    let (told, _target) = told(&module, FakeExchange::get("/"));
    assert_eq!(told, "1000800");
}

#[test]
fn a_message_in_a_queue_is_told_after_the_callback() {
    let setup = Setup::new();
    let module = ProxyWasm::new(
        r#"
      (func (export "proxy_on_configure") (param i32 i32) (result i32)
        (call $tell (call $register (i32.const 1024) (i32.const 1) (i32.const 812)))
        (i32.const 1))
      (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
        (call $tell (call $enqueue (i32.load (i32.const 812)) (i32.const 1025) (i32.const 2)))
        (call $say (i32.const 1027) (i32.const 1))
        (i32.const 0))
      (func (export "proxy_on_queue_ready") (param i32 i32)
        (call $tell (call $dequeue (local.get 1) (i32.const 800) (i32.const 804)))
        (call $say (i32.load (i32.const 800)) (i32.load (i32.const 804)))
        (call $tell (call $dequeue (local.get 1) (i32.const 800) (i32.const 804))))"#,
    )
    .data("qhi-");
    let mut guest = setup.instance(&module.wasm());
    setup.lines.take();
    assert_eq!(head(&mut *guest), Ok(Step::Proceed));
    assert_eq!(word(setup.lines.take()), "0-0hi7");
    assert_eq!(guest.poll(), Ok(()));
    assert_eq!(word(setup.lines.take()), "", "it was told already");
}

#[test]
fn metrics_count() {
    let setup = Setup::new();
    let module = statuses(&[
        "(call $define (i32.const 0) (i32.const 1024) (i32.const 4) (i32.const 812))",
        "(call $increment (i32.load (i32.const 812)) (i64.const 3))",
        "(call $increment (i32.load (i32.const 812)) (i64.const -1))",
        "(call $increment (i32.const 99) (i64.const 1))",
        "(call $get_metric (i32.load (i32.const 812)) (i32.const 816))",
        "(i32.load (i32.const 816))",
    ])
    .data("a.b1");
    let mut guest = setup.instance(&module.wasm());
    head(&mut *guest).expect("proceeds");
    assert_eq!(word(setup.lines.take()), "002103");
    assert_eq!(setup.spec.shared.metrics.all()[0].key().name, "a_b1");
}

/// Tells forty queues of a message at a head; each callback that hears of one works for 20 ms.
const BUSY: &str = r#"
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (local $n i32)
    (loop $again
      (drop (call $register (i32.add (i32.const 1024) (local.get $n)) (i32.const 1)
        (i32.const 812)))
      (br_if $again (i32.lt_u
        (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 40))))
    (i32.const 1))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (local $n i32)
    (loop $again
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (drop (call $enqueue (local.get $n) (i32.const 1024) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $n) (i32.const 40))))
    (i32.const 0))
  (func (export "proxy_on_queue_ready") (param i32 i32)
    (local $end i64)
    (drop (call $now (i32.const 816)))
    (local.set $end (i64.add (i64.load (i32.const 816)) (i64.const 20000000)))
    (loop $again
      (drop (call $now (i32.const 816)))
      (br_if $again (i64.lt_u (i64.load (i32.const 816)) (local.get $end)))))"#;

#[test]
fn all_callbacks_of_an_event_share_its_time() {
    let limit = Duration::from_millis(60);
    let mut setup = Setup::new();
    setup.spec.limits.deadline = limit;
    let names: String = ('A'..='Z').chain('a'..='z').collect();
    let mut guest = setup.instance(&ProxyWasm::new(BUSY).data(&names).wasm());
    // Each of them is far within it.
    assert_eq!(head(&mut *guest), Err(Fault::Timeout { limit }));
}

#[test]
fn a_configuration_can_be_refused() {
    for export in ["proxy_on_vm_start", "proxy_on_configure"] {
        let module = ProxyWasm::new(&format!(
            r#"(func (export "{export}") (param i32 i32) (result i32) (i32.const 0))"#
        ));
        let error = Setup::new().configure(&module.wasm()).expect_err("refused");
        let expected = Fault::Config(format!("{export} returned false"));
        assert_eq!(error, ConfigureError::Fault(expected));
    }
    // Why is in its log.
    let module = ProxyWasm::new(
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)
             (call $say (i32.const 1024) (i32.const 4)) (i32.const 0))"#,
    );
    let module = module.data("oops").wasm();
    let error = Setup::new().configure(&module).expect_err("refused");
    let expected = "proxy_on_configure returned false; it said: oops";
    assert_eq!(
        error,
        ConfigureError::Fault(Fault::Config(expected.to_owned()))
    );
}

#[test]
fn both_configurations_can_be_read() {
    let read = |buffer: u32, export: &str| {
        format!(
            r#"(func (export "{export}") (param i32 i32) (result i32)
                 (drop (call $buffer (i32.const {buffer}) (i32.const 0) (local.get 1)
                   (i32.const 800) (i32.const 804)))
                 (call $say (i32.load (i32.const 800)) (i32.load (i32.const 804)))
                 (i32.const 1))"#
        )
    };
    let module = ProxyWasm::new(&read(6, "proxy_on_vm_start")).wasm();
    let mut setup = Setup::new();
    setup.spec.plugin.vm_config = Bytes::from_static(b"of the vm");
    setup.instance(&module);
    assert_eq!(setup.lines.take()[0], "Info of the vm");
    let module = ProxyWasm::new(&read(7, "proxy_on_configure")).wasm();
    setup.instance(&module);
    assert_eq!(setup.lines.take()[0], "Info {}");
}
