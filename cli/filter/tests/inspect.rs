//! `inspect`: what a module is.

use std::fs;

use serde_json::json;

use crate::support::{module, on_headers, run};

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
    let text = run(["inspect", &file]).well();
    assert!(
        text.contains("unknown imports  env.nobody_knows\n"),
        "{text}"
    );
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
