use std::fs;

use super::toolchain::parse;
use super::{Abi, Build, Toolchain, finish, workspaces, write};

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
    assert_eq!(
        finish(bytes.clone()).expect("a filter"),
        (Abi::ProxyWasm, bytes)
    );
}

#[test]
fn a_component_stays_as_it_is() {
    let bytes = b"\0asm\x0d\0\x01\0".to_vec();
    assert_eq!(
        finish(bytes.clone()).expect("a component"),
        (Abi::Weft, bytes)
    );
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
