//! `new`, `build` and `test`: from nothing to a filter that runs, as its author would.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{Done, root, run, target_dir, weft_filter};

/// In a folder, with the versions of our own lock file: what the workspace was built from.
fn inside(folder: &Path, args: &[&str], target: &Path) -> Done {
    fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).expect("a lock file");
    let output = weft_filter()
        .args(args)
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", target)
        .output();
    Done::of(output.expect("it starts"))
}

/// Makes a filter, tests and builds it, and runs its module.
fn from_nothing(name: &str, flags: &[&str], tests: usize) {
    let dir = tempfile::tempdir().expect("a folder");
    let made = weft_filter()
        .args(["new", name])
        .args(flags)
        .current_dir(dir.path())
        .output();
    let said = Done::of(made.expect("it starts")).well();
    assert!(said.contains("weft filter test"), "{said}");
    let folder = dir.path().join(name);

    let natively = Path::new(env!("CARGO_TARGET_TMPDIR")).join("template");
    let tested = inside(&folder, &["test"], &natively);
    assert!(!tested.err.contains("warning"), "{tested:?}");
    let passed = format!("test result: ok. {tests} passed");
    assert!(tested.well().contains(&passed));

    // With all that the shipped filters are made of.
    let out = folder.join("out").display().to_string();
    let built = inside(&folder, &["build", "--out", &out], &target_dir());
    assert!(!built.err.contains("warning"), "{built:?}");
    let module = folder.join("out").join(format!("{name}.wasm"));
    let printed = built.well();
    let bytes = fs::metadata(&module).expect("the module").len();
    assert!(printed.contains(&module.display().to_string()), "{printed}");
    assert!(printed.contains(&format!("{bytes} bytes")), "{printed}");
    let digest = Command::new("sha256sum")
        .arg(&module)
        .output()
        .expect("sha256sum");
    let digest = String::from_utf8(digest.stdout).expect("text");
    let digest = digest.split_whitespace().next().expect("a digest");
    assert!(printed.contains(&format!("sha256:{digest}")), "{printed}");

    let config = format!("@{}", folder.join("filter.yaml").display());
    let module = module.display().to_string();
    let ran = run(["run", &module, "--config", &config, "--request", "GET /"]).well();
    assert!(ran.contains("+ request header x-greeting: hello"), "{ran}");
    assert!(
        ran.contains(&format!("+ response header x-filter: {name}")),
        "{ran}"
    );
    assert!(ran.contains(": passed"), "{ran}");
}

#[test]
fn a_new_filter_is_tested_built_and_run() {
    let sdk = root().join("wasm-sdk").display().to_string();
    from_nothing("my-filter", &["--sdk", &sdk], 3);
}

#[test]
fn a_new_proxy_wasm_filter_is_tested_built_and_run() {
    from_nothing("my-proxy-filter", &["--proxy-wasm"], 2);
}

/// Schemas have the defaults in them: they are asked for when there is no proxy yet.
#[test]
fn a_filter_whose_defaults_need_a_proxy_is_built_without_its_schema() {
    let dir = tempfile::tempdir().expect("a folder");
    let sdk = root().join("wasm-sdk").display().to_string();
    let made = weft_filter()
        .args(["new", "timely", "--sdk", &sdk])
        .current_dir(dir.path())
        .output();
    Done::of(made.expect("it starts")).well();
    let folder = dir.path().join("timely");
    let source = folder.join("src/lib.rs");
    let text = fs::read_to_string(&source).expect("its source");
    let fixed = "\"x-greeting\".to_owned()";
    assert!(text.contains(fixed), "{text}");
    let timely = "format!(\"x-{}\", weft_sdk::time::wall_clock().as_secs())";
    fs::write(&source, text.replace(fixed, timely)).expect("written");

    let out = folder.join("out").display().to_string();
    let built = inside(&folder, &["build", "--out", &out], &target_dir());
    let warned = "warning: timely: its schema cannot be read without a proxy (`describe` calls \
                  wall-clock): nodes check its configuration, kubectl apply does not\n";
    assert!(built.err.contains(warned), "{built:?}");
    built.well();
    let module = folder.join("out/timely.wasm").display().to_string();
    let seen = run(["inspect", &module, "--json"]).json();
    assert_eq!(seen["carried_schema"], "none");
    assert_eq!(seen["schema"]["properties"]["greeting"]["type"], "string");
}

#[test]
fn the_sdk_is_found_around_the_current_folder() {
    let folder = tempfile::tempdir_in(root().join("integration")).expect("a folder");
    let made = weft_filter()
        .args(["new", "found"])
        .current_dir(folder.path())
        .output();
    Done::of(made.expect("it starts")).well();
    let manifest = fs::read_to_string(folder.path().join("found/Cargo.toml")).expect("a manifest");
    let sdk = root().join("wasm-sdk");
    assert!(
        manifest.contains(&format!("path = {:?}", sdk.display().to_string())),
        "{manifest}"
    );
}

#[test]
fn what_cannot_be_made_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let new = |args: &[&str]| {
        let output = weft_filter()
            .arg("new")
            .args(args)
            .current_dir(dir.path())
            .output();
        Done::of(output.expect("it starts"))
    };
    new(&["there", "--proxy-wasm"]).well();
    new(&["there", "--proxy-wasm"]).refused("there is there already");
    new(&["A/b", "--proxy-wasm"]).refused("\"A/b\" is no name of a filter");
    new(&["match", "--proxy-wasm"]).refused("\"match\" has a meaning of its own");
    new(&["other", "--sdk", "/nowhere"]).refused("--sdk /nowhere");
    let here = dir.path().display().to_string();
    new(&["other", "--sdk", &here]).refused("the SDK is not there");
    assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1);
}

#[test]
fn what_cannot_be_built_or_tested_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let here = dir.path().display().to_string();
    run(["build", &here]).refused("no Cargo.toml");
    run(["test", &here]).refused("no Cargo.toml");
    run(["build", "/nowhere"]).refused("/nowhere");

    // A test that fails fails the command.
    let made = weft_filter()
        .args(["new", "failing", "--proxy-wasm"])
        .current_dir(dir.path())
        .output();
    Done::of(made.expect("it starts")).well();
    let folder = dir.path().join("failing");
    fs::write(
        folder.join("tests/filter.rs"),
        "#[test]\nfn fails() {\n    assert_eq!(1, 2);\n}\n",
    )
    .expect("a test");
    let natively = Path::new(env!("CARGO_TARGET_TMPDIR")).join("template");
    let tested = inside(&folder, &["test"], &natively);
    assert_eq!(tested.code, 1, "{tested:?}");
    assert!(tested.out.contains("test fails ... FAILED"), "{tested:?}");
}
