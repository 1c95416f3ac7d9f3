//! Waits to be told to stop.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

/// Waits for SIGTERM.
pub(super) async fn run() -> anyhow::Result<ExitCode> {
    let mut stop = signal(SignalKind::terminate())?;
    super::notify_ready()?;
    stop.recv().await;
    Ok(ExitCode::SUCCESS)
}
