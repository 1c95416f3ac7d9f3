//! The accepted socket as the HTTP server sees it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::memory::{Account, WriteBuffer};

/// What a socket has read, and what waits to be written to it. The sweeper
/// tells an idle connection from one in the middle of a request's head by the
/// former.
///
/// Atomic only because the upgraded half of a connection must be `Send`; it
/// never leaves its worker.
#[derive(Debug, Clone)]
pub struct Progress(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    read: AtomicU64,
    written: WriteBuffer,
    /// Writes that the socket took something of.
    writes: AtomicU64,
    /// The socket takes no more at the moment.
    blocked: AtomicBool,
}

impl Progress {
    /// Nothing was read or written yet.
    #[must_use]
    pub fn new(account: Arc<Account>) -> Self {
        Self(Arc::new(Shared {
            read: AtomicU64::new(0),
            written: WriteBuffer::new(account),
            writes: AtomicU64::new(0),
            blocked: AtomicBool::new(false),
        }))
    }

    /// Number of bytes read.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.read.load(Ordering::Relaxed)
    }

    /// The responses of HTTP/1, which the server copies: they wait for the
    /// socket and not with their pieces.
    #[must_use]
    pub fn written(&self) -> &WriteBuffer {
        &self.0.written
    }

    /// Whether the last write found no room.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.0.blocked.load(Ordering::Relaxed)
    }

    /// Number of writes that the socket took something of.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.0.writes.load(Ordering::Relaxed)
    }

    /// What came of a write.
    fn wrote(&self, offered: usize, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.0.blocked.store(result.is_pending(), Ordering::Relaxed);
        match result {
            Poll::Ready(Ok(bytes)) => {
                self.0.writes.store(self.writes() + 1, Ordering::Relaxed);
                self.0.written.wrote(offered, bytes);
            }
            Poll::Pending => self.0.written.wrote(offered, 0),
            Poll::Ready(Err(_)) => {}
        }
        result
    }

    fn add(&self, bytes: usize) {
        // One writer: no need for an atomic addition.
        let total = self.bytes() + bytes as u64;
        self.0.read.store(total, Ordering::Relaxed);
    }
}

/// A TCP connection whose first bytes were read for detection, and which
/// counts what is read and written.
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
        progress.add(prefix.len());
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
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        this.progress.add(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for DownstreamIo {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.progress.wrote(bytes.len(), result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let offered = slices.iter().map(|slice| slice.len()).sum();
        let result = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.progress.wrote(offered, result)
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
