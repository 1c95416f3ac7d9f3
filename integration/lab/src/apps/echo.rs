//! Answers every request with what arrived: the way to see what a mesh made of it.

use std::net::SocketAddr;
use std::process::ExitCode;

use axum::Router;
use axum::body::Bytes;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Method, Uri, Version};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

/// Serves on `listen` until SIGTERM.
pub(super) async fn run(listen: SocketAddr) -> anyhow::Result<ExitCode> {
    let hostname = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    super::http::run(TcpListener::bind(listen).await?, router(hostname)).await
}

/// Serves on a listener for ever, as a host of that name.
///
/// # Errors
/// Never while the listener lives.
pub async fn serve(listener: TcpListener, hostname: &str) -> std::io::Result<()> {
    super::http::serve(listener, router(hostname.to_owned())).await
}

fn router(hostname: String) -> Router {
    Router::new().fallback(
        async move |ConnectInfo(client): ConnectInfo<SocketAddr>,
                    method: Method,
                    uri: Uri,
                    version: Version,
                    headers: HeaderMap,
                    body: Bytes| {
            let ends = Ends {
                hostname: &hostname,
                client,
            };
            answer(&ends, &method, &uri, version, &headers, &body)
        },
    )
}

/// Who answers whom.
struct Ends<'a> {
    hostname: &'a str,
    client: SocketAddr,
}

/// `/status/CODE` answers with that code, `/foo` with 404, anything else with 200.
fn answer(
    ends: &Ends<'_>,
    method: &Method,
    uri: &Uri,
    version: Version,
    headers: &HeaderMap,
    body: &Bytes,
) -> Response {
    let status = match uri.path() {
        "/foo" => 404,
        path => path
            .strip_prefix("/status/")
            .and_then(|code| code.parse().ok())
            .unwrap_or(200),
    };
    let told = json!({
        "hostname": ends.hostname,
        "client": ends.client,
        "method": method.as_str(),
        "path": uri.path_and_query().map_or("/", |pq| pq.as_str()),
        "protocol": format!("{version:?}"),
        "headers": header_map(headers),
        "body": String::from_utf8_lossy(body),
    });
    let status = axum::http::StatusCode::from_u16(status).unwrap_or_default();
    (status, axum::Json(told)).into_response()
}

/// Headers by name; several values of one name as a list.
fn header_map(headers: &HeaderMap) -> Map<String, Value> {
    headers
        .keys()
        .map(|name| {
            let mut values: Vec<_> = headers
                .get_all(name)
                .iter()
                .map(|value| Value::from(String::from_utf8_lossy(value.as_bytes())))
                .collect();
            let value = match values.len() {
                1 => values.remove(0),
                _ => Value::from(values),
            };
            (name.to_string(), value)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    const ENDS: Ends<'static> = Ends {
        hostname: "pod-1",
        client: SocketAddr::new(
            std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 244, 1, 10)),
            40000,
        ),
    };

    #[tokio::test]
    async fn it_tells_what_arrived() {
        let mut headers = HeaderMap::new();
        headers.append("x-request-id", "42".parse().unwrap());
        headers.append("accept", "a".parse().unwrap());
        headers.append("accept", "b".parse().unwrap());
        let response = answer(
            &ENDS,
            &Method::PATCH,
            &"/a?b=c".parse().unwrap(),
            Version::HTTP_2,
            &headers,
            &Bytes::from_static(b"hello"),
        );
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let told: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            told,
            json!({
                "hostname": "pod-1", "client": "10.244.1.10:40000", "method": "PATCH", "path": "/a?b=c",
                "protocol": "HTTP/2.0", "body": "hello",
                "headers": {"x-request-id": "42", "accept": ["a", "b"]},
            })
        );
    }

    #[test]
    fn a_status_can_be_asked_for() {
        let ask = |path: &str| {
            let uri = path.parse().unwrap();
            let (headers, body) = (HeaderMap::new(), Bytes::new());
            answer(&ENDS, &Method::GET, &uri, Version::HTTP_11, &headers, &body).status()
        };
        assert_eq!(ask("/status/503").as_u16(), 503);
        assert_eq!(ask("/foo").as_u16(), 404);
        assert_eq!(ask("/").as_u16(), 200);
    }
}
