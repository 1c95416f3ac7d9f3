//! Sending a request: its head and its body, as the body has bytes.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut};
use http_body::{Body, Frame};

use super::connection::Connection;
use super::encode::{self, Framing};
use crate::failure::Failure;

/// Content is gathered behind the head until the buffer holds this much, so
/// that a small request is one write.
const GATHER: usize = 16 * 1024;

/// The same for a source that is short of memory.
const GATHER_LITTLE: usize = 1024;

/// Content from this size on is written from where it is, not copied.
const WRITE_THROUGH: usize = 8 * 1024;

/// Why sending stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stopped {
    /// The body failed: the client's doing, or the request was cut.
    Body(Failure),
    /// The upstream takes no more bytes. It may have answered all the same.
    Write,
}

/// The part of a request that is not sent yet.
pub(super) struct Outgoing<B: Body> {
    body: B,
    framing: Framing,
    /// A large piece of content on its way, after the output buffer.
    through: Option<B::Data>,
    /// The chunk of `through` still needs its line end.
    chunk_open: bool,
    ended: bool,
    /// A byte of content was taken from the body: it cannot be sent again.
    touched: bool,
    /// A byte was handed to the kernel.
    sent: bool,
}

impl<B: Body> fmt::Debug for Outgoing<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Outgoing")
            .field("framing", &self.framing)
            .field("through", &self.through())
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl<B: Body> Outgoing<B> {
    /// Size of the large piece that is on its way.
    pub(super) fn through(&self) -> usize {
        self.through.as_ref().map_or(0, Buf::remaining)
    }
}

impl<B> Outgoing<B>
where
    B: Body<Error = Failure> + Unpin,
{
    pub(super) fn new(body: B) -> Self {
        let framing = Framing::of(&body);
        Self {
            body,
            framing,
            through: None,
            chunk_open: false,
            ended: framing == Framing::None,
            touched: false,
            sent: false,
        }
    }

    pub(super) fn framing(&self) -> Framing {
        self.framing
    }

    /// Nothing of the body is gone: the request can be sent again as it was.
    pub(super) fn is_replayable(&self) -> bool {
        !self.touched
    }

    pub(super) fn is_sent(&self) -> bool {
        self.sent
    }

    pub(super) fn forget_sent(&mut self) {
        self.sent = false;
    }

    /// Whether all of it was handed to the kernel.
    pub(super) fn is_done(&self, connection: &Connection) -> bool {
        self.ended && self.through.is_none() && connection.output.is_empty()
    }

    /// Sends what there is, gathering little where memory is `scarce`.
    /// `Ready(Ok)` means all of the request was sent.
    pub(super) fn poll_send(
        &mut self,
        connection: &mut Connection,
        context: &mut Context<'_>,
        scarce: bool,
    ) -> Poll<Result<(), Stopped>> {
        let most = if scarce { GATHER_LITTLE } else { GATHER };
        loop {
            let waiting = self.gather(connection, context, most)?;
            if connection.output.is_empty() && self.through.is_none() {
                return if waiting {
                    Poll::Pending
                } else {
                    Poll::Ready(Ok(()))
                };
            }
            ready!(self.poll_write(connection, context)).map_err(|_gone| Stopped::Write)?;
        }
    }

    fn poll_write(
        &mut self,
        connection: &mut Connection,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = connection.output.len();
        let written = connection.poll_output(context);
        self.sent |= connection.output.len() != before;
        ready!(written)?;
        if let Some(through) = &mut self.through {
            let before = through.remaining();
            let written = connection.poll_chunk(context, through);
            self.sent |= through.remaining() != before;
            ready!(written)?;
            self.through = None;
        }
        if self.chunk_open {
            self.chunk_open = false;
            connection.output.put_slice(b"\r\n");
        }
        Poll::Ready(Ok(()))
    }

    /// Moves content from the body to the buffers; `true` when the body has
    /// none at the moment.
    fn gather(
        &mut self,
        connection: &mut Connection,
        context: &mut Context<'_>,
        most: usize,
    ) -> Result<bool, Stopped> {
        while !self.ended && self.through.is_none() && connection.output.len() < most {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Pending => return Ok(true),
                Poll::Ready(Some(Ok(frame))) => self.frame(frame, connection)?,
                Poll::Ready(Some(Err(failure))) => return Err(Stopped::Body(failure)),
                Poll::Ready(None) => self.end(connection, None)?,
            }
        }
        Ok(false)
    }

    fn frame(&mut self, frame: Frame<B::Data>, connection: &mut Connection) -> Result<(), Stopped> {
        self.touched = true;
        match frame.into_data() {
            Ok(data) => self.data(data, connection)?,
            Err(frame) => {
                let trailers = frame.into_trailers().ok();
                return self.end(connection, trailers.as_ref());
            }
        }
        if self.body.is_end_stream() && self.through.is_none() {
            self.end(connection, None)?;
        }
        Ok(())
    }

    fn data(&mut self, data: B::Data, connection: &mut Connection) -> Result<(), Stopped> {
        let size = data.remaining();
        if size == 0 {
            return Ok(());
        }
        match &mut self.framing {
            Framing::None => return Err(Stopped::Body(TOO_LONG)),
            Framing::Length(left) => {
                *left = left
                    .checked_sub(size as u64)
                    .ok_or(Stopped::Body(TOO_LONG))?;
            }
            Framing::Chunked => encode::chunk_size(size, &mut connection.output),
        }
        let chunked = self.framing == Framing::Chunked;
        if size >= WRITE_THROUGH {
            self.through = Some(data);
            self.chunk_open = chunked;
            return Ok(());
        }
        connection.output.put(data);
        if chunked {
            connection.output.put_slice(b"\r\n");
        }
        Ok(())
    }

    fn end(
        &mut self,
        connection: &mut Connection,
        trailers: Option<&http::HeaderMap>,
    ) -> Result<(), Stopped> {
        self.ended = true;
        match self.framing {
            Framing::Chunked => encode::last_chunk(trailers, &mut connection.output),
            Framing::Length(left) if left > 0 => return Err(Stopped::Body(Failure::ClientGone)),
            Framing::Length(_) | Framing::None => {}
        }
        Ok(())
    }
}

const TOO_LONG: Failure = Failure::Malformed("body longer than its content-length");
