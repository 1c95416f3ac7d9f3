//! What an HTTP/2 connection has received and nobody has read.
//!
//! Windows bound the bytes of it, but not its memory: each frame that waits
//! keeps the buffer that it was read into, whatever else came in that. So the
//! frames are counted as they arrive, and again as they are taken.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Account, BUFFER, Held};

/// Length of the preface that a client sends before its first frame.
const PREFACE: u32 = 24;

/// A frame's head (RFC 9113, section 4.1).
const HEAD: usize = 9;

/// Frames with content, and what opens, continues and ends blocks of fields.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// What the library keeps beside each frame that waits, in a table that doubles
/// as it grows.
const EVENT: usize = 768;

/// The most memory that one byte of packed fields may take: one that names an
/// entry of a table becomes a name, a value and a place in a map.
const UNPACKED: usize = 128;

/// What waits on one connection.
#[derive(Debug)]
pub struct Unread {
    held: RefCell<Held>,
    /// Frames of content that wait.
    pub(super) frames: Cell<usize>,
    /// Those of them that came since the last look.
    recent: Cell<usize>,
    /// Bytes of any kind that were read since nothing waited.
    read: Cell<usize>,
    /// Trailers that wait, and the memory that they may take.
    trailers: Cell<(usize, usize)>,
    /// Memory of the block of fields that is being received.
    block: Cell<usize>,
    /// The most that one block may take.
    most: usize,
    /// More came than its source has memory for.
    cut: Cell<bool>,
}

impl Unread {
    /// Nothing waits. Blocks of fields are bounded to `head_bytes`.
    #[must_use]
    pub fn new(account: &Arc<Account>, head_bytes: usize) -> Self {
        Self {
            held: RefCell::new(Held::new(account, 0)),
            frames: Cell::new(0),
            recent: Cell::new(0),
            read: Cell::new(0),
            trailers: Cell::new((0, 0)),
            block: Cell::new(0),
            // As much again for what does not count as a field's size.
            most: 2 * head_bytes,
            cut: Cell::new(false),
        }
    }

    /// One frame of content was taken.
    pub fn taken(&self) {
        self.frames.set(self.frames.get().saturating_sub(1));
        self.charge();
    }

    /// Trailers were taken.
    pub fn trailers_taken(&self) {
        let (count, memory) = self.trailers.get();
        if let Some(each) = memory.checked_div(count) {
            self.trailers.set((count - 1, memory - each));
            self.charge();
        }
    }

    /// Nobody has anything to take, and has not had for a while but for what
    /// came just now: what still counts was thrown away with its stream. To be
    /// called now and then.
    pub fn settle(&self, nobody_waits: bool) {
        if nobody_waits {
            self.frames.set(self.frames.get().min(self.recent.get()));
            if self.frames.get() == 0 {
                self.trailers.set((0, 0));
            }
            self.charge();
        }
        self.recent.set(0);
    }

    /// Whether the connection was ended because it brought more than its source
    /// has memory for.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.cut.get()
    }

    fn charge(&self) {
        let frames = self.frames.get();
        // Each keeps at most the buffer that it was read into and its own
        // size; together they keep what was read, and the allocator rounds up.
        let buffers = (frames * 2 * BUFFER).min(2 * self.read.get() + BUFFER);
        let content = if frames == 0 { 0 } else { buffers };
        let (_count, trailers) = self.trailers.get();
        let all = content + frames * EVENT + trailers + self.block.get();
        self.held.borrow_mut().set(all);
    }
}

/// A connection of HTTP/2 whose frames are counted as they are read.
#[derive(Debug)]
pub struct Frames<T> {
    inner: T,
    unread: Rc<Unread>,
    /// The head that is being read.
    head: [u8; HEAD],
    filled: usize,
    /// Bytes until the next head.
    skip: u32,
    /// Where the stream of the frame stands among those before.
    newest: u32,
    client: bool,
}

impl<T> Frames<T> {
    /// Frames of a client, its preface before them.
    #[must_use]
    pub fn of_client(inner: T, unread: Rc<Unread>) -> Self {
        Self {
            inner,
            unread,
            head: [0; HEAD],
            filled: 0,
            skip: PREFACE,
            newest: 0,
            client: true,
        }
    }

    /// Frames of a server.
    #[must_use]
    pub fn of_server(inner: T, unread: Rc<Unread>) -> Self {
        Self {
            skip: 0,
            client: false,
            ..Self::of_client(inner, unread)
        }
    }

    /// Looks at what was read.
    fn follow(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let unread = Rc::clone(&self.unread);
        if unread.frames.get() == 0 {
            unread.read.set(0);
        }
        unread.read.set(unread.read.get() + bytes.len());
        loop {
            let skipped = bytes.len().min(self.skip as usize);
            self.skip -= u32::try_from(skipped).unwrap_or(self.skip);
            bytes = &bytes[skipped..];
            let part = bytes.len().min(HEAD - self.filled);
            self.head[self.filled..self.filled + part].copy_from_slice(&bytes[..part]);
            self.filled += part;
            bytes = &bytes[part..];
            if self.filled < HEAD || part == 0 {
                break;
            }
            self.filled = 0;
            self.frame()?;
        }
        unread.charge();
        Ok(())
    }

    /// A whole head is there.
    fn frame(&mut self) -> io::Result<()> {
        let [a, b, c, kind, flags, i, j, k, l] = self.head;
        let length = u32::from_be_bytes([0, a, b, c]);
        let stream = u32::from_be_bytes([i, j, k, l]) & 0x7fff_ffff;
        self.skip = length;
        let unread = &*self.unread;
        match kind {
            DATA if length > 0 => {
                unread.frames.set(unread.frames.get() + 1);
                unread.recent.set(unread.recent.get() + 1);
            }
            HEADERS | CONTINUATION => {
                let packed = UNPACKED.saturating_mul(length as usize);
                let memory = (unread.block.get() + packed).min(unread.most);
                unread.block.set(memory);
                if flags & END_HEADERS != 0 {
                    unread.block.set(0);
                    // A new stream's are taken at once.
                    if stream <= self.newest || !self.client {
                        let (count, before) = unread.trailers.get();
                        unread.trailers.set((count + 1, before + memory));
                    }
                    self.newest = self.newest.max(stream);
                }
            }
            _ => return Ok(()),
        }
        if unread.held.borrow().account().is_spent() {
            unread.cut.set(true);
            return Err(io::Error::other("its source has no memory left"));
        }
        Ok(())
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Frames<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(context, buffer))?;
        let read = buffer.filled().get(before..).unwrap_or_default();
        Poll::Ready(this.follow(read))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Frames<T> {
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
