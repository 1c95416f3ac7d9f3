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
use crate::memory::{Held, Piece};
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
    /// Of a piece that was larger than what may follow at once, and the memory
    /// that it keeps.
    rest: Option<(Pieces, Held)>,
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
    /// Whether it is the proxy's own words, which are also said of a request that
    /// was cut.
    const fn is_own(&self) -> bool {
        matches!(self, Self::Empty | Self::Full(_))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Upstream(body) => body.size_hint(),
            Self::Filtered(drive) => drive.borrow().size_hint(Side::Response),
        }
    }

    /// The next frame.
    fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Pieces>, Failure>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| {
                let own = bytes.len();
                Ok(Frame::data(Pieces::alone(bytes, own)))
            })),
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
            rest: None,
            record: None,
        }
    }

    /// These bytes.
    #[must_use]
    pub fn full(bytes: Bytes) -> Self {
        Self {
            content: Content::Full(Some(bytes)),
            rest: None,
            record: None,
        }
    }

    /// What the upstream sends.
    #[must_use]
    pub fn upstream(body: UpstreamBody) -> Self {
        Self {
            content: Content::Upstream(body),
            rest: None,
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
            rest: None,
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
        if let Some(record) = &this.record
            && !this.content.is_own()
            && let Some(reason) = record.poll_cut(context)
        {
            return Poll::Ready(Some(Err(this.fail(reason))));
        }
        let room = match &this.record {
            Some(record) => ready!(record.poll_room(context)),
            None => usize::MAX,
        };
        match this.poll_next(context) {
            Poll::Pending => {
                if let Some(record) = &mut this.record {
                    record.waiting();
                }
                Poll::Pending
            }
            Poll::Ready(Some(Ok(mut frame))) => {
                let trailers = clean(&mut frame);
                let frame = frame.map_data(|content| this.piece(content, room));
                if let Some(record) = &mut this.record {
                    record.moved(frame.data_ref().map_or(0, Buf::remaining));
                    if let Some(fields) = trailers {
                        record.running().answer(fields);
                    }
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
        if self.rest.is_some() {
            return false;
        }
        match &self.content {
            Content::Empty => true,
            Content::Full(bytes) => bytes.is_none(),
            Content::Upstream(body) => body.is_end_stream(),
            Content::Filtered(drive) => drive.borrow().is_sent(Side::Response),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.as_ref();
        let rest = rest.map_or(0, |(rest, _held)| rest.bytes.len() as u64);
        self.content.size_hint() + SizeHint::with_exact(rest)
    }
}

impl ResponseBody {
    /// The next frame, however large.
    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Pieces>, Failure>>> {
        match self.rest.take() {
            Some((rest, _held)) => Poll::Ready(Some(Ok(Frame::data(rest)))),
            None => self.content.poll_frame(context),
        }
    }

    /// As much of it as there is room for. The rest comes next.
    fn piece(&mut self, mut content: Pieces, room: usize) -> Piece<Rc<InFlight>> {
        let Some(record) = &self.record else {
            return Piece::free(content.bytes);
        };
        if content.bytes.len() > room {
            let memory = content.own.max(content.shared);
            let rest = content.split_off(room);
            self.rest = Some((rest, record.running().hold(memory)));
        }
        record.running().piece(content)
    }

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
