//! Builds the eBPF programs; the loader embeds the object that lands in
//! `OUT_DIR`.
#![expect(
    unsafe_code,
    reason = "sets variables for aya-build, while single-threaded"
)]

use std::env;

use anyhow::{Context as _, Result};
use aya_build::Package;

#[path = "build/toolchain.rs"]
mod toolchain;

use toolchain::{Toolchain, Way};

/// Package and binary of the programs, and so the object's file name.
const EBPF: &str = "weft-ebpf";

fn main() -> Result<()> {
    let chosen = match Toolchain::load() {
        Ok(chosen) => chosen,
        Err(err) => {
            // Shown by cargo as one line, which fails the build; an `Err` would
            // bury it in a trace.
            println!("cargo::error={err:#}");
            return Ok(());
        }
    };
    set_env("PATH", &chosen.path);
    // The nested cargo's progress would come out as warnings of this package.
    set_env("CARGO_TERM_QUIET", "true");
    let toolchain = match &chosen.way {
        Way::Rustup { toolchain } => aya_build::Toolchain::Custom(toolchain),
        Way::Debian { bootstrap } => {
            set_env("RUSTC_BOOTSTRAP", bootstrap);
            // Not looked at: rustup is not on the recorded PATH.
            aya_build::Toolchain::default()
        }
    };
    for path in ["build", "common"] {
        println!("cargo:rerun-if-changed={path}");
    }
    // The programs are a workspace of their own, for nothing in it can be built
    // for the host; aya-build looks the package up from the current folder.
    env::set_current_dir("ebpf").context("folder ebpf of the datapath")?;
    aya_build::build_ebpf(
        [Package {
            name: EBPF,
            root_dir: "ebpf",
            ..Package::default()
        }],
        toolchain,
    )
}

fn set_env(key: &str, value: &str) {
    // SAFETY: only called from `main`, before the build script has started
    // another thread.
    unsafe { env::set_var(key, value) };
}
