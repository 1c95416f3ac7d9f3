//! What a client sends.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::clean;
use crate::accept::connection::Connection;
use crate::failure::Failure;
use crate::pipeline::inflight::{InFlight, Side};

/// The client's body, as it comes from the connection.
#[derive(Debug)]
pub struct ClientBody {
    inner: Incoming,
    request: Rc<InFlight>,
    connection: Rc<Connection>,
}

impl ClientBody {
    /// The body of a request that may be cut from outside.
    #[must_use]
    pub fn new(inner: Incoming, request: Rc<InFlight>, connection: Rc<Connection>) -> Self {
        let done = inner.is_end_stream();
        let body = Self {
            inner,
            request,
            connection,
        };
        if done {
            body.done();
        }
        body.request.drained(done);
        body
    }

    fn done(&self) {
        self.request.request_done();
    }

    /// The connection that it comes from.
    #[must_use]
    pub fn connection(&self) -> &Rc<Connection> {
        &self.connection
    }

    /// Why the request must end, if it must; otherwise the task is woken when
    /// it must.
    #[must_use]
    pub fn poll_cut(&self, context: &Context<'_>) -> Option<Failure> {
        self.request.poll_cut(Side::Request, context)
    }

    /// The next frame. Counts what was taken from the connection.
    pub fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(context);
        self.request.drained(frame.is_pending());
        let frame = ready!(frame);
        self.request.moved(self.connection.now());
        match frame {
            Some(Ok(mut frame)) => {
                if self.inner.is_end_stream() {
                    self.done();
                }
                self.count(&mut frame);
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(client_failure(&error)))),
            None => {
                self.done();
                Poll::Ready(None)
            }
        }
    }

    fn count(&self, frame: &mut Frame<Bytes>) {
        let fields = clean(frame);
        if let Some(fields) = fields {
            self.request.grow(fields.memory());
        }
        if let Some(unread) = self.connection.http2() {
            if fields.is_some() {
                unread.trailers_taken();
            } else if frame.data_ref().is_some_and(|data| !data.is_empty()) {
                unread.taken();
            }
        }
    }

    /// Whether nothing follows.
    #[must_use]
    pub fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    /// What is known of its length.
    #[must_use]
    pub fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        // What is left of it the server throws away.
        self.request.drained(true);
    }
}

fn client_failure(error: &hyper::Error) -> Failure {
    // The strict reading of bodies speaks through the socket's errors.
    let refused = std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<std::io::Error>())
        .is_some_and(|error| error.kind() == std::io::ErrorKind::InvalidData);
    if refused || error.is_parse() {
        Failure::Malformed("body")
    } else {
        Failure::ClientGone
    }
}
