//! One call of a webhook: dial, TLS, one request, a bounded answer, all in a bounded time.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_util::task::AbortOnDropHandle;

use super::peers;
use super::place::{Place, authorities};
use crate::api::object;
use crate::api::runtime::PodRuntime;
use crate::api::store::Store;

/// What an answer may have.
const MAX_ANSWER: usize = 3 * 1024 * 1024;

/// Sends a question to a webhook and returns its answer.
///
/// # Errors
/// In the words of Kubernetes' own client as far as it has some.
pub(super) async fn post(
    hook: &Value,
    store: &Store,
    runtime: &dyn PodRuntime,
    question: Bytes,
) -> Result<Bytes, String> {
    let seconds = hook["timeoutSeconds"].as_u64().unwrap_or(10);
    let client = &hook["clientConfig"];
    let place =
        Place::of(client).map_err(|(field, problem)| format!("clientConfig.{field}: {problem}"))?;
    let request = Request::post(place.target(seconds))
        .header(header::HOST, place.authority())
        .header(header::ACCEPT, "application/json, */*")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, "kube-apiserver-admission")
        .body(Full::new(question))
        .map_err(|error| error.to_string())?;
    let whole = async {
        let roots = match object::text(client, "/caBundle") {
            "" => {
                return Err(
                    "clientConfig.caBundle is empty, and this API trusts no other authorities"
                        .to_owned(),
                );
            }
            bundle => authorities(bundle)?,
        };
        let stream = dial(&place, store, runtime).await?;
        exchange(&place, roots, stream, request).await
    };
    let answered = tokio::time::timeout(Duration::from_secs(seconds), whole).await;
    answered
        .unwrap_or_else(|_| Err("context deadline exceeded".to_owned()))
        .map_err(|error| {
            let url = place.url(seconds);
            format!("failed to call webhook: Post \"{url}\": {error}")
        })
}

/// A connection to the host, or to the first pod behind the Service that takes one.
async fn dial(place: &Place, store: &Store, runtime: &dyn PodRuntime) -> Result<TcpStream, String> {
    let Some((namespace, name)) = &place.service else {
        let stream = TcpStream::connect((place.host.as_str(), place.port)).await;
        return stream.map_err(|error| error.to_string());
    };
    let mut refusal = String::new();
    for (container, port) in peers::of_service(store, namespace, name, place.port)? {
        let pod = container.pod.clone();
        match runtime.connect(container, port).await {
            Ok(stream) => return Ok(stream),
            Err(error) => refusal = format!("dial {pod}, port {port}: {error}"),
        }
    }
    Err(refusal)
}

async fn exchange(
    place: &Place,
    roots: RootCertStore,
    stream: TcpStream,
    request: Request<Full<Bytes>>,
) -> Result<Bytes, String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| text(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(place.host.clone()).map_err(|error| text(&error))?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let stream = stream.await.map_err(|error| text(&error))?;
    let (mut sender, driver) = handshake(TokioIo::new(stream))
        .await
        .map_err(|error| text(&error))?;
    // Ends with this call, however that ends.
    let _driver = AbortOnDropHandle::new(tokio::spawn(driver));
    let response = sender.send_request(request).await;
    let response = response.map_err(|error| text(&error))?;
    let status = response.status();
    if status != StatusCode::OK {
        return Err(format!("the server answered {status}"));
    }
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await;
    body.map(|body| body.to_bytes())
        .map_err(|error| format!("reading the answer: {error}"))
}
