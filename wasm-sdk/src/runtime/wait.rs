//! What was asked of the host and has not come.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::exchange::Side;
use crate::sys::types::{FetchError, FetchResponse};

/// Where an answer is put for the one who waits for it.
pub(crate) struct Slot<T>(RefCell<(Option<T>, Option<Waker>)>);

impl<T> Slot<T> {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self(RefCell::new((None, None))))
    }

    pub(crate) fn put(&self, value: T) {
        let waker = {
            let mut inner = self.0.borrow_mut();
            inner.0 = Some(value);
            inner.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<T> {
        let mut inner = self.0.borrow_mut();
        match inner.0.take() {
            Some(value) => Poll::Ready(value),
            None => {
                inner.1 = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Something that the host will answer.
pub(crate) enum Wait {
    Fetch(Rc<Slot<Result<FetchResponse, FetchError>>>),
    Timer(Rc<Slot<()>>),
    /// Nobody's: a task was woken and is to be polled.
    Nudge,
}

/// With the number that the host gave it, and the message that it is about.
pub(crate) struct Asked {
    pub(crate) id: u64,
    pub(crate) side: Side,
    pub(crate) wait: Wait,
}
