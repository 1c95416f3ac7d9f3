//! Checks of the workspace that no stock tool makes: `cargo xtask check-deps`, `check-files`.
#![forbid(unsafe_code)]

mod deps;
mod files;
mod links;
mod metadata;

use std::{env, path::Path, process::ExitCode};

use anyhow::{Context as _, Result, bail};

const USAGE: &str = "usage: cargo xtask <check>

  check-deps    crates depend on each other only in the direction that the design allows
  check-files   sources are short enough to read, name no path of anybody's machine, and what
                documents point at is there";

fn main() -> ExitCode {
    match run() {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(err) => {
            eprintln!("error: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the folder above xtask")?;
    let args: Vec<String> = env::args().skip(1).collect();
    match args
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["check-deps"] => deps::check(root),
        ["check-files"] => files::check(root),
        _ => bail!("{USAGE}"),
    }
}

/// Turns findings into an error that lists them all, or into the given success message.
fn conclude(findings: &[String], success: String) -> Result<String> {
    if findings.is_empty() {
        return Ok(success);
    }
    bail!(
        "{} finding(s):\n  {}",
        findings.len(),
        findings.join("\n  ")
    )
}
