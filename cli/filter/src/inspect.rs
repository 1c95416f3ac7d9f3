//! What a module is.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use weft_abi::section::config_schema;
use weft_wasm_host::{Interests, describe};

use crate::{Ended, run};

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The module
    file: PathBuf,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Inspected {
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    version: String,
    abi: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    sdk: String,
    /// What it is shown of requests and responses.
    sees: Vec<&'static str>,
    bytes: usize,
    sha256: String,
    compile_ms: f64,
    /// To make an instance, until it has said what it is.
    start_ms: f64,
    imports: Vec<String>,
    /// Those that the host does not have: a call of one of them is a trap.
    unknown_imports: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<Value>,
    /// Whether the schema can be read from the module without running it.
    carries_schema: bool,
    /// What a wrong configuration meets because it cannot.
    #[serde(skip)]
    admission: &'static str,
}

pub(crate) fn inspect(args: &InspectArgs, out: &mut dyn Write) -> Result<Ended> {
    let runtime = run::runtime(run::new_clock())?;
    let (module, bytes) = run::load(&runtime, &args.file)?;
    let began = Instant::now();
    let manifest = describe(&runtime, &module).with_context(|| args.file.display().to_string())?;
    let start = began.elapsed();
    let admission = admission(&bytes, &manifest.config_schema);
    let schema = match manifest.config_schema.as_str() {
        "" => None,
        text => Some(serde_json::from_str(text).context("its schema is no JSON")?),
    };
    let name = match manifest.name {
        name if name.is_empty() => run::stem(&args.file),
        name => name,
    };
    let inspected = Inspected {
        name,
        version: manifest.version,
        abi: module.abi().to_string(),
        sdk: manifest.sdk,
        sees: sees(manifest.interests),
        bytes: module.size(),
        sha256: module.digest().hex(),
        compile_ms: millis(module.took()),
        start_ms: millis(start),
        imports: module.imports(),
        unknown_imports: module.unknown_imports().to_vec(),
        carries_schema: schema.is_some() && admission.is_empty(),
        schema,
        admission,
    };
    match args.json {
        true => {
            serde_json::to_writer_pretty(&mut *out, &inspected)?;
            writeln!(out)?;
        }
        false => print(&inspected, out)?,
    }
    Ok(Ended::Well)
}

/// What is wrong with the schema that a module carries, where it has this one; nothing if that is
/// the same.
fn admission(module: &[u8], schema: &str) -> &'static str {
    match config_schema(module) {
        Ok(carried) if carried.unwrap_or_default() == schema => "",
        Ok(None) => {
            "the module does not carry its schema: a wrong configuration is refused by nodes, not by \
             kubectl apply; build it with `weft filter build`"
        }
        Ok(Some(_)) | Err(_) => {
            "the schema that the module carries is not its own: kubectl apply and nodes may not agree \
             on a configuration; build it anew with `weft filter build`"
        }
    }
}

fn millis(duration: Duration) -> f64 {
    run::millis(duration)
}

fn sees(interests: Interests) -> Vec<&'static str> {
    [
        (interests.request_headers, "request headers"),
        (interests.request_body, "request body"),
        (interests.request_trailers, "request trailers"),
        (interests.response_headers, "response headers"),
        (interests.response_body, "response body"),
        (interests.response_trailers, "response trailers"),
    ]
    .into_iter()
    .filter_map(|(seen, what)| seen.then_some(what))
    .collect()
}

fn print(inspected: &Inspected, out: &mut dyn Write) -> Result<()> {
    let mut line = |key: &str, value: &str| match value {
        "" => Ok(()),
        value => writeln!(out, "{key:<16} {value}"),
    };
    line("name", &inspected.name)?;
    line("version", &inspected.version)?;
    line("ABI", &inspected.abi)?;
    line("SDK", &inspected.sdk)?;
    line("sees", &inspected.sees.join(", "))?;
    line("size", &format!("{} bytes", inspected.bytes))?;
    line("sha256", &inspected.sha256)?;
    line("compiled in", &format!("{} ms", inspected.compile_ms))?;
    line("starts in", &format!("{} ms", inspected.start_ms))?;
    line("imports", &inspected.imports.join(" "))?;
    line("unknown imports", &inspected.unknown_imports.join(" "))?;
    line("admission", inspected.admission)?;
    match &inspected.schema {
        Some(schema) => {
            writeln!(out, "schema")?;
            for line in serde_json::to_string_pretty(schema)?.lines() {
                writeln!(out, "  {line}")?;
            }
        }
        None => writeln!(
            out,
            "schema           none: filters for proxy-wasm have none"
        )?,
    }
    Ok(())
}
