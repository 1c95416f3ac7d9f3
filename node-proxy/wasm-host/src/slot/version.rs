//! A version of a filter on one worker: whether an instance of it may be made, and where.

use std::sync::Arc;
use std::time::Duration;

use super::health::Health;
use crate::fault::Fault;
use crate::filter::{Filter, INLINE_LIMIT, INLINE_START};
use crate::instance::Guest;
use crate::runtime::thread_time;

pub(super) struct Version {
    pub(super) filter: Arc<Filter>,
    pub(super) health: Health,
    /// An instance took longer than a worker has for it: they are made elsewhere.
    slow: bool,
}

impl Version {
    pub(super) fn new(filter: Arc<Filter>) -> Self {
        Self {
            filter,
            health: Health::default(),
            slow: false,
        }
    }

    pub(super) fn is(&self, filter: &Arc<Filter>) -> bool {
        Arc::ptr_eq(&self.filter, filter)
    }

    /// Whether an instance may be made now.
    pub(super) fn may_start(&self) -> bool {
        self.health.allows(self.filter.now())
    }

    /// Whether it may be made on this worker.
    pub(super) fn starts_here(&self) -> bool {
        !self.slow && self.filter.start_cost() <= INLINE_START && self.may_start()
    }

    /// Makes one here. What it takes is added to `spent`.
    pub(super) fn start(&mut self, spent: &mut Duration) -> Result<Box<dyn Guest>, Fault> {
        let start = thread_time();
        let limit = INLINE_LIMIT.min(self.filter.limits().start_deadline);
        let made = self.filter.instantiate_within(limit);
        *spent += thread_time().saturating_sub(start);
        made
    }

    /// One for all requests of the worker: of those that are ready, or a new one. None if it
    /// failed, or is to be made elsewhere.
    pub(super) fn start_for_all(&mut self, spent: &mut Duration) -> Option<Box<dyn Guest>> {
        if let Some(guest) = self.filter.take_ready() {
            return Some(guest);
        }
        match self.start(spent) {
            Ok(guest) => Some(guest),
            // It may well be made where there is more time.
            Err(Fault::Timeout { limit }) if limit < self.filter.limits().start_deadline => {
                self.slow = true;
                None
            }
            Err(fault) => {
                self.failed(fault);
                None
            }
        }
    }

    /// One for a single request.
    pub(super) fn start_for_one(&mut self, spent: &mut Duration) -> Result<Box<dyn Guest>, Fault> {
        if !self.may_start() {
            return Err(self.health.why());
        }
        let made = self.start(spent);
        match &made {
            Ok(_guest) => self.health.started(),
            // Somebody else's instance may make room at any moment.
            Err(Fault::NoRoom(_)) => {}
            Err(fault) => self.failed(fault.clone()),
        }
        made
    }

    /// None could be made.
    pub(super) fn failed(&mut self, fault: Fault) {
        self.health.failed(self.filter.now(), fault);
    }
}
