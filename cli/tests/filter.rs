//! `weft filter` becomes `weft-filter`, wherever that is.
#![expect(
    clippy::expect_used,
    reason = "a test fails by panicking, and so do its helpers"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

/// A program that says who it is and what it was told.
fn stand_in(folder: &Path, says: &str) {
    let file = folder.join("weft-filter");
    let script = format!("#!/bin/sh\necho {says}: \"$@\"\nexit 3\n");
    fs::write(&file, script).expect("it is written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("it can be run");
}

/// `weft` in a folder of its own.
fn weft(folder: &Path, path: &Path, args: &[&str]) -> Output {
    let program = folder.join("weft");
    if !program.exists() {
        fs::hard_link(env!("CARGO_BIN_EXE_weft"), &program)
            .or_else(|_other_disk| fs::copy(env!("CARGO_BIN_EXE_weft"), &program).map(drop))
            .expect("a copy");
    }
    let mut command = Command::new(program);
    command.arg("filter").args(args).env("PATH", path);
    command.output().expect("weft runs")
}

#[test]
fn the_other_program_is_found_and_told_everything() {
    let dir = tempfile::tempdir().expect("a folder");
    let (beside, on_path) = (dir.path().join("beside"), dir.path().join("path"));
    for folder in [&beside, &on_path] {
        fs::create_dir(folder).expect("a folder");
    }
    let args = ["run", "--help", "-H", "a: b", "--", "--json"];
    let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();

    let missing = weft(&beside, &on_path, &args);
    assert_eq!(missing.status.code(), Some(1));
    let said = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(
        said.contains("weft-filter is neither beside this program nor on PATH"),
        "{said}"
    );

    stand_in(&on_path, "path");
    let found = weft(&beside, &on_path, &args);
    assert_eq!(text(&found), "path: run --help -H a: b -- --json\n");
    assert_eq!(found.status.code(), Some(3));

    stand_in(&beside, "beside");
    let found = weft(&beside, &on_path, &[]);
    assert_eq!(text(&found), "beside:\n");
}
