//! Reviews over HTTPS, for who knows the token. Whoever reaches the port may connect, so
//! nothing of a body is read before the token is shown, and what one can take is bounded.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::bodies::Bodies;
use super::certificate::Certificate;
use super::review::{ANSWER_WITHIN, Reviewer, Unanswered};
use super::seats::{Seat, Seats};

/// Where reviews are asked for; the token follows.
pub(super) const PATH: &str = "/admission/filters/";
/// Port unless another is said.
const PORT: u16 = 9443;
/// How long a stranger may take to show the token, with the handshake.
const STRANGER: Duration = Duration::from_secs(3);
/// How long a connection may be idle.
const IDLE: Duration = Duration::from_secs(10);
/// Bytes that are read ahead of a request.
const MAX_HEAD: usize = 32 << 10;
/// Wait after a connection that could not be accepted: without files, say, the next one
/// could not either, and asking at once would keep a processor busy.
const OUT_OF_FILES: Duration = Duration::from_millis(100);
/// Wait before an address that is taken is tried again: nothing tells when it is free.
const RETRY: Duration = Duration::from_secs(5);

/// The newest certificate; none before there is one.
pub(super) type Certificates = watch::Receiver<Option<Arc<Certificate>>>;

/// Serves until `stop` is cancelled; without an address, on port 9443 of all of them.
pub(super) async fn serve(
    address: Option<SocketAddr>,
    mut certificates: Certificates,
    reviewer: Arc<Reviewer>,
    stop: CancellationToken,
) {
    let made = certificates.wait_for(Option::is_some);
    let Some(Ok(_)) = stop.run_until_cancelled(made).await else {
        return;
    };
    if let Some(listener) = stop.run_until_cancelled(listen(address)).await {
        accept(&listener, &certificates, &reviewer, &stop).await;
    }
}

/// Serves who connects until `stop` is cancelled, and answers then what was asked.
pub(super) async fn accept(
    listener: &TcpListener,
    certificates: &Certificates,
    reviewer: &Arc<Reviewer>,
    stop: &CancellationToken,
) {
    let (seats, bodies) = (Seats::default(), Bodies::default());
    let connections = TaskTracker::new();
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!(%error, "no connection");
                tokio::time::sleep(OUT_OF_FILES).await;
                continue;
            }
        };
        // Closed at once: behind silent ones it would wait for longer than anybody does.
        let Some(seat) = seats.take(peer.ip()) else {
            debug!(%peer, "too many connections");
            continue;
        };
        let connection = Connection {
            certificates: certificates.clone(),
            reviewer: Arc::clone(reviewer),
            bodies: bodies.clone(),
            seat,
        };
        let stop = stop.clone();
        connections.spawn(async move { connection.serve(stream, &stop).await });
    }
    connections.close();
    if timeout(ANSWER_WITHIN, connections.wait()).await.is_err() {
        debug!("not all reviews were answered");
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

/// One who is connected.
struct Connection {
    certificates: Certificates,
    reviewer: Arc<Reviewer>,
    bodies: Bodies,
    seat: Seat,
}

impl Connection {
    async fn serve(&self, stream: TcpStream, stop: &CancellationToken) {
        let deadline = Instant::now() + STRANGER;
        let Some(config) = self.newest().map(|one| Arc::clone(&one.server)) else {
            return;
        };
        let handshake = timeout_at(deadline, TlsAcceptor::from(config).accept(stream));
        let stream = match stop.run_until_cancelled(handshake).await {
            Some(Ok(Ok(stream))) => stream,
            Some(Ok(Err(error))) => return debug!(%error, "no handshake"),
            Some(Err(_)) => return debug!("no handshake in time"),
            None => return,
        };
        let service =
            service_fn(|request| async move { Ok::<_, Infallible>(self.answer(request).await) });
        let mut served = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(IDLE)
                .max_buf_size(MAX_HEAD)
                .serve_connection(TokioIo::new(stream), service)
        );
        let silent = async {
            if timeout_at(deadline, self.seat.shown()).await.is_ok() {
                std::future::pending::<()>().await;
            }
        };
        let ended = tokio::select! {
            ended = served.as_mut() => ended,
            () = silent => return debug!("nobody asked in time"),
            () = stop.cancelled() => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        };
        if let Err(error) = ended {
            debug!(%error, "a connection ended");
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let token = request.uri().path().strip_prefix(PATH);
        let certificate = self.newest();
        let known = |token: &str| certificate.is_some_and(|one| one.is_token(token));
        if !token.is_some_and(known) {
            return plain(StatusCode::NOT_FOUND, "nothing is here\n");
        }
        if !self.seat.show() {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "too many connections\n");
        }
        if request.method() != Method::POST {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "a review is a POST\n");
        }
        let deadline = Instant::now() + ANSWER_WITHIN;
        let body = self.bodies.collect(request.into_body());
        let answer = match timeout_at(deadline, body).await {
            Ok(Ok(body)) => self.reviewer.answer(body, deadline).await,
            Ok(Err(error)) => Err(Unanswered::NoReview(format!("the review: {error}\n"))),
            Err(_) => Err(Unanswered::Late),
        };
        match answer {
            Ok(body) => json(body),
            Err(why @ Unanswered::NoReview(_)) => plain(StatusCode::BAD_REQUEST, &why.to_string()),
            Err(why @ Unanswered::Late) => plain(StatusCode::GATEWAY_TIMEOUT, &why.to_string()),
        }
    }

    /// It may have been renewed.
    fn newest(&self) -> Option<Arc<Certificate>> {
        self.certificates.borrow().clone()
    }
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
