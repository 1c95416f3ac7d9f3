//! What a component says of a request: lines of the log, and marks of its span.

use std::sync::Arc;

use crate::support::guest::{Component, PROCEED};
use crate::support::{FakeExchange, HEAD, Setup, open};

#[test]
fn lines_and_marks_are_one_line_each_and_bounded() {
    let component = Component::new(&format!(
        "(local $n i32)
         (loop $again
           (call $log (local.get $ctx) (i32.const 2) (i32.const 2048) (i32.const 6) (i32.const 0)
             (i32.const 0))
           (call $span_attribute (local.get $ctx) (i32.const 2054) (i32.const 1) (i32.const 2055)
             (i32.const 1))
           (br_if $again (i32.lt_u
             (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 100))))
         (call $step (i32.const {PROCEED}))"
    ))
    .with(r#"(data (i32.const 2048) "a\0d\0ab\09ckv")"#);
    let setup = Setup::new();
    let mut guest = setup.instance(&component.wasm());
    let exchange = FakeExchange::get("/");
    let marks = Arc::clone(&exchange.marks);
    let context = open(&mut *guest, exchange);
    guest.on_event(context, HEAD).expect("proceeds");
    let lines = setup.lines.take();
    assert_eq!((lines.len(), lines[0].as_str()), (64, "Info a\\r\\nb\\tc"));
    let marks = marks.lock().expect("no panic");
    assert_eq!((marks.len(), marks[0].as_str()), (64, "k=v"));
}

#[test]
fn what_is_said_of_a_span_is_one_line_and_bounded() {
    // The list of attributes is of zeros: texts of nothing.
    let component = Component::new(&format!(
        "(call $span_attribute (local.get $ctx) (i32.const 2048) (i32.const 4) (i32.const 2052)
           (i32.const 2000))
         (call $span_event (local.get $ctx) (i32.const 2048) (i32.const 4) (i32.const 8192)
           (i32.const 40))
         (call $span_event (local.get $ctx) (i32.const 2052) (i32.const 2000) (i32.const 1280)
           (i32.const 1))
         (call $step (i32.const {PROCEED}))"
    ))
    .with(&format!(
        r#"(data (i32.const 1280) "\00\08\00\00\04\00\00\00\04\08\00\00\d0\07\00\00")
           (data (i32.const 2048) "a\0d\0ab{}")"#,
        "v".repeat(2000)
    ));
    let mut guest = Setup::new().instance(&component.wasm());
    let exchange = FakeExchange::get("/");
    let marks = Arc::clone(&exchange.marks);
    let context = open(&mut *guest, exchange);
    guest.on_event(context, HEAD).expect("proceeds");
    let value = format!("{}…", "v".repeat(1024));
    let nothing: Vec<_> = (0..16).map(|_label| ("", "")).collect();
    let expected = [
        format!("a\\r\\nb={value}"),
        format!("a\\r\\nb {nothing:?}"),
        format!("{value} {:?}", [("a\\r\\nb", &*value)]),
    ];
    assert_eq!(*marks.lock().expect("no panic"), expected);
}
