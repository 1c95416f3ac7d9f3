//! Serving HTTP/1.1 and cleartext HTTP/2 until SIGTERM.

use std::net::SocketAddr;
use std::process::ExitCode;

use axum::Router;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// Serves a router; says when it does.
pub(super) async fn run(listener: TcpListener, router: Router) -> anyhow::Result<ExitCode> {
    let mut stop = signal(SignalKind::terminate())?;
    eprintln!("serving on {}", listener.local_addr()?);
    super::notify_ready()?;
    tokio::select! {
        served = serve(listener, router) => served?,
        _ = stop.recv() => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Serves a router for ever.
pub(super) async fn serve(listener: TcpListener, router: Router) -> std::io::Result<()> {
    let listener = listener.tap_io(|stream| {
        // Delayed answers would be measured as the mesh's latency. A stream
        // that refuses is already closed.
        let _ = stream.set_nodelay(true);
    });
    let router = router.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, router).await
}
