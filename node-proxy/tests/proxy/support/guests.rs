//! Modules of filters, built when a test first wants them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use weft_api::node::{Filter, FilterOnError, FilterPhase, FilterStep};
use weft_filter_build::{Build, Toolchain};
use weft_wasm_host::Digest;

/// The filter that does what requests tell it to (`integration/guests/probe`).
pub fn probe() -> Vec<u8> {
    module("integration/guests/probe", "guest-probe")
}

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

/// A filter of this module, fail closed.
pub fn filter(name: &str, module: &[u8], config: &str) -> Filter {
    Filter {
        kind: "WeftFilter".into(),
        namespace: "default".into(),
        name: name.into(),
        sha256: digest(module),
        config: config.as_bytes().to_vec(),
        ..Default::default()
    }
}

/// The same that lets requests go on when it fails.
pub fn open(filter: Filter) -> Filter {
    let on_error = FilterOnError {
        load: 1,
        config: 1,
        trap: 1,
        timeout: 1,
    };
    Filter {
        on_error: Some(on_error),
        ..filter
    }
}

/// As snapshots name modules.
pub fn digest(module: &[u8]) -> String {
    Digest::of(module).hex()
}

/// The filter at this position, in this phase.
pub fn step(phase: FilterPhase, filter: u32) -> FilterStep {
    FilterStep {
        phase: phase.into(),
        filter,
    }
}
