//! The node proxy's process.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use weft_proxy::app::{self, Origin, Proxy};
use weft_proxy::cli::Args;
use weft_proxy::control::store;
use weft_wasm_host::{COMPILE, compile_module};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The proxy starts itself for this: see `weft_wasm_host::Compiler`.
    if std::env::args_os().nth(1).is_some_and(|it| it == COMPILE) {
        return compile_module();
    }
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        // What is wrong is the file's, a flag's or the machine's: no backtrace
        // would say where.
        Err(error) => {
            eprintln!("weft-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_unset| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let args = Args::parse();
    raise_descriptor_limit();
    refuse_huge_pages();
    // Everything but requests runs on this thread.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("control runtime")?
        .block_on(run(args))
}

/// Every connection is a descriptor, and the usual soft limit of 1,024 is for
/// programs that use `select`.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "limit of open descriptors not raised");
    }
}

/// The allocator asks for huge pages, of which all 2 MiB are resident for the
/// first byte that is used: the proxy would take twice what it holds, and the
/// bound of a source's memory would say little about the node's.
fn refuse_huge_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::warn!(%error, "huge pages not refused: more memory is taken than is used");
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let patience = Duration::from_secs(args.drain_seconds);
    let options = args.options()?;
    let file = match &options.origin {
        Origin::File { snapshot, .. } => Some(snapshot.clone()),
        Origin::Agent { .. } => None,
    };
    // Installed before anything else, so that an early signal is not lost.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let proxy = app::start(options).await?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => reload(&proxy, file.as_ref()).await,
        }
    }
    tracing::info!("stopping");
    proxy.stop(patience).await;
    Ok(())
}

/// Reads the file again; a bad one leaves what is in force.
async fn reload(proxy: &Proxy, file: Option<&PathBuf>) {
    let Some(file) = file else { return };
    match store::load(file) {
        // Refusals are logged where they are made.
        Ok(snapshot) => {
            let _logged = proxy.apply(snapshot).await;
        }
        Err(error) => tracing::warn!(%error, "snapshot was not read"),
    }
}
