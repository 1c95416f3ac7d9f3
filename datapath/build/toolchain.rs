//! Which compiler builds the eBPF programs.
//!
//! `scripts/setup` decides once per machine between two ways (a rustup nightly
//! with rust-src, or Debian's rustc with a prebuilt core for BPF), installs
//! what is missing and records the choice in `toolchain.env` in weft's cache
//! folder. Builds only read that file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use anyhow::{Context as _, Result, bail};

/// How the eBPF programs are compiled on this machine.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// `rustup run <toolchain>` with core built from rust-src.
    Rustup { toolchain: String },
    /// Debian's rustc, which ships core for BPF. It counts as a stable
    /// compiler, so the one crate that uses unstable features has to be named
    /// to it.
    Debian { bootstrap: String },
}

/// The recorded choice and the `PATH` under which it finds cargo, rustc and
/// bpf-linker.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Toolchain {
    pub(crate) way: Way,
    pub(crate) path: String,
}

impl Toolchain {
    /// Reads what `scripts/setup` recorded, and has cargo run the build script
    /// again when it changes.
    pub(crate) fn load() -> Result<Self> {
        let file = location()?;
        println!("cargo:rerun-if-changed={}", file.display());
        match fs::read_to_string(&file) {
            Ok(text) => parse(&text).with_context(|| stale(&file)),
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                bail!(
                    "no eBPF toolchain on this machine yet: run `make setup` (looked for {})",
                    file.display()
                )
            }
            Err(err) => Err(err).with_context(|| stale(&file)),
        }
    }
}

fn stale(file: &Path) -> String {
    format!("{} cannot be used: run `make setup` again", file.display())
}

/// `$WEFT_CACHE/toolchain.env`, by default `~/.cache/weft/toolchain.env`.
fn location() -> Result<PathBuf> {
    for key in ["WEFT_CACHE", "HOME"] {
        println!("cargo:rerun-if-env-changed={key}");
    }
    let cache = match (env::var_os("WEFT_CACHE"), env::var_os("HOME")) {
        (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
        (_, Some(home)) => PathBuf::from(home).join(".cache/weft"),
        _ => bail!("neither WEFT_CACHE nor HOME is set: the eBPF toolchain cannot be found"),
    };
    Ok(cache.join("toolchain.env"))
}

fn parse(text: &str) -> Result<Toolchain> {
    let values: HashMap<&str, &str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .collect();
    let get = |key: &str| match values.get(key) {
        Some(value) if !value.is_empty() => Ok((*value).to_owned()),
        _ => bail!("{key} is missing"),
    };
    let way = match get("WEFT_EBPF_WAY")?.as_str() {
        "rustup" => Way::Rustup {
            toolchain: get("WEFT_EBPF_TOOLCHAIN")?,
        },
        "debian" => Way::Debian {
            bootstrap: get("WEFT_EBPF_BOOTSTRAP")?,
        },
        other => bail!("WEFT_EBPF_WAY={other} is neither rustup nor debian"),
    };
    Ok(Toolchain {
        way,
        path: get("WEFT_EBPF_PATH")?,
    })
}
