//! One request and the head of its response, on one connection.

use std::task::{Context, Poll, ready};

use http::request::Parts;
use http_body::Body;

use super::connection::Connection;
use super::encode;
use super::head::{self, Asked, Head, Limits};
use super::outgoing::{Outgoing, Stopped};
use crate::failure::Failure;
use crate::memory::Held;

/// A request on its way; lives until its response was read or given up.
#[derive(Debug)]
pub(super) struct Exchange<B: Body> {
    pub(super) connection: Connection,
    outgoing: Outgoing<B>,
    /// Buffers of the connection.
    memory: Held,
    /// The upstream takes no more of the request.
    refused: bool,
}

impl<B> Exchange<B>
where
    B: Body<Error = Failure> + Unpin,
{
    pub(super) fn new(mut connection: Connection, request: &Parts, body: B, memory: Held) -> Self {
        let outgoing = Outgoing::new(body);
        connection.output.clear();
        encode::request_head(request, outgoing.framing(), &mut connection.output);
        Self {
            connection,
            outgoing,
            memory,
            refused: false,
        }
    }

    /// Reads once; `Ok(0)` is the upstream's end.
    pub(super) fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        let scarce = self.memory.account().is_scarce();
        let read = self.connection.poll_fill(context, scarce);
        self.charge();
        read
    }

    fn charge(&mut self) {
        let buffers = self.connection.buffers() + self.outgoing.through();
        self.memory.set(buffers);
    }

    /// Goes on with the same request on another connection. Allowed only as
    /// far as [`Failure::may_retry`] says.
    pub(super) fn move_to(&mut self, connection: Connection, request: &Parts) {
        let old = std::mem::replace(&mut self.connection, connection);
        if self.outgoing.is_sent() {
            // Nothing of the body is gone, so the head alone is to be said again.
            self.connection.output.clear();
            let framing = self.outgoing.framing();
            encode::request_head(request, framing, &mut self.connection.output);
            self.outgoing.forget_sent();
        } else {
            self.connection.output = old.output;
        }
        self.refused = false;
    }

    /// The body is untouched, or nothing of the request left this process.
    pub(super) fn is_replayable(&self) -> bool {
        self.outgoing.is_replayable() || !self.outgoing.is_sent()
    }

    /// Sends on, as far as the body has bytes and the upstream takes them.
    ///
    /// # Errors
    /// The body's own failure. An upstream that takes no more is no error
    /// here: its answer may be on the way.
    pub(super) fn poll_send(&mut self, context: &mut Context<'_>) -> Result<(), Failure> {
        if self.refused {
            return Ok(());
        }
        let scarce = self.memory.account().is_scarce();
        let sent = self
            .outgoing
            .poll_send(&mut self.connection, context, scarce);
        self.charge();
        match sent {
            Poll::Pending | Poll::Ready(Ok(())) => Ok(()),
            Poll::Ready(Err(Stopped::Body(failure))) => Err(failure),
            Poll::Ready(Err(Stopped::Write)) => {
                self.refused = true;
                Ok(())
            }
        }
    }

    /// Whether the connection could serve another request now.
    pub(super) fn is_clean(&self) -> bool {
        !self.refused && self.outgoing.is_done(&self.connection) && self.connection.input.is_empty()
    }

    /// Sends the request until the head of the response is there.
    pub(super) fn poll_head(
        &mut self,
        context: &mut Context<'_>,
        asked: Asked,
        limits: Limits,
    ) -> Poll<Result<Head, Failure>> {
        self.poll_send(context)?;
        loop {
            if !self.connection.input.is_empty()
                && let Some(head) = head::parse(&mut self.connection.input, asked, limits)?
            {
                return Poll::Ready(Ok(head));
            }
            match ready!(self.poll_fill(context)) {
                Ok(read) if read > 0 => {}
                _ended => return Poll::Ready(Err(self.ended())),
            }
        }
    }

    /// The upstream closed before a complete head.
    fn ended(&self) -> Failure {
        if self.connection.input.is_empty() {
            Failure::UpstreamReset {
                reused: self.connection.reused,
                sent: self.outgoing.is_sent(),
            }
        } else {
            Failure::BadResponse("head ends early")
        }
    }
}
