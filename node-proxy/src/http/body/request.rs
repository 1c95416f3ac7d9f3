//! What is sent to an upstream.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use weft_wasm_host::Side;

use super::ClientBody;
use crate::accept::connection::Connection;
use crate::failure::Failure;
use crate::filter::drive::Drive;
use crate::memory::{Flow, Piece, unshared};
use crate::pipeline::inflight::{self, InFlight};

/// A request's body on its way to the upstream.
#[derive(Debug)]
pub struct RequestBody {
    source: Source,
    /// Where pieces wait in a queue of the upstream's, what waits.
    queue: Option<Arc<Flow>>,
}

#[derive(Debug)]
enum Source {
    /// The client, as it sends it.
    Client(ClientBody),
    /// The client, through filters.
    Filtered {
        /// It has the answer, and the answer's connection of HTTP/1 has this.
        drive: Weak<RefCell<Drive>>,
        /// A connection of HTTP/2 sends on beside the answer.
        _kept: Option<Rc<RefCell<Drive>>>,
        request: Rc<InFlight>,
    },
    /// A request of a filter's own.
    Own(Box<Own>),
}

#[derive(Debug)]
struct Own {
    body: Bytes,
    trailers: Option<HeaderMap>,
}

impl Own {
    fn next(&mut self) -> Option<Frame<Bytes>> {
        if self.body.is_empty() {
            self.trailers.take().map(Frame::trailers)
        } else {
            Some(Frame::data(std::mem::take(&mut self.body)))
        }
    }
}

impl RequestBody {
    /// What the client sends. `queued` says that the upstream queues its pieces
    /// as they are.
    #[must_use]
    pub fn client(body: ClientBody, queued: bool) -> Self {
        let queue = (queued && !body.is_end_stream()).then(|| queue(body.connection()));
        Self {
            source: Source::Client(body),
            queue,
        }
    }

    /// What filters make of what the client sends.
    #[must_use]
    pub fn filtered(
        drive: &Rc<RefCell<Drive>>,
        request: Rc<InFlight>,
        connection: &Connection,
        queued: bool,
    ) -> Self {
        let more = !drive.borrow().is_sent(Side::Request);
        Self {
            queue: (queued && more).then(|| queue(connection)),
            source: Source::Filtered {
                drive: Rc::downgrade(drive),
                _kept: queued.then(|| Rc::clone(drive)),
                request,
            },
        }
    }

    /// The body of a request of a filter's own.
    #[must_use]
    pub fn own(body: Bytes, trailers: HeaderMap) -> Self {
        Self {
            source: Source::Own(Box::new(Own {
                body,
                trailers: (!trailers.is_empty()).then_some(trailers),
            })),
            queue: None,
        }
    }

    /// A piece that is charged to its source where it may have to wait.
    fn piece(&self, data: Bytes) -> Piece<Arc<Flow>> {
        match &self.queue {
            Some(queue) => {
                let (data, memory) = unshared(data);
                Piece::new(data, memory, Arc::clone(queue))
            }
            None => Piece::free(data),
        }
    }
}

fn queue(connection: &Connection) -> Arc<Flow> {
    Arc::new(Flow::new(Arc::clone(connection.account())))
}

impl Body for RequestBody {
    type Data = Piece<Arc<Flow>>;
    type Error = Failure;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Failure>>> {
        let this = self.get_mut();
        let cut = match &this.source {
            Source::Client(body) => body.poll_cut(context),
            Source::Filtered { request, .. } => request.poll_cut(inflight::Side::Request, context),
            Source::Own(_) => None,
        };
        if let Some(reason) = cut {
            return Poll::Ready(Some(Err(reason)));
        }
        if let Some(queue) = &this.queue {
            ready!(queue.poll_room(context));
        }
        let frame = match &mut this.source {
            Source::Client(body) => ready!(body.poll_frame(context)),
            Source::Filtered { drive, .. } => {
                // Whoever the body is for has left.
                let Some(drive) = drive.upgrade() else {
                    return Poll::Ready(Some(Err(Failure::ClientGone)));
                };
                let frame = ready!(drive.borrow_mut().poll_body(Side::Request, context));
                frame.map(|frame| frame.map(|frame| frame.map_data(|content| content.bytes)))
            }
            Source::Own(own) => own.next().map(Ok),
        };
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(|data| this.piece(data)))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Client(body) => body.is_end_stream(),
            Source::Filtered { drive, .. } => drive
                .upgrade()
                .is_none_or(|drive| drive.borrow().is_sent(Side::Request)),
            Source::Own(own) => own.body.is_empty() && own.trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Client(body) => body.size_hint(),
            Source::Filtered { drive, .. } => {
                drive.upgrade().map_or_else(SizeHint::default, |drive| {
                    drive.borrow().size_hint(Side::Request)
                })
            }
            Source::Own(own) if own.trailers.is_none() => {
                SizeHint::with_exact(own.body.len() as u64)
            }
            Source::Own(_) => SizeHint::default(),
        }
    }
}
