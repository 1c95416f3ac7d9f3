//! One connection with its buffers.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use crate::upstream::Content;
use crate::upstream::budget::Permit;

/// First read: a whole small response. Each read that fills its space makes
/// the next four times as large, so that bulk data costs few system calls and
/// a thousand idle connections cost little memory. One that leaves most of it
/// empty makes the next smaller again.
const READ_FIRST: usize = 4 * 1024;
const READ_MOST: usize = 128 * 1024;

/// Content up to this size is copied out of the buffer, which then stays in
/// place for the next read; larger content is split off without a copy.
const COPY: usize = 1024;

/// A connection to an upstream. Idle ones have empty buffers.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    /// Read and not yet understood.
    pub(super) input: BytesMut,
    /// Encoded and not yet written.
    pub(super) output: BytesMut,
    read_size: usize,
    /// Size of the buffer that `input` is in, which what was taken from it may
    /// share.
    buffer: usize,
    /// It served a request before.
    pub(super) reused: bool,
    _permit: Permit,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, permit: Permit) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            output: BytesMut::with_capacity(1024),
            read_size: READ_FIRST,
            buffer: 0,
            reused: false,
            _permit: permit,
        }
    }

    /// Reads once, and little where memory is `scarce`; `Ok(0)` is the
    /// upstream's end.
    pub(super) fn poll_fill(
        &mut self,
        context: &mut Context<'_>,
        scarce: bool,
    ) -> Poll<io::Result<usize>> {
        if scarce {
            self.read_size = READ_FIRST;
            if self.input.is_empty() && self.buffer > READ_FIRST {
                self.forget();
            }
        }
        // A buffer that waits is memory: none is made before there is anything
        // to read.
        ready!(self.stream.poll_read_ready(context))?;
        if self.input.capacity() - self.input.len() < self.read_size {
            self.input.reserve(self.read_size);
            self.buffer = self.input.capacity();
        }
        let space = self.input.capacity() - self.input.len();
        let stream = Pin::new(&mut self.stream);
        let read = ready!(poll_read_buf(stream, context, &mut self.input))?;
        if read == space {
            self.read_size = (self.read_size * 4).min(READ_MOST);
        } else if read < self.read_size / 4 {
            self.read_size = (self.read_size / 4).max(READ_FIRST);
        }
        Poll::Ready(Ok(read))
    }

    /// Bytes of its buffers.
    pub(super) fn buffers(&self) -> usize {
        self.buffer + self.output.capacity()
    }

    /// Lets its input buffer go.
    fn forget(&mut self) {
        self.input = BytesMut::new();
        self.buffer = 0;
    }

    /// The first `length` bytes of what was read.
    pub(super) fn take(&mut self, length: usize) -> Content {
        if length > COPY {
            let bytes = self.input.split_to(length).freeze();
            return Content {
                bytes,
                own: length,
                shared: self.buffer,
            };
        }
        let copy = Bytes::copy_from_slice(&self.input[..length]);
        self.input.advance(length);
        Content::alone(copy, length)
    }

    /// Writes all of the output buffer.
    pub(super) fn poll_output(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, &self.output))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Writes all of `data` past the output buffer, which must be empty.
    pub(super) fn poll_chunk(
        &mut self,
        context: &mut Context<'_>,
        data: &mut impl Buf,
    ) -> Poll<io::Result<()>> {
        while data.has_remaining() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, data.chunk()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            data.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Whether an idle connection may serve another request: the upstream has
    /// neither closed it nor said anything unasked.
    ///
    /// Costs a system call only when the reactor saw something happen.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let mut space = [0; 1];
        let mut space = ReadBuf::new(&mut space);
        self.input.is_empty()
            && Pin::new(&mut self.stream)
                .poll_read(&mut context, &mut space)
                .is_pending()
    }

    /// Ready to be kept without work: what a large response left behind is
    /// given back.
    pub(super) fn rest(&mut self) {
        self.reused = true;
        if self.buffer > READ_FIRST {
            self.forget();
        }
        if self.output.capacity() > READ_FIRST {
            self.output = BytesMut::with_capacity(1024);
        }
        self.read_size = READ_FIRST;
    }

    pub(super) fn into_parts(self) -> (TcpStream, BytesMut, Permit) {
        (self.stream, self.input, self._permit)
    }
}
