//! Modules for proxy-wasm, written as text: they need no compiler.

/// A module that adds `x-version: mark` to requests.
pub fn marking(mark: &str) -> Vec<u8> {
    module(mark, true)
}

/// The same that takes no configuration.
pub fn refusing(mark: &str) -> Vec<u8> {
    module(mark, false)
}

fn module(mark: &str, takes: bool) -> Vec<u8> {
    let text = format!(
        r#"(module
  (import "env" "proxy_add_header_map_value"
    (func $add (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "x-version{mark}")
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "malloc") (param i32) (result i32) (i32.const 1024))
  (func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const {takes}))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (drop (call $add (i32.const 0)
      (i32.const 0) (i32.const 9) (i32.const 9) (i32.const {length})))
    (i32.const 0)))"#,
        length = mark.len(),
        takes = u32::from(takes),
    );
    wat::parse_str(text).expect("valid text")
}
