//! Modules, written as text: the tests need no compiler for WebAssembly.

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const WIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../wasm-sdk/abi/wit");

/// Steps, as a component writes them.
pub const PENDING: u32 = 0;
pub const MORE: u32 = 1;
pub const PROCEED: u32 = 2;
pub const EMIT: u32 = 3;
pub const PASS: u32 = 4;
pub const REPLY: u32 = 5;
pub const FAIL: u32 = 6;

/// Events, as a component reads them.
pub const REQUEST_HEADERS: u32 = 0;
pub const REQUEST_BODY: u32 = 1;
pub const FETCH_DONE: u32 = 6;
pub const TIMER: u32 = 7;

/// A component of the filter's world.
#[derive(Debug, Clone)]
pub struct Component {
    /// Body of `on-event`: `$ctx`, `$kind`, and `$a` (i64) to `$i` (i32), what the event brings.
    /// Leaves the address of a step; `(call $step (i32.const N))` makes one without more.
    pub on_event: String,
    /// Body of `configure`: `$at`, `$len`. Leaves the address of a result; 320 is success.
    pub configure: String,
    /// Body of `drop-context`: `$ctx`.
    pub drop: String,
    /// Body of `describe`; 256 is the address of a manifest.
    pub describe: String,
    /// More of the module.
    pub extra: String,
}

impl Component {
    pub fn new(on_event: &str) -> Self {
        Self {
            on_event: on_event.to_owned(),
            configure: "i32.const 320".to_owned(),
            drop: String::new(),
            describe: "i32.const 256".to_owned(),
            extra: String::new(),
        }
    }

    /// One that does the same at every event.
    pub fn step(step: u32) -> Self {
        Self::new(&format!("(call $step (i32.const {step}))"))
    }

    pub fn with(mut self, extra: &str) -> Self {
        self.extra.push_str(extra);
        self
    }

    pub fn core(&self) -> String {
        format!(
            r#"(module
  (import "weft:filter/host@0.1.0" "get-header"
    (func $get_header (param i64 i32 i32 i32 i32)))
  (import "weft:filter/host@0.1.0" "set-header"
    (func $set_header (param i64 i32 i32 i32 i32 i32) (result i32)))
  (import "weft:filter/host@0.1.0" "append-header"
    (func $append_header (param i64 i32 i32 i32 i32 i32) (result i32)))
  (import "weft:filter/host@0.1.0" "set-target"
    (func $set_target (param i64 i32 i32 i32 i32) (result i32)))
  (import "weft:filter/host@0.1.0" "get-attributes"
    (func $get_attributes (param i64 i32)))
  (import "weft:filter/host@0.1.0" "start-fetch"
    (func $start_fetch (param i64 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "weft:filter/host@0.1.0" "cancel-fetch" (func $cancel_fetch (param i64 i64)))
  (import "weft:filter/host@0.1.0" "kv-incr"
    (func $kv_incr (param i32 i32 i64 i32 i64 i32)))
  (import "weft:filter/host@0.1.0" "metric"
    (func $metric (param i32 i32 i32 i32 i32 i32)))
  (import "weft:filter/host@0.1.0" "metric-add" (func $metric_add (param i32 f64)))
  (import "weft:filter/host@0.1.0" "span-attribute"
    (func $span_attribute (param i64 i32 i32 i32 i32)))
  (import "weft:filter/host@0.1.0" "span-event"
    (func $span_event (param i64 i32 i32 i32 i32)))
  (import "weft:filter/host@0.1.0" "log"
    (func $log (param i64 i32 i32 i32 i32 i32)))
  (import "weft:filter/host@0.1.0" "set-timer" (func $set_timer (param i64 i64) (result i64)))
  (import "weft:filter/host@0.1.0" "cancel-timer" (func $cancel_timer (param i64 i64)))
  (memory (export "memory") 2)
  (global $top (mut i32) (i32.const 65536))
  (data (i32.const 256) "\00\02\00\00\04\00\00\00\04\02\00\00\05\00\00\00\09\02\00\00\04\00\00\00\3f\00\00\00\0d\02\00\00\02\00\00\00")
  (data (i32.const 320) "\00\00\00\00\3f")
  (data (i32.const 512) "test1.2.3wat1{{}}")
  (func $step (param $kind i32) (result i32)
    (i32.store8 (i32.const 1024) (local.get $kind))
    (i32.const 1024))
  (func $realloc (export "cabi_realloc")
    (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and
      (i32.add (global.get $top) (i32.sub (local.get $align) (i32.const 1)))
      (i32.sub (i32.const 0) (local.get $align))))
    (global.set $top (i32.add (local.get $at) (local.get $size)))
    (if (i32.gt_u (global.get $top) (i32.shl (memory.size) (i32.const 16)))
      (then (drop (memory.grow (i32.add (i32.const 1)
        (i32.shr_u (i32.sub (global.get $top) (i32.shl (memory.size) (i32.const 16)))
          (i32.const 16)))))))
    (local.get $at))
  {extra}
  (func (export "describe") (result i32) {describe})
  (func (export "configure") (param $at i32) (param $len i32) (result i32) {configure})
  (func (export "on-event") (param $ctx i64) (param $kind i32) (param $a i64)
    (param $b i32) (param $c i32) (param $d i32) (param $e i32) (param $f i32) (param $g i32)
    (param $h i32) (param $i i32) (result i32)
    {on_event})
  (func (export "cabi_post_on-event") (param i32) (global.set $top (i32.const 65536)))
  (func (export "drop-context") (param $ctx i64) {drop}))"#,
            extra = self.extra,
            describe = self.describe,
            configure = self.configure,
            on_event = self.on_event,
            drop = self.drop,
        )
    }

    pub fn wasm(&self) -> Vec<u8> {
        encode(&self.core(), WIT, "filter")
    }
}

/// A component of some world.
pub fn encode(core: &str, wit: &str, world: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let package = match wit.contains('\n') {
        true => resolve.push_str("test.wit", wit).expect("valid"),
        false => resolve.push_path(wit).expect("the contract").0,
    };
    let world = resolve
        .select_world(&[package], Some(world))
        .expect("there");
    let mut module = wat::parse_str(core).expect("valid text");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("fits");
    ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .expect("fits")
        .encode()
        .expect("a component")
}

/// A module for proxy-wasm.
#[derive(Debug, Clone, Default)]
pub struct ProxyWasm {
    /// Functions that it exports beside its allocator: text of them.
    pub functions: String,
    /// What is in its memory from 1024 on.
    pub data: String,
}

impl ProxyWasm {
    pub fn new(functions: &str) -> Self {
        Self {
            functions: functions.to_owned(),
            data: String::new(),
        }
    }

    pub fn data(mut self, data: &str) -> Self {
        self.data.push_str(data);
        self
    }

    /// One that counts on `body` for the request's headers: `$ctx`, `$count`, `$end`, and a result.
    pub fn on_headers(body: &str) -> Self {
        Self::new(&format!(
            r#"(func (export "proxy_on_request_headers")
                 (param $ctx i32) (param $count i32) (param $end i32) (result i32)
                 {body})"#
        ))
    }

    pub fn text(&self, version: &str) -> String {
        format!(
            r#"(module
  (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
  (import "env" "proxy_get_header_map_value"
    (func $get (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_header_map_pairs" (func $pairs (param i32 i32 i32) (result i32)))
  (import "env" "proxy_set_header_map_pairs" (func $set_pairs (param i32 i32 i32) (result i32)))
  (import "env" "proxy_add_header_map_value"
    (func $add (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_replace_header_map_value"
    (func $replace (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_remove_header_map_value" (func $remove (param i32 i32 i32) (result i32)))
  (import "env" "proxy_get_buffer_bytes"
    (func $buffer (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_buffer_bytes"
    (func $set_buffer (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_continue_stream" (func $continue (param i32) (result i32)))
  (import "env" "proxy_send_local_response"
    (func $respond (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_http_call"
    (func $http_call (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_grpc_call"
    (func $grpc_call (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_grpc_stream"
    (func $grpc_stream (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_effective_context" (func $effective (param i32) (result i32)))
  (import "env" "proxy_set_tick_period_milliseconds" (func $tick (param i32) (result i32)))
  (import "env" "proxy_get_property" (func $property (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_property" (func $set_property (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_shared_data"
    (func $get_data (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_shared_data"
    (func $set_data (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_register_shared_queue"
    (func $register (param i32 i32 i32) (result i32)))
  (import "env" "proxy_enqueue_shared_queue" (func $enqueue (param i32 i32 i32) (result i32)))
  (import "env" "proxy_dequeue_shared_queue" (func $dequeue (param i32 i32 i32) (result i32)))
  (import "env" "proxy_define_metric" (func $define (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_increment_metric" (func $increment (param i32 i64) (result i32)))
  (import "env" "proxy_get_metric" (func $get_metric (param i32 i32) (result i32)))
  (import "env" "proxy_get_current_time_nanoseconds" (func $now (param i32) (result i32)))
  (import "env" "proxy_done" (func $done (result i32)))
  (import "env" "proxy_get_status" (func $status (param i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (global $top (mut i32) (i32.const 65536))
  (data (i32.const 1024) "{data}")
  (func (export "proxy_abi_version_{version}"))
  (func $malloc (export "malloc") (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $top))
    (global.set $top (i32.add (local.get $at)
      (i32.and (i32.add (local.get $size) (i32.const 7)) (i32.const -8))))
    (local.get $at))
  (func $say (param $at i32) (param $len i32)
    (drop (call $log (i32.const 2) (local.get $at) (local.get $len))))
  ;; One digit for a status below 10, or the letter of the number.
  (func $tell (param $status i32)
    (i32.store8 (i32.const 900) (i32.add (local.get $status) (i32.const 48)))
    (call $say (i32.const 900) (i32.const 1)))
  {functions})"#,
            data = self.data,
            functions = self.functions,
        )
    }

    pub fn wasm(&self) -> Vec<u8> {
        wat::parse_str(self.text("0_2_1")).expect("valid text")
    }

    /// With more memory, of pages of 64 KiB.
    pub fn wasm_of_pages(&self, pages: u32) -> Vec<u8> {
        let memory = |pages| format!(r#"(memory (export "memory") {pages})"#);
        let text = self.text("0_2_1").replace(&memory(2), &memory(pages));
        wat::parse_str(text).expect("valid text")
    }
}
