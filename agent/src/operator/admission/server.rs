//! Reviews over HTTPS. Whoever reaches the port may ask, so what one can take is bounded.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionReview};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::certificate::Certificate;
use super::review;
use super::schemas::{self, Schemas};

/// Where reviews are asked for.
pub(super) const PATH: &str = "/admission/filters";
/// How long an answer may take: its module, and checking it.
pub(super) const LONGEST: Duration = schemas::LONGEST.saturating_add(Duration::from_secs(1));
/// Port unless another is said.
const PORT: u16 = 9443;
/// Connections at a time; the API servers of a cluster keep a few.
const CONNECTIONS: usize = 64;
/// How long a handshake may take, and a connection may be idle.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a review: an object has 1.5 MiB at most, and there are two.
const MAX_REVIEW: usize = 4 << 20;
/// Wait before an address that is taken is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Serves until `stop` is cancelled; without an address, on port 9443 of all of them.
pub(super) async fn serve(
    address: Option<SocketAddr>,
    mut certificate: watch::Receiver<Option<Arc<Certificate>>>,
    schemas: Arc<Schemas>,
    stop: CancellationToken,
) {
    let Some(Ok(_)) = stop
        .run_until_cancelled(certificate.wait_for(Option::is_some))
        .await
    else {
        return;
    };
    let Some(listener) = stop.run_until_cancelled(listen(address)).await else {
        return;
    };
    let turns = Arc::new(Semaphore::new(CONNECTIONS));
    while !stop.is_cancelled() {
        let accepted = async {
            let turn = Arc::clone(&turns).acquire_owned().await;
            (turn, listener.accept().await)
        };
        let Some((turn, accepted)) = stop.run_until_cancelled(accepted).await else {
            return;
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!(%error, "no connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // The newest: it may have been renewed.
        let Some(config) = certificate
            .borrow()
            .as_ref()
            .map(|one| Arc::clone(&one.server))
        else {
            continue;
        };
        let (schemas, stop) = (Arc::clone(&schemas), stop.clone());
        tokio::spawn(async move {
            let connection = connection(stream, config, schemas);
            stop.run_until_cancelled(connection).await;
            drop(turn);
        });
    }
}

/// Another process may have the port for a while: an operator of the same node that ends.
async fn listen(address: Option<SocketAddr>) -> TcpListener {
    let mut told = false;
    loop {
        match bind(address).await {
            Ok(listener) => {
                if let Ok(address) = listener.local_addr() {
                    info!(%address, "reviews of filters are served");
                }
                return listener;
            }
            Err(error) if !told => {
                warn!(%error, "reviews of filters cannot be served (--admission-listen); trying \
                       again, filters are checked by nodes alone");
                told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn bind(address: Option<SocketAddr>) -> io::Result<TcpListener> {
    if let Some(address) = address {
        return TcpListener::bind(address).await;
    }
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).await {
        // A node without IPv6.
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await
        }
        bound => bound,
    }
}

async fn connection(stream: TcpStream, config: Arc<rustls::ServerConfig>, schemas: Arc<Schemas>) {
    let handshake = TlsAcceptor::from(config).accept(stream);
    let stream = match tokio::time::timeout(PATIENCE, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%error, "no handshake"),
        Err(_) => return debug!("no handshake in time"),
    };
    let service = service_fn(move |request| {
        let schemas = Arc::clone(&schemas);
        async move { Ok::<_, Infallible>(answer(&schemas, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "a connection ended");
    }
}

async fn answer(schemas: &Schemas, request: Request<Incoming>) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::POST, PATH) => {}
        (_, PATH) => return plain(StatusCode::METHOD_NOT_ALLOWED, "a review is a POST\n"),
        _ => return plain(StatusCode::NOT_FOUND, "nothing is here\n"),
    }
    match tokio::time::timeout(LONGEST, reviewed(schemas, request.into_body())).await {
        Ok(Ok(body)) => json(body),
        Ok(Err(why)) => plain(StatusCode::BAD_REQUEST, &why),
        Err(_) => plain(StatusCode::GATEWAY_TIMEOUT, "it took too long\n"),
    }
}

async fn reviewed(schemas: &Schemas, body: Incoming) -> Result<Vec<u8>, String> {
    let body = Limited::new(body, MAX_REVIEW).collect().await;
    let body = body.map_err(|error| format!("the review: {error}\n"))?;
    let review: AdmissionReview<DynamicObject> = serde_json::from_slice(&body.to_bytes())
        .map_err(|error| format!("no AdmissionReview: {error}\n"))?;
    let request: AdmissionRequest<DynamicObject> = review
        .try_into()
        .map_err(|_| "the review has no request\n".to_owned())?;
    let response = review::answer(schemas, &request).await;
    serde_json::to_vec(&response.into_review()).map_err(|error| error.to_string())
}

fn json(body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text.to_owned()));
    *response.status_mut() = status;
    response
}
