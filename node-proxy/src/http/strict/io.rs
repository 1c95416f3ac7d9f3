//! The socket of a client, as the HTTP server may see it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::head::{self, Follows, Limits};
use super::refusal::Refusal;
use crate::http::chunked::{Chunked, Piece};
use crate::memory::{BUFFER, Held, SMALL};

/// Bytes read at once while a head or a chunk is looked at.
const READ: usize = BUFFER;

/// Buffers here and of the server behind that count as the connection's own.
const OWN: usize = 3 * BUFFER;

/// Bytes behind a refused head that are read and thrown away, so that closing
/// the socket does not reset it before the client has read the answer.
const DISCARD: usize = 256 * 1024;

/// What the next bytes are.
#[derive(Debug)]
enum State {
    /// A head, of which this many bytes were searched for its end.
    Head { searched: usize },
    /// This many bytes of a body.
    Length(u64),
    /// A chunked body.
    Chunked(Chunked),
    /// What follows a request for an upgrade; held until the upstream agreed.
    Upgrade,
    /// Anything: the upstream agreed.
    Tunnel,
    /// Nothing more; this many bytes were thrown away.
    Refused { discarded: usize },
}

/// What a [`Strict`] is told of its requests, and tells of its client.
///
/// Atomic only because an upgraded connection must be `Send`; it never leaves
/// its worker.
#[derive(Debug, Clone, Default)]
pub struct StrictHandle(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    tunnel: AtomicBool,
    /// Requests that were given on, and those of them that were answered.
    passed: AtomicU64,
    answered: AtomicU64,
    ended: AtomicBool,
    reader: AtomicWaker,
}

impl StrictHandle {
    /// The upstream agreed to the upgrade that was asked for: from here on
    /// bytes pass as they are.
    pub fn tunnel(&self) {
        self.0.tunnel.store(true, Ordering::Relaxed);
    }

    /// A request was answered to its end.
    pub fn answered(&self) {
        self.0.answered.fetch_add(1, Ordering::Relaxed);
        if self.ended() {
            self.0.reader.wake();
        }
    }

    /// Whether the client has closed its half of the connection, or all of
    /// it, behind a complete request.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.0.ended.load(Ordering::Relaxed)
    }

    fn is_tunnel(&self) -> bool {
        self.0.tunnel.load(Ordering::Relaxed)
    }

    fn passed(&self) {
        self.0.passed.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether some request waits for its answer. Then the reader is woken
    /// when one is answered.
    fn poll_unanswered(&self, context: &Context<'_>) -> bool {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        if count(&self.0.passed) <= count(&self.0.answered) {
            return false;
        }
        self.0.ended.store(true, Ordering::Relaxed);
        self.0.reader.register(context.waker());
        true
    }
}

/// Reads from `T` and gives on only well-formed HTTP/1 requests.
#[derive(Debug)]
pub struct Strict<T> {
    inner: T,
    limits: Limits,
    state: State,
    /// Read and not given on.
    held: BytesMut,
    /// This many of the held bytes were found good.
    good: usize,
    handle: StrictHandle,
    /// Size of the server's buffer.
    server: usize,
    /// What both take beyond [`OWN`].
    memory: Held,
}

impl<T> Strict<T> {
    /// Follows the requests that `inner` reads, from the first byte on. Large
    /// buffers are charged to `memory`.
    #[must_use]
    pub fn new(inner: T, limits: Limits, memory: Held) -> Self {
        Self {
            inner,
            limits,
            state: State::Head { searched: 0 },
            held: BytesMut::new(),
            good: 0,
            handle: StrictHandle::default(),
            server: 0,
            memory,
        }
    }

    /// To be told of an upgrade.
    #[must_use]
    pub fn handle(&self) -> StrictHandle {
        self.handle.clone()
    }

    /// What it reads from.
    #[must_use]
    pub fn get_ref(&self) -> &T {
        &self.inner
    }

    /// Gives on held bytes that were found good; `false` if there are none.
    fn give(&mut self, buffer: &mut ReadBuf<'_>) -> bool {
        if self.good == 0 {
            return false;
        }
        let length = self.good.min(buffer.remaining());
        buffer.put_slice(&self.held[..length]);
        self.held.advance(length);
        self.good -= length;
        if self.held.is_empty() && self.held.capacity() > READ {
            // A large head has passed.
            self.held = BytesMut::new();
        }
        true
    }

    /// Largest head, in bytes. One that its source has no memory for is too
    /// large, if it is large.
    fn head_bytes(&self) -> usize {
        if self.memory.account().is_spent() {
            self.limits.head_bytes.min(READ)
        } else {
            self.limits.head_bytes
        }
    }

    /// Looks at the held bytes, of which none was found good.
    fn inspect(&mut self) -> io::Result<()> {
        match &mut self.state {
            State::Head { searched } => {
                let searched = *searched;
                self.inspect_head(searched);
            }
            State::Length(left) => {
                let here = self.held.len();
                self.good = usize::try_from(*left).unwrap_or(usize::MAX).min(here);
                *left -= self.good as u64;
                if *left == 0 {
                    self.state = State::Head { searched: 0 };
                }
            }
            State::Chunked(chunked) => {
                while self.good < self.held.len() && !chunked.is_done() {
                    match chunked.next(&self.held[self.good..]).map_err(malformed)? {
                        Piece::More => break,
                        Piece::Framing(n) | Piece::Data(n) | Piece::End(n) => self.good += n,
                    }
                }
                if chunked.is_done() {
                    self.state = State::Head { searched: 0 };
                }
            }
            State::Upgrade if self.handle.is_tunnel() => {
                self.state = State::Tunnel;
                self.good = self.held.len();
            }
            State::Tunnel => self.good = self.held.len(),
            State::Upgrade | State::Refused { .. } => {}
        }
        Ok(())
    }

    fn inspect_head(&mut self, searched: usize) {
        // An empty line before a request is an old client's habit (RFC 9112,
        // section 2.2); the server behind need not see it.
        if searched == 0 && self.held.starts_with(b"\r\n") {
            self.held.advance(2);
        }
        let most = self.head_bytes();
        match head::end(&self.held, searched) {
            Err(refusal) => self.refuse(refusal),
            Ok(None) if self.held.len() > most => {
                self.refuse(too_large(&self.held, &self.limits));
            }
            Ok(None) => {
                self.state = State::Head {
                    searched: self.held.len(),
                };
            }
            Ok(Some(end)) if end > most => {
                self.refuse(too_large(&self.held, &self.limits));
            }
            Ok(Some(end)) => match head::check(&self.held[..end], &self.limits) {
                Err(refusal) => self.refuse(refusal),
                Ok(follows) => {
                    self.handle.passed();
                    self.good = end;
                    self.state = follows.into();
                }
            },
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        let stand_in = refusal.stand_in();
        self.held.clear();
        self.held.extend_from_slice(&stand_in);
        self.good = stand_in.len();
        self.state = State::Refused { discarded: 0 };
    }
}

/// Which of the limits a head that is too large has reached first.
fn too_large(held: &[u8], limits: &Limits) -> Refusal {
    let line = memchr::memchr(b'\r', held).unwrap_or(held.len());
    if line > limits.target_bytes {
        Refusal::TargetTooLong
    } else {
        Refusal::HeadTooLarge
    }
}

fn malformed(error: crate::http::chunked::ChunkError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl From<Follows> for State {
    fn from(follows: Follows) -> Self {
        match follows {
            Follows::Nothing => Self::Head { searched: 0 },
            Follows::Length(length) => Self::Length(length),
            Follows::Chunked => Self::Chunked(Chunked::new()),
            Follows::Upgrade => Self::Upgrade,
        }
    }
}

impl<T: AsyncRead + Unpin> Strict<T> {
    /// Reads into the server's own buffer what needs no inspection.
    fn poll_direct(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<bool>> {
        let mut most = match &self.state {
            State::Length(left) => usize::try_from(*left).unwrap_or(usize::MAX),
            State::Tunnel => usize::MAX,
            _ => return Poll::Ready(Ok(false)),
        };
        if self.memory.account().is_scarce() {
            most = most.min(SMALL);
        }
        let most = most.min(buffer.remaining());
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
        ready!(Pin::new(&mut self.inner).poll_read(context, &mut part))?;
        let read = part.filled().len();
        buffer.advance(read);
        if let State::Length(left) = &mut self.state {
            *left -= read as u64;
            if *left == 0 {
                self.state = State::Head { searched: 0 };
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Reads into the held bytes; `Ok(0)` is the client's end.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.held.reserve(READ);
        let read = poll_read_buf(Pin::new(&mut self.inner), context, &mut self.held);
        self.charge();
        read
    }

    fn charge(&mut self) {
        // Twice, since it grows by being copied.
        let buffers = 2 * self.held.capacity() + self.server;
        self.memory.set(buffers.saturating_sub(OWN));
    }

    /// Reads and throws away, within a bound.
    fn poll_discard(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let State::Refused { discarded } = self.state
            && discarded < DISCARD
        {
            let read = ready!(self.poll_fill(context))?;
            self.held.clear();
            if read == 0 {
                break;
            }
            self.state = State::Refused {
                discarded: discarded + read,
            };
        }
        // The server closes once it has answered the stand-in.
        Poll::Pending
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Strict<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.server = buffer.remaining();
        this.charge();
        loop {
            if this.give(buffer) {
                return Poll::Ready(Ok(()));
            }
            if !this.held.is_empty() {
                this.inspect()?;
                if this.good > 0 {
                    continue;
                }
            } else if matches!(this.state, State::Upgrade) && this.handle.is_tunnel() {
                this.state = State::Tunnel;
            }
            if let State::Refused { .. } = this.state {
                return this.poll_discard(context);
            }
            if this.held.is_empty() && ready!(this.poll_direct(context, buffer))? {
                return Poll::Ready(Ok(()));
            }
            if matches!(this.state, State::Upgrade) && this.held.len() >= READ {
                // Enough of what may never be asked for. The next read after
                // the upstream's answer goes on from here.
                return Poll::Pending;
            }
            if ready!(this.poll_fill(context))? == 0 {
                // A client that has said all may still wait for its answer:
                // the server would take the end for the end of everything.
                let between = this.held.is_empty() && matches!(this.state, State::Head { .. });
                if between && this.handle.poll_unanswered(context) {
                    return Poll::Pending;
                }
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Strict<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(context)
    }
}
