//! A new filter as its author would first meet it: it builds, and its tests pass.

#![expect(clippy::expect_used, reason = "helpers of tests fail as the tests do")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use weft_filter_build::template::{Sdk, create};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A new filter with the versions of our own lock file: what the workspace was built from. Cargo may
/// ask the registry all the same: a clone in which only this crate was built lacks the SDK's.
fn new_filter(parent: &Path) -> PathBuf {
    let sdk = root().join("wasm-sdk").canonicalize().expect("the SDK");
    let folder = create("my-filter", parent, &Sdk::Path(sdk)).expect("it is made");
    fs::copy(root().join("Cargo.lock"), folder.join("Cargo.lock")).expect("a lock file");
    folder
}

/// Outlives a run: what the SDK needs is compiled once.
fn target_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("template")
}

#[test]
fn a_new_filter_passes_its_own_tests() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = new_filter(dir.path());
    let output = Command::new(env!("CARGO"))
        .args(["test", "--quiet"])
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
