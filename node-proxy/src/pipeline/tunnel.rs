//! Bytes in both directions after a switch of protocols (WebSocket and the
//! like).

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::inflight::InFlight;
use super::record::Recorder;
use crate::accept::connection::Connection;
use crate::failure::Failure;
use crate::memory::BUFFER;
use crate::upstream::Tunnel;

/// Carries bytes between both ends until both have closed, the connection
/// stands still for too long, or policy withdraws it.
pub fn start(
    connection: &Rc<Connection>,
    client: OnUpgrade,
    upstream: Tunnel,
    mut recorder: Recorder,
) {
    recorder.waiting();
    let owner = Rc::clone(connection);
    let task = tokio::task::spawn_local(async move {
        let outcome = {
            let mut carrying = pin!(carry(&owner, client, upstream, &recorder));
            poll_fn(|context| match recorder.poll_cut(context) {
                Some(reason) => Poll::Ready(Err(reason)),
                None => carrying.as_mut().poll(context),
            })
            .await
        };
        match outcome {
            Ok(()) => recorder.complete(),
            Err(failure) => recorder.failed(failure),
        }
    });
    connection.set_tunnel(task);
}

async fn carry(
    connection: &Rc<Connection>,
    client: OnUpgrade,
    upstream: Tunnel,
    recorder: &Recorder,
) -> Result<(), Failure> {
    let client = client.await.map_err(|_error| Failure::ClientGone)?;
    let request = &recorder.running().request;
    // Copying has one of the usual size for each direction.
    request.grow(2 * BUFFER);
    let mut client = Watched::new(TokioIo::new(client), request, connection);
    let mut upstream = Watched::new(upstream, request, connection);
    tokio::io::copy_bidirectional(&mut client, &mut upstream)
        .await
        .map(|_bytes| ())
        .map_err(|_error| Failure::Truncated)
}

/// Tells the sweeper that something still moves.
struct Watched<T> {
    inner: T,
    request: Rc<InFlight>,
    connection: Rc<Connection>,
}

impl<T> Watched<T> {
    fn new(inner: T, request: &Rc<InFlight>, connection: &Rc<Connection>) -> Self {
        Self {
            inner,
            request: Rc::clone(request),
            connection: Rc::clone(connection),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.inner).poll_read(context, buffer))?;
        this.request.moved(this.connection.now());
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}
