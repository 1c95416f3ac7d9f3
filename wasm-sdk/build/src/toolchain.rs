//! Which compiler builds filters on this machine.
//!
//! `scripts/setup` finds out once and writes it to `wasm-toolchain.env` in weft's cache folder.
//! Where there is no such file, the compiler on `PATH` is taken: on a machine with rustup and the
//! target nothing has to be set up.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs, io};

use anyhow::{Context as _, Result, bail};

/// The target of all filters: no system interface, so that a filter imports nothing but its host.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// How filters are compiled here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Toolchain {
    /// The compiler on `PATH` has the target's standard library.
    Target,
    /// A toolchain of rustup has the library's sources.
    Rustup(String),
    /// A compiler outside of rustup has them.
    System {
        /// Path of rustc.
        rustc: String,
        /// Path of cargo.
        cargo: String,
    },
}

/// Set by rustup and cargo for the toolchain that runs this, which may be another one.
const FOREIGN: [&str; 7] = [
    "RUSTC",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTUP_TOOLCHAIN",
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO",
];

impl Toolchain {
    /// What was found out for this machine.
    ///
    /// # Errors
    /// Where what was written down cannot be read.
    pub fn load() -> Result<Self> {
        let Some(file) = location() else {
            return Ok(Self::Target);
        };
        match fs::read_to_string(&file) {
            Ok(text) => {
                parse(&text).with_context(|| format!("{}: run `make setup` again", file.display()))
            }
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(Self::Target),
            Err(err) => Err(err).with_context(|| format!("reading {}", file.display())),
        }
    }

    /// Whether it can build for the target at all: a compiler that lacks the target's library says
    /// so for each crate, and not what to do about it.
    ///
    /// # Errors
    /// Says what is missing and how to get it.
    pub fn check(&self) -> Result<()> {
        if *self != Self::Target {
            return Ok(());
        }
        let mut rustc = Command::new("rustc");
        for name in FOREIGN {
            rustc.env_remove(name);
        }
        let output = rustc
            .args(["--print", "target-libdir", "--target", TARGET])
            .output()
            .context("starting rustc")?;
        let folder = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        let is_library = |name: OsString| name.to_string_lossy().starts_with("libstd-");
        let found = fs::read_dir(&folder).is_ok_and(|mut files| {
            files.any(|file| file.is_ok_and(|it| is_library(it.file_name())))
        });
        if !found {
            bail!(
                "the compiler on PATH cannot build for {TARGET}: rustup target add {TARGET}, or \
                 `make setup` in weft's sources, which finds another way"
            );
        }
        Ok(())
    }

    /// A cargo of this toolchain.
    #[must_use]
    pub fn cargo(&self) -> Command {
        let mut command = match self {
            Self::Target => Command::new("cargo"),
            Self::Rustup(name) => {
                let mut command = Command::new("rustup");
                command.args(["run", name, "cargo"]);
                command
            }
            Self::System { cargo, .. } => Command::new(cargo),
        };
        for name in FOREIGN {
            command.env_remove(name);
        }
        if let Self::System { rustc, .. } = self {
            command.env("RUSTC", rustc);
        }
        command
    }

    /// Cargo, building for the filters' target.
    #[must_use]
    pub fn cargo_build(&self, arguments: &[OsString]) -> Command {
        let mut command = self.cargo();
        command.args(arguments).args(["--target", TARGET]);
        if *self != Self::Target {
            // Building the standard library is an unstable feature of cargo.
            command
                .args(["-Z", "build-std=std,panic_abort"])
                .env("RUSTC_BOOTSTRAP", "1");
        }
        command
    }
}

fn location() -> Option<PathBuf> {
    let cache = match env::var_os("WEFT_CACHE") {
        Some(cache) if !cache.is_empty() => PathBuf::from(cache),
        _ => PathBuf::from(env::var_os("HOME")?).join(".cache/weft"),
    };
    Some(cache.join("wasm-toolchain.env"))
}

pub(crate) fn parse(text: &str) -> Result<Toolchain> {
    let values: HashMap<&str, &str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .collect();
    let get = |key: &str| match values.get(key) {
        Some(value) if !value.is_empty() => Ok((*value).to_owned()),
        _ => bail!("{key} is missing"),
    };
    match get("WEFT_WASM_WAY")?.as_str() {
        "target" => Ok(Toolchain::Target),
        "source" => match get("WEFT_WASM_TOOLCHAIN") {
            Ok(name) => Ok(Toolchain::Rustup(name)),
            Err(_) => Ok(Toolchain::System {
                rustc: get("WEFT_WASM_RUSTC")?,
                cargo: get("WEFT_WASM_CARGO")?,
            }),
        },
        other => bail!("WEFT_WASM_WAY={other} is neither target nor source"),
    }
}
