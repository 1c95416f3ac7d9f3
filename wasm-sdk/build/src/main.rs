//! `cargo run -p weft-filter-build -- FOLDER [--out FOLDER] [--package NAME]...`
#![forbid(unsafe_code)]

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use weft_filter_build::{Build, Toolchain};

const USAGE: &str = "usage: weft-filter-build FOLDER [--out FOLDER] [--package NAME]...

Builds the filter in a folder, or those in its folders, to OUT/NAME.wasm; OUT is `filters` in
cargo's target folder unless it is said.";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("error: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let build = arguments(env::args().skip(1))?;
    for built in build.run(&Toolchain::load()?)? {
        println!(
            "{:>9} bytes  {} ({:?})",
            built.bytes,
            built.file.display(),
            built.abi
        );
        if let Some(remark) = built.remark {
            eprintln!("warning: {}: {remark}", built.name);
        }
    }
    Ok(())
}

fn arguments(mut arguments: impl Iterator<Item = String>) -> Result<Build> {
    let (mut folder, mut out, mut packages) = (None, None, Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--out" => out = Some(PathBuf::from(arguments.next().context(USAGE)?)),
            "--package" => packages.push(arguments.next().context(USAGE)?),
            flag if flag.starts_with('-') => bail!("unknown flag {flag}\n{USAGE}"),
            _ if folder.is_some() => bail!("one folder at a time\n{USAGE}"),
            _ => folder = Some(PathBuf::from(argument)),
        }
    }
    Ok(Build {
        folder: folder.context(USAGE)?,
        out,
        packages,
    })
}
