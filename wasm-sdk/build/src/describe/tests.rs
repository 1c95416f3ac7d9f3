use wit_parser::{Resolve, SizeAlign, TypeDefKind};

use super::*;

/// A module that has a manifest at 256 and this body of `describe`.
fn module(describe: &str, extra: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
  (import "weft:filter/host@0.1.0" "log" (func $log (param i64 i32 i32 i32 i32 i32)))
  (import "weft:filter/host@0.1.0" "log" (func (param i64 i32 i32 i32 i32 i32)))
  (import "weft:filter/host@0.1.0" "wall-clock" (func $now (result i64)))
  (memory (export "memory") 1)
  (data (i32.const 256)
    "\00\02\00\00\04\00\00\00" "\04\02\00\00\05\00\00\00" "\09\02\00\00\04\00\00\00"
    "\3f\ff\ff\ff" "\0d\02\00\00\04\00\00\00")
  (data (i32.const 512) "test1.2.3wat1true")
  {extra}
  (func (export "describe") (result i32) {describe}))"#
    );
    wat::parse_str(text).expect("it is WebAssembly")
}

fn refused(module: &[u8], fuel: u64) -> String {
    let error = match run(module, fuel) {
        Ok(_) => schema(module).expect_err("it is refused"),
        Err(error) => error,
    };
    format!("{error:#}")
}

fn said(module: &[u8]) -> String {
    match schema(module).expect("it describes itself") {
        Schema::Said(schema) => schema,
        Schema::Unsaid(why) => panic!("{why}"),
    }
}

/// What the strings' places are by the contract itself.
#[test]
fn a_manifest_is_laid_out_as_the_canonical_abi_says() {
    let mut resolve = Resolve::default();
    resolve
        .push_str("filter.wit", weft_abi::WIT)
        .expect("the text is WIT");
    let mut sizes = SizeAlign::default();
    sizes.fill(&resolve);
    let (_, manifest) = resolve
        .types
        .iter()
        .find(|(_, of)| of.name.as_deref() == Some("manifest"))
        .expect("there is one");
    let TypeDefKind::Record(record) = &manifest.kind else {
        panic!("it is a record");
    };
    let types = record.fields.iter().map(|field| &field.ty);
    let offsets = sizes.field_offsets(types.clone());
    let strings: Vec<(&str, usize)> = record
        .fields
        .iter()
        .zip(&offsets)
        .filter(|(field, _)| field.ty == wit_parser::Type::String)
        .map(|(field, (offset, _))| (field.name.as_str(), offset.size_wasm32()))
        .collect();
    assert_eq!(strings, [&BEFORE[..], &[CONFIG_SCHEMA]].concat());
    assert_eq!(sizes.record(types).align.align_wasm32(), ALIGNMENT);
}

#[test]
fn a_module_says_its_schema() {
    assert_eq!(said(&module("i32.const 256", "")), "true");
}

#[test]
fn it_may_have_none() {
    let empty = r#"(data (i32.const 288) "\00\00\00\00")"#;
    assert_eq!(said(&module("i32.const 256", empty)), "");
}

#[test]
fn what_is_to_be_run_before_is() {
    let initialize = r#"
        (global $manifest (mut i32) (i32.const 1))
        (func (export "_initialize") (global.set $manifest (i32.const 256)))"#;
    let module = module("global.get $manifest", initialize);
    assert_eq!(said(&module), "true");
}

#[test]
fn vectors_are_no_reason_not_to_be_asked() {
    let simd = "(drop (v128.const i64x2 1 2)) i32.const 256";
    assert_eq!(said(&module(simd, "")), "true");
}

/// Nodes run it: a filter whose defaults depend on the time is none that cannot be built.
#[test]
fn who_asks_a_proxy_first_does_not_say_it() {
    let log = "(call $log (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) \
               (i32.const 0)) i32.const 256";
    let initialize = r#"(func (export "_initialize") (drop (call $now)))"#;
    for (describe, extra, called) in [
        ("(drop (call $now)) i32.const 256", "", "wall-clock"),
        ("(drop (call $now)) unreachable", "", "wall-clock"),
        (log, "", "log"),
        ("i32.const 256", initialize, "wall-clock"),
    ] {
        let found = schema(&module(describe, extra)).expect("it is no mistake");
        assert_eq!(found, Schema::Unsaid(NoProxy::Host(called.to_owned())));
    }
}

#[test]
fn who_cannot_describe_itself_is_refused() {
    let deep = "(func $deep (result i32) (i32.add (i32.const 1) (call $deep)))";
    for (describe, extra, why) in [
        ("unreachable", "", "panics"),
        ("(loop (br 0)) unreachable", "", "does not come to an end"),
        (
            "(call $deep)",
            deep,
            "`describe` fails: call stack exhausted",
        ),
        ("i32.const 257", "", "not aligned"),
        // Outside of its memory, at its end, and at the end of what can be said.
        ("i32.const 65536", "", "no text as name"),
        ("i32.const 65532", "", "no text as name"),
        ("i32.const -4", "", "no text as name"),
        (
            "i32.const 256",
            r#"(data (i32.const 260) "\ff\ff\ff\ff")"#,
            "no text as name",
        ),
        (
            "i32.const 256",
            r#"(data (i32.const 512) "\ff")"#,
            "no text as name",
        ),
        (
            "i32.const 256",
            r#"(data (i32.const 284) "\fd\ff\00\00")"#,
            "no text as config-schema",
        ),
        (
            "i32.const 256",
            r#"(func (export "_initialize") unreachable)"#,
            "panics",
        ),
    ] {
        let said = refused(&module(describe, extra), 1 << 20);
        assert!(said.contains(why), "{describe} {extra}: {said}");
    }
}

#[test]
fn what_has_not_the_form_is_refused() {
    for (text, why) in [
        ("(module)", "no function `describe`"),
        (
            r#"(module (func (export "describe")))"#,
            "no function `describe` that returns a manifest",
        ),
        (
            r#"(module (func (export "describe") (result i32) i32.const 0))"#,
            "exports no memory",
        ),
        (
            r#"(module (import "a" "b" (global i32)))"#,
            "it imports b of a, which is no function",
        ),
        (
            r#"(module (memory (export "memory") 5000))"#,
            "`describe` fails",
        ),
        ("(module (table 2000000 funcref))", "`describe` fails"),
    ] {
        let module = wat::parse_str(text).expect("it is WebAssembly");
        let said = refused(&module, FUEL);
        assert!(said.contains(why), "{text}: {said}");
    }
}

/// Proxies have another engine.
#[test]
fn what_the_interpreter_does_not_run_is_no_mistake() {
    let found = schema(&module("i32.const 256", "(tag)")).expect("it is no mistake");
    let Schema::Unsaid(NoProxy::Engine(why)) = found else {
        panic!("{found:?}");
    };
    assert!(why.contains("exceptions"), "{why}");
}
