//! One request that is being served, as the worker's sweeper sees it.
//!
//! Deadlines and revoked policies end requests from outside: the sweeper sets
//! the reason and wakes the tasks that poll them. A request pays for this with
//! one `Cell` read a poll, not with a timer of its own.

use std::cell::{Cell, OnceCell, RefCell};
use std::sync::Arc;
use std::task::{Context, Waker};

use crate::accept::clock::Tick;
use crate::failure::Failure;
use crate::memory::{Account, Flow, Owner, SMALL};
use crate::telemetry::exchange::Exchange;

/// Shared by a request's future, its two bodies and the sweeper of its worker.
#[derive(Debug)]
pub struct InFlight {
    cut: Cell<Option<Failure>>,
    /// Woken when the request is cut: the task that polls the response, and
    /// the one that polls the request's body (another one with HTTP/2
    /// upstreams).
    response_task: RefCell<Option<Waker>>,
    request_task: RefCell<Option<Waker>>,
    started: Tick,
    /// Last time that a byte of either body moved.
    progress: Cell<Tick>,
    answered: Cell<bool>,
    request_done: Cell<bool>,
    /// Set with the decision, so that a new snapshot can judge it again.
    exchange: OnceCell<Arc<Exchange>>,
    /// Ticks that it went on after it was cut.
    lingering: Cell<u64>,
    /// Whoever reads its body has read what there was, or nobody reads it.
    drained: Cell<bool>,
    /// What it makes the proxy hold beside bodies.
    memory: Cell<usize>,
    /// What the fields of its answer take.
    answer: Cell<usize>,
    /// The largest buffer that pieces of its response share.
    shared: Cell<usize>,
    /// Pieces of its response that wait to be sent.
    response: Flow,
}

/// Which of the two bodies a waker belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// From the client to the upstream.
    Request,
    /// From the upstream to the client; also the future before the head.
    Response,
}

impl InFlight {
    /// A request that starts now and takes so many bytes of its source's
    /// memory.
    #[must_use]
    pub fn new(now: Tick, account: Arc<Account>, memory: usize) -> Self {
        account.take(memory);
        Self {
            cut: Cell::new(None),
            response_task: RefCell::new(None),
            request_task: RefCell::new(None),
            started: now,
            progress: Cell::new(now),
            answered: Cell::new(false),
            request_done: Cell::new(false),
            exchange: OnceCell::new(),
            lingering: Cell::new(0),
            drained: Cell::new(true),
            memory: Cell::new(memory),
            answer: Cell::new(0),
            shared: Cell::new(0),
            response: Flow::new(account),
        }
    }

    /// So many bytes more are held for it, to its end.
    pub fn grow(&self, bytes: usize) {
        self.memory.set(self.memory.get() + bytes);
        self.response.account().take(bytes);
    }

    /// What it makes the proxy hold beside bodies.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.memory.get()
    }

    /// Fields of its answer take so much.
    pub fn answers(&self, memory: usize) {
        self.answer.set(self.answer.get() + memory);
        self.grow(memory);
    }

    /// What the fields of its answer take.
    #[must_use]
    pub fn answer(&self) -> usize {
        self.answer.get()
    }

    /// A piece of its response shares a buffer of this size with others. The
    /// first and the last that wait may keep one each for a few bytes.
    pub fn keeps(&self, buffer: usize) {
        let before = self.shared.get().max(SMALL);
        if buffer > before {
            self.shared.set(buffer);
            self.grow(2 * (buffer - before));
        }
    }

    /// Whether whoever reads the request's body has read what there was, or
    /// nobody does.
    pub fn drained(&self, drained: bool) {
        self.drained.set(drained);
    }

    /// Whether nothing of the request's body waits to be read, but for what
    /// came just now.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.drained.get() || self.request_done.get()
    }

    /// What was decided on; the first decision counts.
    pub fn decided(&self, exchange: Arc<Exchange>) {
        let _already = self.exchange.set(exchange);
    }

    /// What was decided on, once it was.
    #[must_use]
    pub fn exchange(&self) -> Option<&Arc<Exchange>> {
        self.exchange.get()
    }

    /// Why the request must end, or `None` while it may go on. When it may,
    /// the caller's task is woken as soon as that changes.
    pub fn poll_cut(&self, side: Side, context: &Context<'_>) -> Option<Failure> {
        let cut = self.cut.get();
        if cut.is_none() {
            let mut slot = match side {
                Side::Request => self.request_task.borrow_mut(),
                Side::Response => self.response_task.borrow_mut(),
            };
            match &mut *slot {
                Some(waker) => waker.clone_from(context.waker()),
                empty => *empty = Some(context.waker().clone()),
            }
        }
        cut
    }

    /// Ends the request with this reason; the first reason counts.
    pub fn cut(&self, reason: Failure) {
        if self.cut.get().is_some() {
            return;
        }
        self.cut.set(Some(reason));
        for slot in [&self.response_task, &self.request_task] {
            if let Some(waker) = slot.borrow_mut().take() {
                waker.wake();
            }
        }
    }

    /// The reason it was cut for, if it was.
    #[must_use]
    pub fn reason(&self) -> Option<Failure> {
        self.cut.get()
    }

    /// Another tick has come, and it is still there: for how many since it was
    /// cut. A client that takes nothing more keeps the server from asking the
    /// body, and so from learning of the cut.
    pub fn lingers(&self) -> u64 {
        if self.cut.get().is_some() {
            self.lingering.set(self.lingering.get() + 1);
        }
        self.lingering.get()
    }

    /// A part of a body moved.
    pub fn moved(&self, now: Tick) {
        self.progress.set(now);
    }

    /// The head of the response is there.
    pub fn answered(&self, now: Tick) {
        self.answered.set(true);
        self.progress.set(now);
    }

    /// Whether the head of the response is there.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.answered.get()
    }

    /// The request's body was read to its end.
    pub fn request_done(&self) {
        self.request_done.set(true);
    }

    /// Which deadline has passed at `now`, if any. Durations are in ticks.
    #[must_use]
    pub fn overdue(&self, now: Tick, limits: RequestLimits) -> Option<Failure> {
        if now.since(self.progress.get()) > limits.body_idle
            && (self.answered.get() || !self.request_done.get())
        {
            return Some(if self.request_done.get() {
                Failure::BodyIdle
            } else {
                Failure::RequestTooSlow
            });
        }
        if !self.answered.get() && now.since(self.started) > limits.request {
            return Some(Failure::UpstreamTimeout);
        }
        None
    }
}

impl Owner for InFlight {
    fn flow(&self) -> &Flow {
        &self.response
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.response.account().give(self.memory.get());
    }
}

/// Deadlines of one request, in ticks of the worker's coarse clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// From the request's head to the response's head.
    pub request: u64,
    /// Longest time without a byte of either body.
    pub body_idle: u64,
}

#[cfg(test)]
mod tests {
    use super::{InFlight, RequestLimits};
    use crate::accept::clock::Tick;
    use crate::failure::Failure;
    use crate::memory::Account;

    fn begun() -> InFlight {
        InFlight::new(Tick(0), Account::unbounded(), 0)
    }

    const LIMITS: RequestLimits = RequestLimits {
        request: 10,
        body_idle: 5,
    };

    #[test]
    fn waits_for_the_head_as_long_as_the_request_timeout() {
        let request = begun();
        request.request_done();
        assert_eq!(request.overdue(Tick(10), LIMITS), None);
        assert_eq!(
            request.overdue(Tick(11), LIMITS),
            Some(Failure::UpstreamTimeout)
        );
    }

    #[test]
    fn a_body_that_stands_still_names_the_side_that_stands_still() {
        let request = begun();
        assert_eq!(
            request.overdue(Tick(6), LIMITS),
            Some(Failure::RequestTooSlow)
        );
        request.moved(Tick(4));
        assert_eq!(request.overdue(Tick(6), LIMITS), None);
        request.request_done();
        request.answered(Tick(6));
        assert_eq!(request.overdue(Tick(11), LIMITS), None);
        assert_eq!(request.overdue(Tick(12), LIMITS), Some(Failure::BodyIdle));
    }

    #[test]
    fn an_answered_stream_has_no_total_deadline() {
        let request = begun();
        request.request_done();
        request.answered(Tick(1));
        request.moved(Tick(1_000));
        assert_eq!(request.overdue(Tick(1_003), LIMITS), None);
    }

    #[test]
    fn the_first_reason_counts() {
        let request = begun();
        request.cut(Failure::Revoked);
        request.cut(Failure::BodyIdle);
        assert_eq!(request.reason(), Some(Failure::Revoked));
    }
}
