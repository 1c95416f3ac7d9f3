//! What a module is.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use weft_abi::section::config_schema;
use weft_wasm_host::{Abi, Interests, describe};

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
    /// The schema that can be read from the module without running it; modules for proxy-wasm have
    /// none to carry.
    #[serde(skip_serializing_if = "Option::is_none")]
    carried_schema: Option<Carried>,
}

/// Which schema a module carries, by the one that it says when it is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Carried {
    /// That one.
    Same,
    /// Nothing.
    None,
    /// Not that one, or nothing that can be read.
    Other,
}

impl Carried {
    fn of(module: &[u8], said: &str) -> Self {
        match config_schema(module) {
            Ok(carried) if carried.unwrap_or_default() == said => Self::Same,
            Ok(None) => Self::None,
            Ok(Some(_)) | Err(_) => Self::Other,
        }
    }

    /// What a wrong configuration meets because of it.
    fn admission(self) -> Option<&'static str> {
        match self {
            Self::Same => None,
            Self::None => Some(
                "the module does not carry its schema: a wrong configuration is refused by nodes, \
                 not by kubectl apply; `weft filter build` adds it, or says why it cannot",
            ),
            Self::Other => Some(
                "the schema that the module carries is not its own: kubectl apply and nodes may not \
                 agree on a configuration; build it anew with `weft filter build`",
            ),
        }
    }
}

pub(crate) fn inspect(args: &InspectArgs, out: &mut dyn Write) -> Result<Ended> {
    let runtime = run::runtime(run::new_clock())?;
    let (module, bytes) = run::load(&runtime, &args.file)?;
    let began = Instant::now();
    let manifest = describe(&runtime, &module).with_context(|| args.file.display().to_string())?;
    let start = began.elapsed();
    let carried_schema = match module.abi() {
        Abi::Weft => Some(Carried::of(&bytes, &manifest.config_schema)),
        Abi::ProxyWasm020 | Abi::ProxyWasm021 => None,
    };
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
        schema,
        carried_schema,
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
    let admission = inspected.carried_schema.and_then(Carried::admission);
    line("admission", admission.unwrap_or_default())?;
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
