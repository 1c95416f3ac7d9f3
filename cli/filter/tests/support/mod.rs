//! What all tests of the command line use.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;
use weft_filter_build::{Build, Toolchain};

/// The root of the sources.
pub fn root() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    folder.canonicalize().expect("the sources")
}

/// Cargo's folder for all that is built of this workspace.
pub fn target_dir() -> PathBuf {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    tmp.parent().expect("it is in the target folder").to_owned()
}

/// The filters that come with weft, as `make filters` builds them: of what the sources are now.
pub fn shipped() -> &'static Path {
    static SHIPPED: OnceLock<PathBuf> = OnceLock::new();
    SHIPPED.get_or_init(|| {
        let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("filters");
        // Each test may be a process of its own.
        let lock = File::create(out.with_extension("lock")).expect("a lock");
        lock.lock().expect("it is ours");
        let build = Build {
            folder: root().join("filters-wasm"),
            packages: Vec::new(),
            out: Some(out.clone()),
        };
        let toolchain = Toolchain::load().expect("`make setup` has found a compiler");
        build.run(&toolchain).expect("all filters are built");
        out
    })
}

/// One of them.
pub fn module(name: &str) -> String {
    let file = shipped().join(format!("{name}.wasm"));
    file.display().to_string()
}

/// The manifest of its example.
pub fn example(name: &str) -> PathBuf {
    root().join(format!("examples/filters/{name}.yaml"))
}

/// The arguments that configure it so.
pub fn configured(name: &str) -> [String; 3] {
    let config = format!("@{}", example(name).display());
    [module(name), "--config".to_owned(), config]
}

/// A module for proxy-wasm that does this with a request's headers: `$context`, `$count`, `$end`.
pub fn on_headers(folder: &Path, body: &str) -> String {
    proxy_wasm(
        folder,
        &format!(
            r#"(func (export "proxy_on_request_headers")
                 (param $context i32) (param $count i32) (param $end i32) (result i32)
                 {body})"#
        ),
    )
}

/// A module for proxy-wasm with these functions.
pub fn proxy_wasm(folder: &Path, functions: &str) -> String {
    let text = format!(
        r#"(module
             (import "env" "proxy_set_tick_period_milliseconds"
               (func $tick (param i32) (result i32)))
             (import "env" "proxy_continue_stream" (func $continue (param i32) (result i32)))
             (import "env" "proxy_set_effective_context" (func $of (param i32) (result i32)))
             (import "env" "nobody_knows" (func $unknown))
             (memory (export "memory") 1)
             (func (export "proxy_abi_version_0_2_1"))
             (func (export "malloc") (param i32) (result i32) i32.const 4096)
             {functions})"#
    );
    let file = folder.join("module.wasm");
    fs::write(&file, wat::parse_str(text).expect("it is WebAssembly")).expect("it is written");
    file.display().to_string()
}

/// The binary, with no settings of whoever runs the tests.
pub fn weft_filter() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft-filter"));
    for name in [
        "HTTPS_PROXY",
        "https_proxy",
        "HTTP_PROXY",
        "http_proxy",
        "WEFT_SDK",
        "RUSTFLAGS",
    ] {
        command.env_remove(name);
    }
    command
}

/// What came of a command.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Done {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code().expect("it ended by itself"),
            out: String::from_utf8(output.stdout).expect("text"),
            err: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// It succeeded; what it printed.
    #[track_caller]
    pub fn well(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    /// It failed, and said so, without printing half of something.
    #[track_caller]
    pub fn refused(self, why: &str) {
        assert_eq!(self.code, 1, "{self:?}");
        assert!(
            self.err.starts_with("error: ") && self.err.contains(why),
            "{self:?}"
        );
        assert_eq!(self.out, "", "{self:?}");
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs it.
pub fn run(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Done {
    Done::of(weft_filter().args(args).output().expect("it starts"))
}
