//! Guests that are written by hand, for what the host alone costs.

use super::guest::{Component, EMIT, PENDING, PROCEED, ProxyWasm};

/// Reads two headers and sets one.
pub fn component() -> Vec<u8> {
    Component::new(&format!(
        "(call $get_header (local.get $ctx) (i32.const 0) (i32.const 2048) (i32.const 10)
           (i32.const 1100))
         (call $get_header (local.get $ctx) (i32.const 0) (i32.const 2058) (i32.const 13)
           (i32.const 1100))
         (drop (call $set_header (local.get $ctx) (i32.const 0) (i32.const 2071) (i32.const 5)
           (i32.load (i32.const 1104)) (i32.load (i32.const 1108))))
         (call $step (i32.const {PROCEED}))"
    ))
    .with(r#"(data (i32.const 2048) "user-agentauthorizationx-out")"#)
    .wasm()
}

/// The same.
pub fn module() -> Vec<u8> {
    ProxyWasm::on_headers(
        "(global.set $top (i32.const 65536))
         (drop (call $get (i32.const 0) (i32.const 1024) (i32.const 10) (i32.const 800)
           (i32.const 804)))
         (drop (call $get (i32.const 0) (i32.const 1034) (i32.const 13) (i32.const 800)
           (i32.const 804)))
         (drop (call $replace (i32.const 0) (i32.const 1047) (i32.const 5)
           (i32.load (i32.const 800)) (i32.load (i32.const 804))))
         (i32.const 0)",
    )
    .data("user-agentauthorizationx-out")
    .wasm()
}

/// Gives back the body that it is given.
pub fn echo() -> Vec<u8> {
    Component::new(&format!(
        "(i32.store8 (i32.const 1024) (i32.const {EMIT}))
         (i32.store (i32.const 1028) (i32.wrap_i64 (local.get $a)))
         (i32.store (i32.const 1032) (local.get $b))
         (i32.const 1024)"
    ))
    .wasm()
}

/// Asks a Service about each request and waits.
pub fn asking() -> Vec<u8> {
    Component::new(&format!(
        "(call $start_fetch (local.get $ctx)
           (i32.const 2048) (i32.const 16) (i32.const 2064) (i32.const 3)
           (i32.const 2067) (i32.const 6) (i32.const 0) (i32.const 0) (i32.const 0)
           (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
           (i32.const 1104))
         (call $step (i32.const {PENDING}))"
    ))
    .with(r#"(data (i32.const 2048) "authz.default:80GET/check")"#)
    .wasm()
}

/// A module of about 2 MiB, of functions like those that compilers make.
pub fn large() -> Vec<u8> {
    let functions: String = (0..5_200).map(function).collect();
    ProxyWasm::new(&functions).wasm()
}

fn function(number: u32) -> String {
    let mixed: String = (0..12)
        .map(|at| {
            format!(
                "(local.set $sum (i32.add (local.get $sum)
                   (i32.mul (i32.load offset={at} (local.get $at)) (i32.const {number}))))
                 (if (i32.gt_u (local.get $sum) (i32.const {at})) (then
                   (i32.store offset={at} (local.get $at) (local.get $sum))))"
            )
        })
        .collect();
    format!(
        "(func (param $at i32) (param $end i32) (result i32) (local $sum i32)
           (loop $again {mixed}
             (local.set $at (i32.add (local.get $at) (i32.const 48)))
             (br_if $again (i32.lt_u (local.get $at) (local.get $end))))
           (local.get $sum))"
    )
}
