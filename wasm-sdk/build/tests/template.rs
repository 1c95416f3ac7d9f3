//! A new filter as its author would first meet it: it builds, its tests pass, and it is a filter.

#![expect(clippy::expect_used, reason = "helpers of tests fail as the tests do")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use weft_filter_build::template::{Sdk, create};
use weft_filter_build::{Abi, Build, Toolchain};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A new filter with the versions of our own lock file, so that nothing has to be downloaded.
fn new_filter(parent: &Path) -> PathBuf {
    let sdk = root().join("wasm-sdk").canonicalize().expect("the SDK");
    let folder = create("my-filter", parent, &Sdk::Path(sdk)).expect("it is made");
    fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).expect("a lock file");
    folder
}

/// The folder that all tests build in: what the SDK needs is compiled once.
fn target_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("template")
}

#[test]
fn a_new_filter_passes_its_own_tests() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = new_filter(dir.path());
    let output = Command::new(env!("CARGO"))
        .args(["test", "--offline", "--quiet"])
        .current_dir(&folder)
        .env("CARGO_TARGET_DIR", target_dir())
        .env_remove("RUSTFLAGS")
        .output()
        .expect("cargo starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{told}");
    assert!(said.contains("3 passed"), "{said}");
    assert!(!told.contains("warning"), "{told}");
}

#[test]
fn a_new_filter_becomes_a_component() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = new_filter(dir.path());
    // What cargo writes beside it goes where the other test's does, not into the folder.
    let config = folder.join(".cargo");
    fs::create_dir(&config).expect("a folder");
    let text = format!(
        "[build]\ntarget-dir = {:?}\n[net]\noffline = true\n",
        target_dir()
    );
    fs::write(config.join("config.toml"), text).expect("a file");
    let build = Build {
        folder: folder.clone(),
        packages: Vec::new(),
        out: folder.join("out"),
    };
    let toolchain = Toolchain::load().expect("make setup has found a compiler for filters");
    let built = build.run(&toolchain).expect("it is built");
    assert_eq!(built.len(), 1);
    assert_eq!(built[0].name, "my-filter");
    assert_eq!(built[0].abi, Abi::Weft);
    let bytes = fs::read(&built[0].file).expect("it is there");
    assert!(bytes.starts_with(b"\0asm\x0d\0\x01\0"), "a component");
    assert_eq!(bytes.len(), built[0].bytes);
}
