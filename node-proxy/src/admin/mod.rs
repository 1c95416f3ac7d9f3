//! The page for humans and probes, on a Unix socket and, if asked for, on
//! loopback.
//!
//! Read-only: every path answers GET and nothing else. A name in `Host` other
//! than a loopback one is refused, so that a page in someone's browser cannot
//! be made to read it.

mod filters;

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use axum::extract::{self, Request};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

use crate::accept::worker::Shared;
use crate::app::Options;
use crate::control::apply::SharedStatus;
use crate::control::config::ListenerMode;
use crate::filter::listing::Listings;
use crate::telemetry::metrics::Metrics;

/// What the page shows.
#[derive(Debug, Clone)]
pub struct State {
    /// The running configuration.
    pub status: SharedStatus,
    /// Counters of the workers.
    pub shared: Arc<Shared>,
    /// Counters of telemetry.
    pub metrics: Metrics,
    /// What became of the filters.
    pub filters: Listings,
}

/// Serves the page where the options say.
///
/// # Errors
/// An address or a path that cannot be bound.
pub async fn serve(options: &Options, state: State) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let mut tasks = Vec::new();
    if let Some(path) = &options.admin_socket {
        let listener = bind(path).with_context(|| format!("admin socket {}", path.display()))?;
        let app = router(state.clone());
        tasks.push(tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::error!(%error, "admin page ended");
            }
        }));
    }
    if let Some(address) = options.admin_listen {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("admin address {address}"))?;
        let app = router(state).layer(middleware::from_fn(loopback_host));
        tasks.push(tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::error!(%error, "admin page ended");
            }
        }));
    }
    Ok(tasks)
}

/// A socket that only the proxy's own user may open. One that an earlier
/// process left behind is replaced.
fn bind(path: &Path) -> io::Result<UnixListener> {
    // Under another name until its permissions are right: there is no moment
    // at which others could open it.
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    fs::rename(&new, path)?;
    Ok(listener)
}

fn router(state: State) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/healthz", get(ready))
        .route("/ready", get(ready))
        .route("/config", get(config))
        .route("/filters", get(filters))
        .route("/metrics", get(metrics))
        .with_state(state)
}

async fn index() -> &'static str {
    "weft-proxy\n\
     /healthz   200 when a snapshot is in force and its listeners accept\n\
     /ready     the same\n\
     /config    what it runs from\n\
     /filters   what became of its filters\n\
     /metrics   Prometheus\n"
}

async fn ready(extract::State(state): extract::State<State>) -> Response {
    let status = state.status.get();
    if status.ready {
        return "ok\n".into_response();
    }
    let reason = status
        .refused
        .unwrap_or_else(|| "no snapshot yet".to_owned());
    (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response()
}

/// Names and numbers only: rules may hold secrets in their header values.
async fn config(extract::State(state): extract::State<State>) -> Json<Value> {
    let status = state.status.get();
    let config = state.shared.config.load();
    let listeners: Vec<Value> = config
        .snapshot
        .listeners()
        .iter()
        .map(|listener| {
            let bound = status.listeners.get(&*listener.name);
            let mode = match &listener.mode {
                ListenerMode::Transparent { mark } => format!("transparent, mark {mark:#x}"),
                ListenerMode::Cluster(name) => format!("cluster {name}"),
            };
            json!({
                "name": &*listener.name,
                "address": bound.unwrap_or(&listener.address).to_string(),
                "mode": mode,
            })
        })
        .collect();
    let settings = &config.settings;
    Json(json!({
        "version": status.version,
        "refused": status.refused,
        "node": &*config.node().name,
        "listeners": listeners,
        "workers": state.shared.workers,
        "settings": {
            "server_name": &*settings.server_name,
            "request_timeout_ms": u64::try_from(settings.request_timeout.as_millis()).ok(),
            "idle_timeout_ms": u64::try_from(settings.idle_timeout.as_millis()).ok(),
            "header_timeout_ms": u64::try_from(settings.header_timeout.as_millis()).ok(),
            "detect_timeout_ms": u64::try_from(settings.detect_timeout.as_millis()).ok(),
            "max_header_bytes": settings.max_header_bytes,
            "max_headers": settings.max_headers,
            "max_connections": settings.max_connections,
            "max_connections_per_source": settings.max_connections_per_source,
            "max_upstream_per_source": settings.max_upstream_per_source,
            "max_memory_per_source": settings.max_memory_per_source,
            "max_streams": settings.max_streams,
            "stream_window": settings.stream_window,
            "connection_window": settings.connection_window,
            "send_buffer": settings.send_buffer,
            "upgrades": &*settings.upgrades,
        },
    }))
}

async fn filters(extract::State(state): extract::State<State>) -> Json<Value> {
    let listing = state.filters.borrow().clone();
    Json(filters::filters(&listing))
}

async fn metrics(extract::State(state): extract::State<State>) -> Response {
    match state.metrics.render(&state.shared) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Refuses requests that a browser was tricked into: their `Host` is the name
/// that was rebound to loopback.
async fn loopback_host(request: Request, next: Next) -> Response {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    if is_loopback(host) {
        next.run(request).await
    } else {
        StatusCode::FORBIDDEN.into_response()
    }
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn only_loopback_names_are_answered() {
        for host in [
            "localhost",
            "localhost:9901",
            "127.0.0.1:9901",
            "[::1]:9901",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["", "evil.example", "127.0.0.1.evil.example", "10.0.0.1"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
