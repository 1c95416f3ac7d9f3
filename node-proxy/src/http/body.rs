//! Bodies on their way through the proxy.
//!
//! Frames pass untouched and only when the other side asks for them, so a slow
//! reader slows the writer down and memory stays constant.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::accept::connection::Connection;
use crate::failure::Failure;
use crate::http::trailers;
use crate::memory::{Fields, Flow, Piece, unshared};
use crate::pipeline::inflight::{InFlight, Side};
use crate::pipeline::record::Recorder;
use crate::upstream::UpstreamBody;

/// The client's body, on its way to the upstream.
#[derive(Debug)]
pub struct RequestBody {
    inner: Incoming,
    request: Rc<InFlight>,
    connection: Rc<Connection>,
    /// Where pieces wait in a queue of the upstream's, what waits.
    queue: Option<Arc<Flow>>,
}

impl RequestBody {
    /// The body of a request that may be cut from outside. `queued` says that
    /// the upstream queues its pieces as they are.
    #[must_use]
    pub fn new(
        inner: Incoming,
        request: Rc<InFlight>,
        connection: Rc<Connection>,
        queued: bool,
    ) -> Self {
        let done = inner.is_end_stream();
        let queue = || Arc::new(Flow::new(Arc::clone(connection.account())));
        let body = Self {
            queue: (queued && !done).then(queue),
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

    /// Counts what was taken from the connection, and makes a piece of it that
    /// is charged to its source where it may have to wait.
    fn piece(&self, data: Bytes) -> Piece<Arc<Flow>> {
        if let Some(unread) = self.connection.http2()
            && !data.is_empty()
        {
            unread.taken();
        }
        match &self.queue {
            Some(queue) => {
                let (data, memory) = unshared(data);
                Piece::new(data, memory, Arc::clone(queue))
            }
            None => Piece::free(data),
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        // What is left of it the server throws away.
        self.request.drained(true);
    }
}

impl Body for RequestBody {
    type Data = Piece<Arc<Flow>>;
    type Error = Failure;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Failure>>> {
        let this = self.get_mut();
        if let Some(reason) = this.request.poll_cut(Side::Request, context) {
            return Poll::Ready(Some(Err(reason)));
        }
        if let Some(queue) = &this.queue {
            ready!(queue.poll_room(context));
        }
        let frame = Pin::new(&mut this.inner).poll_frame(context);
        this.request.drained(frame.is_pending());
        let frame = ready!(frame);
        this.request.moved(this.connection.now());
        match frame {
            Some(Ok(mut frame)) => {
                if this.inner.is_end_stream() {
                    this.done();
                }
                if let Some(fields) = clean(&mut frame) {
                    this.request.grow(fields.memory());
                    if let Some(unread) = this.connection.http2() {
                        unread.trailers_taken();
                    }
                }
                Poll::Ready(Some(Ok(frame.map_data(|data| this.piece(data)))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(client_failure(&error)))),
            None => {
                this.done();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Trailers pass without what belongs into a head. Counts what is left of them.
fn clean<D>(frame: &mut Frame<D>) -> Option<Fields> {
    let trailers = frame.trailers_mut()?;
    trailers::sanitise(trailers);
    Some(Fields::of(trailers))
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

/// What a client reads: an upstream's body or an answer of the proxy's own.
///
/// Carries the request's record along: the record is complete when the body
/// is, or when the client goes away before.
#[derive(Debug)]
pub struct ResponseBody {
    content: Content,
    record: Option<Recorder>,
}

#[derive(Debug)]
enum Content {
    Empty,
    Full(Option<Bytes>),
    Upstream(UpstreamBody),
}

impl ResponseBody {
    /// No body.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            content: Content::Empty,
            record: None,
        }
    }

    /// These bytes.
    #[must_use]
    pub fn full(bytes: Bytes) -> Self {
        Self {
            content: Content::Full(Some(bytes)),
            record: None,
        }
    }

    /// What the upstream sends.
    #[must_use]
    pub fn upstream(body: UpstreamBody) -> Self {
        Self {
            content: Content::Upstream(body),
            record: None,
        }
    }

    /// Completes this record when the body ends.
    #[must_use]
    pub fn recorded(mut self, record: Recorder) -> Self {
        self.record = Some(record);
        self
    }
}

impl Body for ResponseBody {
    type Data = Piece<Rc<InFlight>>;
    type Error = Failure;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Failure>>> {
        let this = self.get_mut();
        let body = match &mut this.content {
            Content::Empty => return Poll::Ready(None),
            Content::Full(bytes) => {
                let Some(bytes) = bytes.take() else {
                    return Poll::Ready(None);
                };
                if let Some(record) = &mut this.record {
                    record.moved(bytes.len());
                }
                return Poll::Ready(Some(Ok(Frame::data(Piece::free(bytes)))));
            }
            Content::Upstream(body) => body,
        };
        if let Some(record) = &this.record
            && let Some(reason) = record.poll_cut(context)
        {
            return Poll::Ready(Some(Err(this.fail(reason))));
        }
        if let Some(record) = &this.record {
            ready!(record.poll_room(context));
        }
        match Pin::new(body).poll_frame(context) {
            Poll::Pending => {
                if let Some(record) = &mut this.record {
                    record.waiting();
                }
                Poll::Pending
            }
            Poll::Ready(Some(Ok(mut frame))) => {
                let trailers = clean(&mut frame);
                if let Some(record) = &mut this.record {
                    record.moved(frame.data_ref().map_or(0, Buf::remaining));
                    if let Some(fields) = trailers {
                        record.running().answer(fields);
                    }
                }
                let frame = frame.map_data(|content| match &this.record {
                    Some(record) => record.running().piece(content),
                    None => Piece::free(content.bytes),
                });
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(failure))) => Poll::Ready(Some(Err(this.fail(failure)))),
            Poll::Ready(None) => {
                if let Some(record) = &mut this.record {
                    record.complete();
                }
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Full(bytes) => bytes.is_none(),
            Content::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Content::Upstream(body) => body.size_hint(),
        }
    }
}

impl ResponseBody {
    fn fail(&mut self, failure: Failure) -> Failure {
        if let Some(record) = &mut self.record {
            record.failed(failure);
        }
        failure
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let ended = self.is_end_stream();
        if let Some(record) = &mut self.record
            && ended
        {
            record.complete();
        }
    }
}
