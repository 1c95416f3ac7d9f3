//! One direction of an exchange as a future, and how it is woken.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use super::exchange::Side;
use crate::Error;
use crate::filter::Flow;

thread_local! {
    /// The task that is being polled.
    static POLLING: Cell<Option<(u64, Side)>> = const { Cell::new(None) };
    /// Tasks that were woken while another one was polled.
    static WOKEN: RefCell<Vec<Arc<Flag>>> = const { RefCell::new(Vec::new()) };
    /// One that a task has left behind, for the next task.
    static SPARE: Cell<Option<Arc<Flag>>> = const { Cell::new(None) };
}

/// A task that wakes itself over and over lets the host in between, whose deadlines hold.
const ROUNDS: usize = 64;

pub(crate) struct Task {
    future: Pin<Box<dyn Future<Output = Result<Flow, Error>>>>,
    flag: Arc<Flag>,
    waker: Waker,
}

/// Whether a task has been woken since it was last polled.
pub(crate) struct Flag {
    ctx: u64,
    side: Side,
    woken: AtomicBool,
}

impl Flag {
    fn new(ctx: u64, side: Side) -> Arc<Self> {
        let new = Self {
            ctx,
            side,
            woken: AtomicBool::new(false),
        };
        if let Some(mut spare) = SPARE.take()
            && let Some(flag) = Arc::get_mut(&mut spare)
        {
            *flag = new;
            return spare;
        }
        Arc::new(new)
    }

    /// The exchange, and the message in it.
    pub(crate) const fn of(&self) -> (u64, Side) {
        (self.ctx, self.side)
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        if self.woken.swap(true, Ordering::Relaxed) {
            return;
        }
        // The one that is being polled looks at its flag itself.
        if POLLING.get() != Some((self.ctx, self.side)) {
            WOKEN.with(|woken| woken.borrow_mut().push(self));
        }
    }
}

impl Task {
    pub(crate) fn new(
        ctx: u64,
        side: Side,
        future: impl Future<Output = Result<Flow, Error>> + 'static,
    ) -> Self {
        let flag = Flag::new(ctx, side);
        Self {
            future: Box::pin(future),
            waker: Waker::from(flag.clone()),
            flag,
        }
    }

    /// It is over.
    pub(crate) fn end(self) {
        let Self {
            future,
            flag,
            waker,
        } = self;
        drop(future);
        // Before: the flag is used again only where nobody else has it.
        drop(waker);
        SPARE.set(Some(flag));
    }

    /// Polls it; `before` is called before each round.
    pub(crate) fn poll(&mut self, mut before: impl FnMut()) -> Poll<Result<Flow, Error>> {
        let _polling = Polling::enter(self.flag.ctx, self.flag.side);
        for _ in 0..ROUNDS {
            self.flag.woken.store(false, Ordering::Relaxed);
            before();
            let polled = self
                .future
                .as_mut()
                .poll(&mut Context::from_waker(&self.waker));
            if polled.is_ready() || !self.flag.woken.load(Ordering::Relaxed) {
                return polled;
            }
        }
        WOKEN.with(|woken| woken.borrow_mut().push(self.flag.clone()));
        Poll::Pending
    }
}

/// Remembers who is polled, and puts back who was before.
struct Polling(Option<(u64, Side)>);

impl Polling {
    fn enter(ctx: u64, side: Side) -> Self {
        Self(POLLING.replace(Some((ctx, side))))
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        POLLING.set(self.0);
    }
}

/// The side for which something is asked of the host now, in this context.
pub(crate) fn polled_side(ctx: u64) -> Side {
    match POLLING.get() {
        Some((polled, side)) if polled == ctx => side,
        _ => Side::Request,
    }
}

/// Tasks that are to be taken the next time.
pub(crate) fn wake_later(mut flags: Vec<Arc<Flag>>) {
    if !flags.is_empty() {
        WOKEN.with(|woken| woken.borrow_mut().append(&mut flags));
    }
}

/// Tasks that were woken and not polled since.
pub(crate) fn take_woken() -> Vec<Arc<Flag>> {
    let woken = WOKEN.with(|woken| {
        let mut woken = woken.borrow_mut();
        if woken.is_empty() {
            return Vec::new();
        }
        std::mem::take(&mut *woken)
    });
    woken
        .into_iter()
        .filter(|flag| flag.woken.load(Ordering::Relaxed))
        .collect()
}
