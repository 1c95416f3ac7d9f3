//! Where an answer comes from, before filters have seen it.

use std::pin::Pin;
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
}

impl AnswerBody {
    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Own(bytes) => bytes.is_empty(),
            Self::Upstream(body) => body.is_end_stream(),
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Upstream(body) => body.size_hint(),
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
            Self::Upstream(body) => Pin::new(body).poll_frame(context),
        }
    }
}
