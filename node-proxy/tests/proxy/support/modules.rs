//! Modules of filters, built when a test first wants them. Tests of the whole mesh share this file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use weft_filter_build::{Build, Toolchain};

/// A crate of the workspace as a module.
pub fn module(folder: &str, name: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    // Where `make filters` puts them.
    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../filters");
    fs::create_dir_all(&out).expect("a folder for modules");
    let file = out.join(format!("{}.wasm", name.trim_start_matches("filter-")));
    // Tests are processes of their own: one builds, the others wait.
    let lock = File::create(out.join("lock")).expect("a lock");
    lock.lock().expect("locked");
    let sources = ["wasm-sdk/src", "wasm-sdk/abi", "wasm-sdk/build/src", folder];
    let changed = sources
        .iter()
        .filter_map(|one| newest(&root.join(one)))
        .max();
    let built = fs::metadata(&file).and_then(|file| file.modified()).ok();
    if built < changed {
        let build = Build {
            folder: root.join(folder),
            packages: vec![name.to_owned()],
            out: Some(out),
        };
        let toolchain = Toolchain::load().expect("a compiler for filters: run `make setup`");
        build.run(&toolchain).expect("the filter builds");
    }
    fs::read(&file).expect("the module")
}

fn newest(path: &Path) -> Option<SystemTime> {
    let own = fs::metadata(path).ok()?;
    if own.is_file() {
        return own.modified().ok();
    }
    let inside = fs::read_dir(path).ok()?.flatten();
    inside.filter_map(|entry| newest(&entry.path())).max()
}
