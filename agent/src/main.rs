//! The agent's binary: picks a role.
#![forbid(unsafe_code)]

use std::io::IsTerminal as _;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use weft_agent::cli::{Cli, Role};
use weft_agent::{app, operator, relay};

/// What is logged unless `RUST_LOG` says otherwise. The client's own complaints
/// about an API that is away come for every attempt; the watch says it once.
const LOG: &str = "info,kube_client=off";

fn main() -> ExitCode {
    match start(Cli::of_process()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(cli: Cli) -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG)))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    // Two workers: the reconciler and the observer must not wait for each
    // other, more would only take cores from the node's pods.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        stop_on_signals(stop.clone())?;
        match cli.role {
            Role::Run(args) => app::run(*args, stop).await,
            Role::Operator(args) => operator::run(&args, stop).await,
            Role::Relay(args) => relay::run(args, stop).await,
            Role::Uninstall(args) => app::uninstall(&args),
        }
    })
}

fn stop_on_signals(stop: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}
