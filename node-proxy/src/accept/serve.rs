//! One connection from detection to its end.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::connection::{Close, Connection, Route};
use super::detect::{Detected, detect};
use super::io::DownstreamIo;
use crate::failure::Failure;
use crate::http::respond;
use crate::http::strict::{Limits, Strict};
use crate::memory::{Frames, Held};
use crate::pipeline;
use crate::settings::{self, Settings};
use crate::telemetry::exchange::{Event, RefusedConnection};
use crate::upstream::exec::LocalExec;

/// Most that hyper buffers of a request or a response. Its default of 400 KiB
/// a connection is for fewer connections than a node has.
const MAX_BUFFER: usize = 64 * 1024;

/// Streams that a client may reset before the server has looked at them, and
/// resets that the server itself was made to send: past them the client is
/// sent away (rapid reset, CVE-2023-44487 and its kin).
const MAX_PENDING_RESETS: usize = 20;
const MAX_LOCAL_RESETS: usize = 100;

/// Finds clients that vanished without a word.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves a connection until it ends.
pub async fn serve(connection: Rc<Connection>, mut stream: TcpStream) {
    let config = connection.worker.config();
    if let Route::Original(destination) = connection.route {
        let judged = connection.judged(&config, destination);
        if let Err(failure) = connection.judgeable(&judged) {
            refuse(&connection, failure);
            return;
        }
    }
    let settings = &config.settings;
    match detect(&mut stream, settings.detect_timeout).await {
        Detected::Http1(prefix) => {
            let io = DownstreamIo::new(stream, prefix, connection.progress.clone());
            http1(connection, io, settings).await;
        }
        Detected::Http2(prefix) => {
            http2(connection, stream, prefix, settings).await;
        }
        Detected::Refused(reason) => refuse(&connection, reason),
        Detected::Closed => {}
    }
}

/// Records a connection that ends before it had a request.
pub fn refuse(connection: &Connection, reason: Failure) {
    let config = connection.worker.config();
    let Some(destination) = pipeline::route::any_destination(&config, connection) else {
        return;
    };
    let judged = connection.judged(&config, destination);
    connection
        .worker
        .records
        .push(Event::Refused(Box::new(RefusedConnection {
            direction: judged.first_direction(),
            ends: Arc::clone(&judged.ends),
            time: SystemTime::now(),
            reason,
        })));
}

async fn http1(connection: Rc<Connection>, io: DownstreamIo, settings: &Settings) {
    let service = service_fn({
        let connection = Rc::clone(&connection);
        move |request| pipeline::handle(Rc::clone(&connection), request)
    });
    let limits = Limits {
        head_bytes: settings.max_header_bytes as usize,
        headers: settings.max_headers as usize,
        target_bytes: settings::MAX_URI_BYTES,
        upgrades: Arc::clone(&connection.upgrades),
    };
    let memory = Held::new(connection.account(), 0);
    let strict = Strict::new(io, limits, memory);
    connection.set_strict(strict.handle());
    let serving = http1::Builder::new()
        // The strict reader tells a half-closed client from one that left.
        .half_close(false)
        .writev(false)
        // Not `pipeline_flush`: with it hyper buffers responses without bound
        // for a client that does not read.
        .auto_date_header(false)
        .header_read_timeout(None)
        .max_headers(settings.max_headers as usize)
        .max_buf_size(MAX_BUFFER.max(settings.max_header_bytes as usize))
        .serve_connection(TokioIo::new(strict), service)
        .with_upgrades();
    let mut driven = Driven {
        connection: &connection,
        serving,
        graceful: false,
    };
    match (&mut driven).await {
        Ended::Served(Ok(())) => {
            // A tunnel stays registered with the sweeper until it ends.
            if let Some(tunnel) = connection.take_tunnel() {
                let _ended = tunnel.await;
            }
        }
        Ended::Served(Err(error)) => ended(&connection, &error),
        Ended::Closed(Close::Graceful | Close::Stuck) => {}
        Ended::Closed(Close::HeaderTimeout) => {
            refuse(&connection, Failure::RequestTooSlow);
            let parts = driven.serving.into_parts();
            if let Some(parts) = parts {
                // Best effort: the client may be gone, and nothing waits.
                let _sent = parts
                    .io
                    .inner()
                    .get_ref()
                    .socket()
                    .try_write(respond::REQUEST_TIMEOUT);
            }
        }
    }
}

async fn http2(connection: Rc<Connection>, stream: TcpStream, prefix: Bytes, settings: &Settings) {
    let unread = connection.set_http2(settings.max_header_bytes);
    let io = DownstreamIo::new(stream, prefix, connection.progress.clone());
    let io = Frames::of_client(io, Rc::clone(&unread));
    let service = service_fn({
        let connection = Rc::clone(&connection);
        move |request| pipeline::handle(Rc::clone(&connection), request)
    });
    let serving = http2::Builder::new(LocalExec)
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(settings.max_streams)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_LOCAL_RESETS)
        .max_header_list_size(settings.max_header_bytes)
        .initial_stream_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_send_buf_size(settings.send_buffer as usize)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .serve_connection(TokioIo::new(io), service);
    let driven = Driven {
        connection: &connection,
        serving,
        graceful: false,
    };
    if let Ended::Served(Err(error)) = driven.await {
        if unread.is_cut() {
            refuse(&connection, Failure::MEMORY);
        }
        ended(&connection, &error);
    }
}

/// A connection that hyper gave up.
fn ended(connection: &Connection, error: &hyper::Error) {
    if error.is_parse() || error.is_parse_too_large() {
        refuse(connection, Failure::Malformed("protocol error"));
    }
    tracing::debug!(%error, "connection ended");
}

/// A server connection of hyper's that can be told to finish.
trait Graceful: Future<Output = hyper::Result<()>> + Unpin {
    fn finish(&mut self);
}

impl<I, S, B> Graceful for http1::UpgradeableConnection<I, S>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: hyper::body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    Self: Future<Output = hyper::Result<()>> + Unpin,
{
    fn finish(&mut self) {
        Pin::new(self).graceful_shutdown();
    }
}

impl<I, S, B> Graceful for http2::Connection<I, S, LocalExec>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: hyper::body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    LocalExec: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
    Self: Future<Output = hyper::Result<()>> + Unpin,
{
    fn finish(&mut self) {
        Pin::new(self).graceful_shutdown();
    }
}

enum Ended {
    Served(hyper::Result<()>),
    Closed(Close),
}

/// Polls the server, and the sweeper's wish to end it.
struct Driven<'a, C> {
    connection: &'a Connection,
    serving: C,
    graceful: bool,
}

impl<C: Graceful> Future for Driven<'_, C> {
    type Output = Ended;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Ended> {
        let this = self.get_mut();
        match this.connection.poll_close(context) {
            Some(how @ (Close::HeaderTimeout | Close::Stuck)) => {
                return Poll::Ready(Ended::Closed(how));
            }
            Some(Close::Graceful) if !this.graceful => {
                this.graceful = true;
                this.serving.finish();
            }
            Some(Close::Graceful) | None => {}
        }
        Pin::new(&mut this.serving).poll(context).map(Ended::Served)
    }
}
