//! Where an answer comes from, before filters have seen it.

use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::failure::Failure;
use crate::upstream::{Content, UpstreamBody};

/// Where an answer comes from.
#[derive(Debug)]
pub enum AnswerBody {
    /// There is none.
    Empty,
    /// An answer of the proxy's or of a filter's.
    Own(Bytes),
    /// The upstream.
    Upstream(UpstreamBody),
    /// The request failed while it was answered already.
    Failed(Failure),
}

impl AnswerBody {
    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Own(bytes) => bytes.is_empty(),
            Self::Upstream(body) => body.is_end_stream(),
            Self::Failed(_) => false,
        }
    }

    /// Bytes of it that are here.
    pub(super) fn kept(&self) -> usize {
        match self {
            Self::Own(bytes) => bytes.len(),
            Self::Empty | Self::Upstream(_) | Self::Failed(_) => 0,
        }
    }

    /// Goes on sending the request that it answers. That asks whoever has the
    /// request for its body, and must not find this in anybody's hands.
    pub(super) fn send_on(self, context: &mut Context<'_>) -> Self {
        let Self::Upstream(mut body) = self else {
            return self;
        };
        match body.poll_sending(context) {
            Ok(()) => Self::Upstream(body),
            Err(failure) => Self::Failed(failure),
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Upstream(body) => body.size_hint(),
            Self::Failed(_) => SizeHint::default(),
        }
    }

    pub(super) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Content>, Failure>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Own(bytes) => {
                let bytes = std::mem::take(bytes);
                let length = bytes.len();
                Poll::Ready((length > 0).then(|| Ok(Frame::data(Content::alone(bytes, length)))))
            }
            Self::Upstream(body) => body.poll_received(context),
            Self::Failed(failure) => {
                let failure = *failure;
                *self = Self::Empty;
                Poll::Ready(Some(Err(failure)))
            }
        }
    }
}
