//! `inspect`: what a module is.

use std::fs;

use serde_json::{Value, json};
use weft_abi::section::{config_schema, with_config_schema};

use crate::support::{module, on_headers, run, shipped};

#[test]
fn a_component_says_what_it_is() {
    let file = module("rate-limit");
    let seen = run(["inspect", &file, "--json"]).json();
    assert_eq!(seen["name"], "rate-limit");
    assert_eq!(seen["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(seen["abi"], "weft:filter@0.1.0");
    assert_eq!(seen["sdk"], concat!("weft-sdk ", env!("CARGO_PKG_VERSION")));
    assert!(
        seen["sees"]
            .as_array()
            .expect("a list")
            .contains(&json!("request headers"))
    );
    assert_eq!(
        seen["bytes"],
        fs::metadata(&file).expect("it is there").len()
    );
    assert_eq!(seen["sha256"].as_str().map(str::len), Some(64));
    assert!(
        seen["compile_ms"].as_f64().is_some_and(|it| it > 0.0),
        "{seen}"
    );
    assert!(
        seen["start_ms"].as_f64().is_some_and(|it| it > 0.0),
        "{seen}"
    );
    assert!(
        seen["imports"]
            .to_string()
            .contains("weft:filter/host@0.1.0"),
        "{seen}"
    );
    assert_eq!(seen["unknown_imports"], json!([]));
    assert_eq!(seen["schema"]["properties"]["limit"]["type"], "integer");

    let text = run(["inspect", &file]).well();
    assert!(text.contains("name             rate-limit\n"), "{text}");
    assert!(text.contains("      \"per_seconds\": {\n"), "{text}");
    assert!(!text.contains("admission"), "{text}");
}

#[test]
fn a_proxy_wasm_module_is_looked_into() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = on_headers(dir.path(), "i32.const 0");
    let seen = run(["inspect", &file, "--json"]).json();
    assert_eq!(seen["name"], "module");
    assert_eq!(seen["abi"], "proxy-wasm 0.2.1");
    assert_eq!(seen["sees"], json!(["request headers"]));
    assert_eq!(seen["unknown_imports"], json!(["env.nobody_knows"]));
    assert_eq!(seen.get("schema"), None);
    assert_eq!(seen.get("carried_schema"), None);
    let text = run(["inspect", &file]).well();
    assert!(!text.contains("admission"), "{text}");
    assert!(
        text.contains("unknown imports  env.nobody_knows\n"),
        "{text}"
    );
}

/// The one that its code says, when the host runs it, is the one that anybody can read.
#[test]
fn what_is_built_carries_its_schema() {
    let mut components = 0;
    for entry in fs::read_dir(shipped()).expect("the modules") {
        let file = entry.expect("a module").path();
        let named = file.display().to_string();
        let seen = run(["inspect", &named, "--json"]).json();
        let bytes = fs::read(&file).expect("the module");
        let carried = config_schema(&bytes).expect("a module");
        if seen["abi"] != "weft:filter@0.1.0" {
            assert_eq!(carried, None, "{named}");
            continue;
        }
        components += 1;
        let carried = carried.unwrap_or_else(|| panic!("{named} carries none"));
        let carried: Value = serde_json::from_str(carried).expect("JSON");
        assert_eq!(carried, seen["schema"], "{named}");
        assert_eq!(seen["carried_schema"], "same", "{named}");
    }
    assert!(components > 1, "{components}");
}

#[test]
fn a_module_that_does_not_carry_its_schema_is_told_of() {
    let built = fs::read(module("rate-limit")).expect("the module");
    let schema = config_schema(&built).expect("a module").expect("a schema");
    let section = with_config_schema(Vec::new(), schema);
    let bare = built.strip_suffix(&section[..]).expect("it is the last");
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("x.wasm");
    let named = file.display().to_string();
    let of_another = with_config_schema(bare.to_vec(), "true");
    let twice = [&built[..], &section].concat();
    for (bytes, carried, said) in [
        (
            bare,
            "none",
            "admission        the module does not carry its schema: a wrong configuration is \
             refused by nodes, not by kubectl apply; `weft filter build` adds it, or says why it \
             cannot\n",
        ),
        (
            &of_another,
            "other",
            "admission        the schema that the module carries is not its own: ",
        ),
        (
            &twice,
            "other",
            "admission        the schema that the module carries is not its own: ",
        ),
    ] {
        fs::write(&file, bytes).expect("it is written");
        let text = run(["inspect", &named]).well();
        assert!(text.contains(said), "{text}");
        assert!(text.contains("      \"per_seconds\": {\n"), "{text}");
        let seen = run(["inspect", &named, "--json"]).json();
        assert_eq!(seen["carried_schema"], carried);
        assert_eq!(seen["schema"]["properties"]["limit"]["type"], "integer");
        assert_eq!(seen.get("admission"), None);
    }
}

#[test]
fn what_is_no_filter_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("x.wasm");
    let named = file.display().to_string();
    run(["inspect", &named]).refused(&named);
    for (bytes, why) in [
        (&b"(module)"[..], "its text form"),
        (b"\0asm\x01\0\0\0", "no proxy_abi_version_0_2_1"),
        (b"\0asm\x0d\0\x01\0", "no export \"describe\""),
    ] {
        fs::write(&file, bytes).expect("it is written");
        run(["inspect", &named]).refused(why);
    }
}
