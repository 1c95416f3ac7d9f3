//! One request through a module, offline.

mod answers;
mod args;
mod drive;
mod ending;
mod exchange;
mod line;
mod print;
mod record;
mod time;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use serde_json::{Map, Value};
use weft_wasm_host::budget::Memory;
use weft_wasm_host::{
    Abi, Filter, FilterSpec, Isolation, Limits, Loader, Manifest, Module, OnError, Plugin, Runtime,
    RuntimeSettings, Shared, describe,
};

pub(crate) use self::args::RunArgs;
use self::drive::Drive;
use self::record::Lines;
use self::time::OfflineClock;
use crate::{Ended, config};

/// Instances at once: one that is thrown away, and one that runs.
const INSTANCES: u32 = 4;

/// What runs modules here.
pub(crate) fn runtime(clock: Arc<OfflineClock>) -> Result<Arc<Runtime>> {
    let settings = RuntimeSettings {
        instances: INSTANCES,
    };
    Ok(Arc::new(Runtime::with_clock(settings, clock)?))
}

/// A module from a file, compiled.
pub(crate) fn load(runtime: &Arc<Runtime>, file: &Path) -> Result<(Arc<Module>, Vec<u8>)> {
    let named = || file.display().to_string();
    let bytes = fs::read(file).with_context(named)?;
    let module = Loader::new(Arc::clone(runtime))
        .load(&bytes, None)
        .with_context(named)?;
    Ok((module, bytes))
}

/// What the filter is called where its module does not say.
pub(crate) fn stem(file: &Path) -> String {
    file.file_stem().map_or_else(
        || "filter".to_owned(),
        |it| it.to_string_lossy().into_owned(),
    )
}

pub(crate) fn new_clock() -> Arc<OfflineClock> {
    Arc::new(OfflineClock::default())
}

pub(crate) fn run(args: &RunArgs, out: &mut dyn Write) -> Result<Ended> {
    // What can be wrong with the arguments is found before anything is compiled.
    let script = args.script()?;
    let config = args.config.as_deref().map(config::read).transpose();
    let config = config.context("--config")?.flatten();
    let clock = new_clock();
    let runtime = runtime(Arc::clone(&clock))?;
    let (module, _bytes) = load(&runtime, &args.file)?;
    let manifest = describe(&runtime, &module).with_context(|| args.file.display().to_string())?;
    check(&manifest, config.as_ref())?;
    if module.abi() == Abi::Weft && !args.root_id.is_empty() {
        bail!(
            "--root-id: {} is no module for proxy-wasm; it holds one filter",
            args.file.display()
        );
    }

    let lines = Arc::new(Lines::default());
    let limits = Limits::default();
    let shared = Shared::new(&limits, Arc::new(Memory::new(limits.memory)));
    let spec = FilterSpec {
        name: stem(&args.file),
        config: bytes_of(&module, config)?,
        limits,
        on_error: OnError::default(),
        isolation: Isolation::Worker,
        plugin: Plugin {
            root_id: args.root_id.clone(),
            ..Plugin::default()
        },
        shared: shared.clone(),
        log: Arc::<Lines>::clone(&lines),
    };
    let configured = Filter::configure(Arc::clone(&runtime), Arc::clone(&module), spec);
    let filter = configured.map_err(|error| {
        let said: Vec<String> = lines.take().iter().map(ToString::to_string).collect();
        let error = error.to_string();
        // Some errors have the last of it.
        match said.is_empty() || error.contains("it said: ") {
            true => anyhow!("{error}"),
            false => anyhow!("{error}; it said: {}", said.join("; ")),
        }
    })?;
    // That instance is gone: what it said is said again by the one that runs.
    lines.take();
    let drive = Drive::new(filter, manifest.interests, script, clock, lines, shared)?;
    let report = drive.run();
    match args.json {
        true => {
            serde_json::to_writer_pretty(&mut *out, &report)?;
            writeln!(out)?;
        }
        false => print::print(&report, out)?,
    }
    Ok(report.ended())
}

/// Whether a configuration is of the form that the filter says; filters for proxy-wasm say nothing.
fn check(manifest: &Manifest, config: Option<&Value>) -> Result<()> {
    if manifest.config_schema.is_empty() {
        return Ok(());
    }
    let nothing = Value::Object(Map::new());
    weft_filter_schema::validate(&manifest.config_schema, config.unwrap_or(&nothing))
        .context("--config")
}

/// What the filter gets to read. As in Envoy, a filter for proxy-wasm gets the text of a string, and
/// nothing where nothing is configured.
fn bytes_of(module: &Module, config: Option<Value>) -> Result<Bytes> {
    Ok(match config {
        Some(Value::String(text)) if module.abi() != Abi::Weft => text.into(),
        Some(config) => serde_json::to_vec(&config)?.into(),
        None if module.abi() == Abi::Weft => Bytes::from_static(b"{}"),
        None => Bytes::new(),
    })
}

/// Milliseconds, for people.
pub(crate) fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
