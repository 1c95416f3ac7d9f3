use std::fs;

use weft_abi::section::{MAX_SCHEMA, config_schema};
use wit_component::{StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use super::toolchain::parse;
use super::{Abi, Build, Finished, Package, Target, Toolchain, finish, workspaces, write};

#[test]
fn a_recorded_choice_is_read() {
    assert_eq!(
        parse("# found\nWEFT_WASM_WAY=target\n").expect("a choice"),
        Toolchain::Target
    );
    assert_eq!(
        parse("WEFT_WASM_WAY=source\nWEFT_WASM_TOOLCHAIN=nightly\n").expect("a choice"),
        Toolchain::Rustup("nightly".to_owned())
    );
    assert_eq!(
        parse("WEFT_WASM_WAY=source\nWEFT_WASM_RUSTC=/a\nWEFT_WASM_CARGO=/b\n").expect("a choice"),
        Toolchain::System {
            rustc: "/a".to_owned(),
            cargo: "/b".to_owned()
        }
    );
    for (text, named) in [
        ("", "WEFT_WASM_WAY is missing"),
        ("WEFT_WASM_WAY=magic", "magic"),
        (
            "WEFT_WASM_WAY=source\nWEFT_WASM_RUSTC=/a",
            "WEFT_WASM_CARGO is missing",
        ),
    ] {
        let err = parse(text).expect_err("it is refused").to_string();
        assert!(err.contains(named), "{err}");
    }
}

#[test]
fn the_standard_library_is_built_where_it_is_not_there() {
    let args = |toolchain: &Toolchain| -> Vec<String> {
        toolchain
            .cargo_build(&["build".into()])
            .get_args()
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect()
    };
    assert_eq!(
        args(&Toolchain::Target),
        ["build", "--target", "wasm32-unknown-unknown"]
    );
    assert_eq!(
        args(&Toolchain::Rustup("nightly".to_owned())),
        [
            "run",
            "nightly",
            "cargo",
            "build",
            "--target",
            "wasm32-unknown-unknown",
            "-Z",
            "build-std=std,panic_abort"
        ]
    );
}

/// What is made of it, without a remark.
fn finished(bytes: Vec<u8>) -> (Abi, Vec<u8>) {
    let Finished { abi, bytes, remark } = finish(bytes).expect("a filter");
    assert_eq!(remark, None);
    (abi, bytes)
}

/// A module with one section.
fn module(id: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).expect("a short section");
    [b"\0asm\x01\0\0\0", &[id, length][..], content].concat()
}

#[test]
fn a_proxy_wasm_module_stays_as_it_is() {
    let name = b"proxy_abi_version_0_2_1";
    let export = [&[1, 23][..], name, &[0, 0]].concat();
    let bytes = module(7, &export);
    assert_eq!(finished(bytes.clone()), (Abi::ProxyWasm, bytes));
}

#[test]
fn a_component_stays_as_it_is() {
    let bytes = b"\0asm\x0d\0\x01\0".to_vec();
    assert_eq!(finished(bytes.clone()), (Abi::Weft, bytes));
}

#[test]
fn what_is_no_filter_is_refused() {
    for (bytes, named) in [
        (b"#!/bin/sh".to_vec(), "no WebAssembly"),
        (b"\0asm\x01\0\0\0".to_vec(), "exports no filter"),
        // A section that says to be longer than what follows.
        (b"\0asm\x01\0\0\0\x07\x7f".to_vec(), "cannot be read"),
        // Types that are none.
        (
            module(0, b"\x10component-type:x\0"),
            "no component can be made",
        ),
    ] {
        let err = format!("{:#}", finish(bytes).expect_err("it is refused"));
        assert!(err.contains(named), "{err}");
    }
}

#[test]
fn a_file_is_only_written_when_it_changes() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("a.wasm");
    write(&file, b"one").expect("it is written");
    let before = fs::metadata(&file)
        .and_then(|it| it.modified())
        .expect("a time");
    write(&file, b"one").expect("it is there");
    let after = fs::metadata(&file)
        .and_then(|it| it.modified())
        .expect("a time");
    assert_eq!(before, after);
    write(&file, b"two").expect("it is written");
    assert_eq!(fs::read(&file).expect("it is there"), b"two");
    assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1);
}

#[test]
fn a_folder_without_filters_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let build = Build {
        folder: dir.path().to_owned(),
        packages: Vec::new(),
        out: Some(dir.path().join("out")),
    };
    let err = build.run(&Toolchain::Target).expect_err("there is none");
    assert!(format!("{err:#}").contains("no Cargo.toml"), "{err:#}");
}

#[test]
fn crates_that_stand_alone_are_all_found() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["one", "other"] {
        let crate_folder = folder.path().join(name);
        fs::create_dir_all(crate_folder.join("src")).expect("made");
        fs::write(crate_folder.join("src/lib.rs"), "").expect("written");
        let manifest = format!(
            "[package]\nname = \"{name}\"\nedition = \"2024\"\n\
             [lib]\ncrate-type = [\"cdylib\"]\n[workspace]\n"
        );
        fs::write(crate_folder.join("Cargo.toml"), manifest).expect("written");
    }
    let folder = folder.path().canonicalize().expect("there");
    let found = workspaces(&folder, &Toolchain::Target).expect("workspaces");
    let filters = found.iter().flat_map(|one| one.filters(&folder));
    let names: Vec<_> = filters.map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["one", "other"]);
}

/// What the compiler makes of a filter, with this body of `describe`.
fn compiled(describe: &str, schema: &str) -> Vec<u8> {
    compiled_with("", describe, schema)
}

fn compiled_with(extra: &str, describe: &str, schema: &str) -> Vec<u8> {
    let length = u32::try_from(schema.len()).expect("short").to_le_bytes();
    let length: String = length.map(|byte| format!("\\{byte:02x}")).concat();
    let text = format!(
        r#"(module
  (import "weft:filter/host@0.1.0" "wall-clock" (func $now (result i64)))
  (memory (export "memory") 8)
  (data (i32.const 284) "\00\02\00\00{length}")
  (data (i32.const 512) "{schema}")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
  (func (export "describe") (result i32) {describe})
  (func (export "configure") (param i32 i32) (result i32) unreachable)
  (func (export "on-event")
    (param i64 i32 i64 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) unreachable)
  (func (export "drop-context") (param i64))
  {extra})"#
    );
    let mut module = wat::parse_str(text).expect("it is WebAssembly");
    let mut resolve = Resolve::default();
    let package = resolve
        .push_str("filter.wit", weft_abi::WIT)
        .expect("the text is WIT");
    let world = resolve
        .select_world(&[package], Some(weft_abi::WORLD))
        .expect("the world is in it");
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).expect("fits");
    module
}

#[test]
fn a_component_carries_the_schema_of_its_configuration() {
    let (abi, component) = finished(compiled("i32.const 256", "true"));
    assert_eq!(abi, Abi::Weft);
    assert_eq!(config_schema(&component), Ok(Some("true")));
    // What is made already is not made again.
    assert_eq!(finished(component.clone()), (Abi::Weft, component.clone()));
    let (_, bare) = finished(compiled("i32.const 256", ""));
    assert_eq!(config_schema(&bare), Ok(None));
}

#[test]
fn a_schema_that_no_proxy_takes_is_refused() {
    let longest = "1".repeat(MAX_SCHEMA);
    let (_, component) = finished(compiled("i32.const 256", &longest));
    assert_eq!(config_schema(&component), Ok(Some(longest.as_str())));
    let longer = "1".repeat(MAX_SCHEMA + 1);
    let err = finish(compiled("i32.const 256", &longer)).expect_err("it is refused");
    let said = "the schema of its configuration has 262145 bytes, more than the 262144";
    assert!(format!("{err:#}").starts_with(said), "{err:#}");
}

#[test]
fn a_filter_that_cannot_describe_itself_is_refused() {
    let err = finish(compiled("unreachable", "")).expect_err("it is refused");
    assert_eq!(
        format!("{err:#}"),
        "it cannot say what it is, so that no proxy could load it: `describe` panics (it reached \
         `unreachable`)"
    );
}

#[test]
fn a_filter_that_only_proxies_can_run_is_built_without_its_schema() {
    let module = compiled_with("(tag)", "i32.const 256", "true");
    let finished = finish(module).expect("it is a filter");
    assert_eq!(finished.abi, Abi::Weft);
    assert_eq!(config_schema(&finished.bytes), Ok(None));
    let remark = finished.remark.expect("there is one");
    assert!(
        remark.contains("(the interpreter of the build cannot run it: "),
        "{remark}"
    );
}

#[test]
fn a_filter_that_only_proxies_can_ask_is_built_without_its_schema() {
    let folder = tempfile::tempdir().expect("a folder");
    let package = Package {
        name: "filter-clock".to_owned(),
        manifest_path: folder.path().join("Cargo.toml"),
        targets: vec![Target {
            name: "clock".to_owned(),
            crate_types: vec!["cdylib".to_owned()],
        }],
    };
    let module = compiled("(drop (call $now)) i32.const 256", "true");
    fs::write(folder.path().join("clock.wasm"), module).expect("written");
    let out = folder.path().join("out");
    fs::create_dir(&out).expect("made");
    let built = package.finish(folder.path(), &out).expect("it is a filter");
    assert_eq!(built.abi, Abi::Weft);
    assert_eq!(
        built.remark.as_deref(),
        Some(
            "its schema cannot be read without a proxy (`describe` calls wall-clock): nodes check \
             its configuration, kubectl apply does not"
        )
    );
    let bytes = fs::read(&built.file).expect("it is there");
    assert_eq!(config_schema(&bytes), Ok(None));
}
