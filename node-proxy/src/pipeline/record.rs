//! The records of one request: made at its decision, and completed by a guard
//! when its response ends, however it ends.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::inflight::Side;
use crate::accept::connection::Running;
use crate::accept::worker::Worker;
use crate::failure::Failure;
use crate::filter::drive::Drive;
use crate::telemetry::exchange::{End, Event, Exchange};

/// Completes an exchange's record when it is dropped, if not before.
#[derive(Debug)]
pub struct Recorder {
    worker: Rc<Worker>,
    running: Running,
    exchange: Arc<Exchange>,
    bytes: u64,
    answered: bool,
    failure: Option<Failure>,
    /// Knows what filters did.
    filters: Option<Rc<RefCell<Drive>>>,
    done: bool,
}

impl Recorder {
    /// Reports the decision on `exchange`; its end is reported by the guard.
    #[must_use]
    pub fn decided(worker: &Rc<Worker>, running: Running, exchange: Arc<Exchange>) -> Self {
        worker.records.push(Event::Decided(Arc::clone(&exchange)));
        Self {
            worker: Rc::clone(worker),
            running,
            exchange,
            bytes: 0,
            answered: false,
            failure: None,
            filters: None,
            done: false,
        }
    }

    /// The exchange meets filters: what they did is told with its end.
    #[must_use]
    pub fn filtered(mut self, filters: Rc<RefCell<Drive>>) -> Self {
        self.filters = Some(filters);
        self
    }

    /// The exchange.
    #[must_use]
    pub fn exchange(&self) -> &Arc<Exchange> {
        &self.exchange
    }

    /// What the sweeper sees of the request.
    #[must_use]
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Why the request must end, if it must.
    pub fn poll_cut(&self, context: &Context<'_>) -> Option<Failure> {
        self.running.request.poll_cut(Side::Response, context)
    }

    /// How many bytes of the response's body may follow now; if none, the task is
    /// woken when some may.
    pub fn poll_room(&self, context: &Context<'_>) -> Poll<usize> {
        self.running.poll_room(context)
    }

    /// A part of the response's body was handed on.
    pub fn moved(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.running.request.moved(self.worker.clock.now());
    }

    /// The body is not there at once: its response is reported now, since
    /// nobody knows how long it will take.
    pub fn waiting(&mut self) {
        if !self.answered && self.exchange.response.get().is_some() {
            self.answered = true;
            self.worker
                .records
                .push(Event::Answered(Arc::clone(&self.exchange)));
        }
    }

    /// The request failed with this, and is answered so.
    pub fn note(&mut self, failure: Failure) {
        self.failure = Some(failure);
    }

    /// The response ended as it should.
    pub fn complete(&mut self) {
        self.finish();
    }

    /// The response ended early.
    pub fn failed(&mut self, failure: Failure) {
        self.failure = Some(failure);
        self.finish();
    }

    fn finish(&mut self) {
        if self.done {
            return;
        }
        self.done = true;
        let end = End {
            duration: Instant::now().duration_since(self.exchange.started),
            response_bytes: self.bytes,
            failure: self.failure,
        };
        if let Some(filters) = self.filters.take()
            && let Ok(mut filters) = filters.try_borrow_mut()
        {
            if let Some(mark) = filters.mark() {
                let _first = self.exchange.filter.set(Box::new(mark.clone()));
            }
            let _first = self.exchange.runs.set(Box::new(filters.runs()));
        }
        // Set once, here; a second end would be a second record.
        if self.exchange.end.set(end).is_err() {
            return;
        }
        self.worker.records.push(Event::Ended {
            exchange: Arc::clone(&self.exchange),
            answer: !self.answered,
        });
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if !self.done {
            self.failure = Some(self.running.request.reason().unwrap_or(Failure::ClientGone));
            self.finish();
        }
    }
}
