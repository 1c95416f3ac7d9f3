//! The accept loop.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use super::addr::{Local, OriginalDst, Source};
use super::connection::{Connection, Route};
use super::serve;
use super::socket;
use super::worker::Worker;
use crate::control::config::ListenerMode;

/// Wait before the next `accept` when the process or the system has no
/// descriptor or memory left: something has to be closed first, and a loop
/// without a wait would take the CPU that closing needs.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// Accepts on `socket` until the handle is aborted.
///
/// # Errors
/// When the socket cannot be registered with the worker's runtime.
pub fn start(
    worker: &Rc<Worker>,
    socket: std::net::TcpListener,
    mode: ListenerMode,
) -> io::Result<AbortHandle> {
    let listener = TcpListener::from_std(socket)?;
    let local = Local(listener.local_addr()?);
    let worker = Rc::clone(worker);
    let task = tokio::task::spawn_local(async move {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => accepted(&worker, stream, Source(peer), local, &mode),
                Err(error) => survive(&error).await,
            }
        }
    });
    Ok(task.abort_handle())
}

fn accepted(
    worker: &Rc<Worker>,
    stream: TcpStream,
    source: Source,
    local: Local,
    mode: &ListenerMode,
) {
    let route = match mode {
        // The datapath assigned the packet to this socket: its own address is
        // the one that the client dialled.
        ListenerMode::Transparent { .. } => match stream.local_addr() {
            Ok(address) => Route::Original(OriginalDst(address)),
            // Gone before it was looked at.
            Err(_error) => return,
        },
        ListenerMode::Cluster(name) => Route::Cluster(Rc::from(&**name)),
    };
    if let Err(error) = socket::accepted(&stream) {
        tracing::debug!(%error, "accepted socket refused its options");
    }
    // It stands still while there is nobody to look after.
    worker.clock.advance();
    let connection = Rc::new(Connection::new(Rc::clone(worker), source, route, local));
    let registered = match worker.register(Rc::clone(&connection)) {
        Ok(registered) => registered,
        Err(failure) => {
            serve::refuse(&connection, failure);
            return;
        }
    };
    tokio::task::spawn_local(async move {
        serve::serve(connection, stream).await;
        drop(registered);
    });
}

/// An error of `accept` never ends the loop: a client that gave up before it
/// was accepted is its own matter, and a process without descriptors gets them
/// back when connections end.
async fn survive(error: &io::Error) {
    let exhausted = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    match error.raw_os_error() {
        Some(code) if exhausted.contains(&code) => {
            tracing::warn!(%error, "cannot accept for now");
            tokio::time::sleep(EXHAUSTED).await;
        }
        _ => tracing::debug!(%error, "a connection was gone before it was accepted"),
    }
}
