//! Bodies on their way through the proxy.
//!
//! Frames pass untouched and only when the other side asks for them, so a slow
//! reader slows the writer down and memory stays constant.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::accept::connection::Connection;
use crate::failure::Failure;
use crate::http::trailers;
use crate::pipeline::inflight::{InFlight, Side};
use crate::pipeline::record::Recorder;
use crate::upstream::UpstreamBody;

/// The client's body, on its way to the upstream.
#[derive(Debug)]
pub struct RequestBody {
    inner: Incoming,
    request: Rc<InFlight>,
    connection: Rc<Connection>,
}

impl RequestBody {
    /// The body of a request that may be cut from outside.
    #[must_use]
    pub fn new(inner: Incoming, request: Rc<InFlight>, connection: Rc<Connection>) -> Self {
        let body = Self {
            inner,
            request,
            connection,
        };
        if body.inner.is_end_stream() {
            body.done();
        }
        body
    }

    fn done(&self) {
        self.request.request_done();
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let this = self.get_mut();
        if let Some(reason) = this.request.poll_cut(Side::Request, context) {
            return Poll::Ready(Some(Err(reason)));
        }
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(context));
        this.request.moved(this.connection.now());
        match frame {
            Some(Ok(mut frame)) => {
                if this.inner.is_end_stream() {
                    this.done();
                }
                clean(&mut frame);
                Poll::Ready(Some(Ok(frame)))
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

/// Trailers pass without what belongs into a head.
fn clean(frame: &mut Frame<Bytes>) {
    if let Some(trailers) = frame.trailers_mut() {
        trailers::sanitise(trailers);
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
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let this = self.get_mut();
        let body = match &mut this.content {
            Content::Empty => return Poll::Ready(None),
            Content::Full(bytes) => {
                let frame = bytes.take().map(|bytes| Ok(Frame::data(bytes)));
                if let (Some(record), Some(Ok(frame))) = (&mut this.record, &frame) {
                    record.moved(frame.data_ref().map_or(0, Bytes::len));
                }
                return Poll::Ready(frame);
            }
            Content::Upstream(body) => body,
        };
        if let Some(record) = &this.record
            && let Some(reason) = record.poll_cut(context)
        {
            return Poll::Ready(Some(Err(this.fail(reason))));
        }
        match Pin::new(body).poll_frame(context) {
            Poll::Pending => {
                if let Some(record) = &mut this.record {
                    record.waiting();
                }
                Poll::Pending
            }
            Poll::Ready(Some(Ok(mut frame))) => {
                clean(&mut frame);
                if let Some(record) = &mut this.record {
                    record.moved(frame.data_ref().map_or(0, Bytes::len));
                }
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
