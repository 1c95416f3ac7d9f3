//! The accepted socket as the HTTP server sees it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What was read so far, and whether the client has said all.
///
/// By it the sweeper tells an idle connection from one in the middle of a
/// request's head, and the HTTP server learns of a client's end only when that
/// is an end: a client that has sent its whole request may close its half and
/// still wait for the answer.
///
/// Atomic only because the upgraded half of a connection must be `Send`; it
/// never leaves its worker.
#[derive(Debug, Default, Clone)]
pub struct Progress(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    bytes: AtomicU64,
    ended: AtomicBool,
    held: AtomicBool,
    reader: AtomicWaker,
}

impl Progress {
    /// Number of bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// Whether the client closed its half of the connection, or all of it.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.0.ended.load(Ordering::Relaxed)
    }

    /// The request was read to its end: an end of the client's is no longer
    /// an end of its request.
    pub fn hold_end(&self) {
        self.0.held.store(true, Ordering::Relaxed);
    }

    /// The response is at its end, and with it what the client may wait for.
    pub fn release_end(&self) {
        if self.0.held.swap(false, Ordering::Relaxed) && self.ended() {
            self.0.reader.wake();
        }
    }

    /// Adds what one read gave; nothing is the end. `false` if the reader has
    /// to wait for the end to be released.
    fn add(&self, bytes: usize, context: &Context<'_>) -> bool {
        if bytes > 0 {
            self.start(bytes);
            return true;
        }
        self.0.ended.store(true, Ordering::Relaxed);
        if !self.0.held.load(Ordering::Relaxed) {
            return true;
        }
        self.0.reader.register(context.waker());
        false
    }

    fn start(&self, bytes: usize) {
        // One writer: no need for an atomic addition.
        let total = self.bytes() + bytes as u64;
        self.0.bytes.store(total, Ordering::Relaxed);
    }
}

/// A TCP connection whose first bytes were read for detection, and which
/// counts what is read.
#[derive(Debug)]
pub struct DownstreamIo {
    stream: TcpStream,
    prefix: Bytes,
    progress: Progress,
}

impl DownstreamIo {
    /// Gives `prefix` before anything that is read from `stream`.
    #[must_use]
    pub fn new(stream: TcpStream, prefix: Bytes, progress: Progress) -> Self {
        progress.start(prefix.len());
        Self {
            stream,
            prefix,
            progress,
        }
    }

    /// The socket, for the last words on a connection that is given up.
    #[must_use]
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }
}

impl AsyncRead for DownstreamIo {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.prefix.has_remaining() {
            let length = this.prefix.len().min(buffer.remaining());
            buffer.put_slice(&this.prefix[..length]);
            this.prefix.advance(length);
            if this.prefix.is_empty() {
                // Its buffer is not needed for the connection's life.
                this.prefix = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        if this.progress.add(read, context) {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }
}

impl AsyncWrite for DownstreamIo {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}
