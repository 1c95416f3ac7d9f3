//! Making filters: new crates, modules of them, and their tests.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use weft_filter_build::template::{Kind, Sdk, create};
use weft_filter_build::{Build, Toolchain};
use weft_wasm_host::Digest;

use crate::Ended;

/// The folder with the SDK's sources in a clone.
const SDK_FOLDER: &str = "wasm-sdk";

#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// Name of the filter, and of the folder that is made for it
    name: String,
    /// For proxies that know proxy-wasm: the module runs in Envoy and Istio too
    #[arg(long)]
    proxy_wasm: bool,
    /// Folder with the SDK's sources; looked for around this program and the current folder
    #[arg(
        long,
        value_name = "PATH",
        env = "WEFT_SDK",
        conflicts_with = "proxy_wasm"
    )]
    sdk: Option<PathBuf>,
}

pub(crate) fn new(args: &NewArgs, out: &mut dyn Write) -> Result<Ended> {
    let kind = match (args.proxy_wasm, &args.sdk) {
        (true, _) => Kind::ProxyWasm,
        (false, Some(path)) => Kind::Weft(Sdk::Path(sdk_at(path)?)),
        (false, None) => Kind::Weft(Sdk::Path(find_sdk()?)),
    };
    let folder = create(&args.name, Path::new(""), &kind)?;
    let name = &args.name;
    writeln!(out, "{} is made. What next:", folder.display())?;
    writeln!(out, "  cd {}", folder.display())?;
    writeln!(out, "  weft filter test")?;
    writeln!(out, "  weft filter build")?;
    writeln!(
        out,
        "  weft filter run target/filters/{name}.wasm --config @filter.yaml --request 'GET /'"
    )?;
    Ok(Ended::Well)
}

fn sdk_at(path: &Path) -> Result<PathBuf> {
    let found = path
        .canonicalize()
        .with_context(|| format!("--sdk {}", path.display()))?;
    if !found.join("src/lib.rs").is_file() || !found.join("abi/wit").is_dir() {
        bail!(
            "--sdk {}: the SDK is not there; it is the folder {SDK_FOLDER} of weft's sources",
            path.display()
        );
    }
    Ok(found)
}

/// The SDK is a part of weft's sources: of those that this program was built in, or is used in.
fn find_sdk() -> Result<PathBuf> {
    let around = [env::current_exe().ok(), env::current_dir().ok()];
    let folders = around
        .iter()
        .flatten()
        .flat_map(|start| start.ancestors())
        .map(|folder| folder.join(SDK_FOLDER));
    folders
        .filter_map(|folder| sdk_at(&folder).ok())
        .next()
        .context("the SDK is not found: give --sdk the folder wasm-sdk of weft's sources")
}

#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// Folder with a filter, or with one in each of its folders
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Where the modules go; `filters` in cargo's target folder unless it is said
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only this package; can be given several times
    #[arg(long, value_name = "NAME")]
    package: Vec<String>,
}

pub(crate) fn build(args: &BuildArgs, out: &mut dyn Write) -> Result<Ended> {
    let build = Build {
        folder: args.path.clone(),
        packages: args.package.clone(),
        out: args.out.clone(),
    };
    for built in build.run(&Toolchain::load()?)? {
        let bytes = std::fs::read(&built.file)
            .with_context(|| format!("reading {}", built.file.display()))?;
        writeln!(out, "{}", built.file.display())?;
        writeln!(out, "  {} bytes", bytes.len())?;
        writeln!(out, "  {}", Digest::of(&bytes))?;
        if let Some(remark) = built.remark {
            // With standard error gone there is nobody left to tell.
            let _ = writeln!(io::stderr(), "warning: {}: {remark}", built.name);
        }
    }
    Ok(Ended::Well)
}

#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Folder with the filter
    #[arg(default_value = ".")]
    path: PathBuf,
    /// For cargo test, after --
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

pub(crate) fn test(args: &TestArgs) -> Result<Ended> {
    if !args.path.join("Cargo.toml").is_file() {
        bail!("{}: there is no Cargo.toml", args.path.display());
    }
    // Natively: by the compiler on PATH, which need not be the one that builds modules.
    let status = Command::new("cargo")
        .arg("test")
        .args(&args.arguments)
        .current_dir(&args.path)
        .status()
        .context("starting cargo")?;
    Ok(if status.success() {
        Ended::Well
    } else {
        Ended::Badly
    })
}
