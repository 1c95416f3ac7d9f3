//! What a client reads.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use weft_wasm_host::Side;

use super::clean;
use crate::failure::Failure;
use crate::filter::drive::Drive;
use crate::memory::Piece;
use crate::pipeline::inflight::InFlight;
use crate::pipeline::record::Recorder;
use crate::upstream::{Content as Pieces, UpstreamBody};

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
    /// An answer of whoever's, through filters.
    Filtered(Rc<RefCell<Drive>>),
}

impl Content {
    /// The next frame of what is not there as a whole.
    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Pieces>, Failure>>> {
        match self {
            Self::Empty | Self::Full(_) => Poll::Ready(None),
            Self::Upstream(body) => Pin::new(body).poll_frame(context),
            Self::Filtered(drive) => {
                Drive::send_on(drive, context);
                drive.borrow_mut().poll_body(Side::Response, context)
            }
        }
    }
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

    /// All of it, where it is there as a whole.
    #[must_use]
    pub fn into_full(self) -> Bytes {
        let mut this = self;
        match &mut this.content {
            Content::Full(bytes) => bytes.take().unwrap_or_default(),
            Content::Empty | Content::Upstream(_) | Content::Filtered(_) => Bytes::new(),
        }
    }

    /// What filters make of an answer.
    #[must_use]
    pub fn filtered(drive: Rc<RefCell<Drive>>) -> Self {
        Self {
            content: Content::Filtered(drive),
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
        match &mut this.content {
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
            Content::Upstream(_) | Content::Filtered(_) => {}
        }
        if let Some(record) = &this.record
            && let Some(reason) = record.poll_cut(context)
        {
            return Poll::Ready(Some(Err(this.fail(reason))));
        }
        if let Some(record) = &this.record {
            ready!(record.poll_room(context));
        }
        match this.content.poll_frame(context) {
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
            Content::Filtered(drive) => drive.borrow().is_sent(Side::Response),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Content::Upstream(body) => body.size_hint(),
            Content::Filtered(drive) => drive.borrow().size_hint(Side::Response),
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
