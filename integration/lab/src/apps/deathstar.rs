//! The Death Star: lands ships, and has one weak spot.

use std::net::SocketAddr;
use std::process::ExitCode;

use axum::Router;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;

/// What is left of it when something falls into the exhaust port.
const PANIC: &str = "\
Panic: deathstar exploded

goroutine 1 [running]:
main.HandleGarbage(0x2080c3f50, 0x2, 0x4, 0x425c0, 0x5, 0xa)
        /code/src/github.com/empire/deathstar/
        temp/main.go:9 +0x64
main.main()
        /code/src/github.com/empire/deathstar/
        temp/main.go:5 +0x85
";

/// Serves on `listen` until SIGTERM.
pub(super) async fn run(listen: SocketAddr) -> anyhow::Result<ExitCode> {
    let hostname = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let router = Router::new()
        .fallback(async move |method: Method, uri: Uri| answer(&method, uri.path(), &hostname));
    super::http::run(TcpListener::bind(listen).await?, router).await
}

fn answer(method: &Method, path: &str, hostname: &str) -> Response {
    let path = path.strip_suffix('/').unwrap_or(path);
    match (method.as_str(), path) {
        ("POST", "/v1/request-landing") => text(StatusCode::OK, "Ship landed\n"),
        ("PUT", "/v1/exhaust-port") => text(StatusCode::SERVICE_UNAVAILABLE, PANIC),
        ("PUT", "/v1/cargobay") => text(StatusCode::OK, "Cargo stowed\n"),
        ("GET", "/v1/healthz") => text(StatusCode::OK, "ok\n"),
        ("GET", "/v1/hyper-matter-reactor/status") => text(StatusCode::OK, "Reactor stable\n"),
        ("GET", "/v1") => axum::Json(description(hostname)).into_response(),
        (
            _,
            "/v1/request-landing"
            | "/v1/exhaust-port"
            | "/v1/cargobay"
            | "/v1/healthz"
            | "/v1/hyper-matter-reactor/status"
            | "/v1",
        ) => text(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed\n"),
        _ => text(StatusCode::NOT_FOUND, "Not found\n"),
    }
}

fn text(status: StatusCode, body: &'static str) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain")], body).into_response()
}

fn description(hostname: &str) -> serde_json::Value {
    serde_json::json!({
        "name": "Death Star",
        "hostname": hostname,
        "model": "DS-1 Orbital Battle Station",
        "starship_class": "Deep Space Mobile Battlestation",
        "hyperdrive_rating": "4.0",
        "api": [
            "GET   /v1",
            "GET   /v1/healthz",
            "POST  /v1/request-landing",
            "PUT   /v1/cargobay",
            "GET   /v1/hyper-matter-reactor/status",
            "PUT   /v1/exhaust-port",
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn ask(method: Method, path: &str) -> (StatusCode, String, String) {
        let response = answer(&method, path, "deathstar-1");
        let status = response.status();
        let kind = response.headers()[header::CONTENT_TYPE]
            .to_str()
            .unwrap()
            .to_owned();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, kind, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn ships_land() {
        let (status, kind, body) = ask(Method::POST, "/v1/request-landing").await;
        assert_eq!((status, kind.as_str()), (StatusCode::OK, "text/plain"));
        assert_eq!(body, "Ship landed\n");
    }

    #[tokio::test]
    async fn the_exhaust_port_is_its_end() {
        let (status, _, body) = ask(Method::PUT, "/v1/exhaust-port").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.starts_with("Panic: deathstar exploded\n\ngoroutine 1 [running]:\n"));
        assert!(body.ends_with("temp/main.go:5 +0x85\n"));
    }

    #[tokio::test]
    async fn it_tells_which_replica_it_is() {
        let (_, kind, body) = ask(Method::GET, "/v1/").await;
        assert_eq!(kind, "application/json");
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["hostname"], "deathstar-1");
    }

    #[tokio::test]
    async fn other_requests_are_refused() {
        assert_eq!(
            ask(Method::GET, "/v1/exhaust-port").await.0,
            StatusCode::METHOD_NOT_ALLOWED
        );
        assert_eq!(ask(Method::GET, "/v2").await.0, StatusCode::NOT_FOUND);
    }
}
