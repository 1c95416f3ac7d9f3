//! The instances that a slot has: how they come, and how they go.

use std::sync::Arc;
use std::time::Duration;

use super::version::Version;
use super::{Effect, Slot, Ticket};
use crate::fault::Fault;
use crate::filter::{Filter, Isolation};
use crate::instance::Guest;
use crate::runtime::thread_time;
use crate::shared::instances::Permit;
use crate::types::ContextId;

pub(super) struct Live {
    pub(super) filter: Arc<Filter>,
    pub(super) guest: Box<dyn Guest>,
    started: u64,
    /// It has dealt with something.
    pub(super) served: bool,
    /// Of an instance that one request has for itself.
    _permit: Option<Permit>,
}

impl Live {
    /// A call begins. Returns when, by the clock of the filter.
    pub(super) fn begin(&mut self) -> u64 {
        let now = self.filter.now();
        self.guest.begins_at(now);
        now
    }

    /// CPU time of a call that began then, by the clock of the filter.
    pub(super) fn spent(&self, start: u64) -> Duration {
        let passed = self.filter.now().saturating_sub(start);
        self.guest.used(Duration::from_nanos(passed))
    }
}

impl Slot {
    /// Whether there is no instance for all requests of the worker, where there should be one.
    pub(super) fn lacks_instance(&self) -> bool {
        self.current.is_none() && self.version.filter.isolation() == Isolation::Worker
    }

    /// New requests meet this version from now on.
    pub(super) fn adopt(&mut self, version: Version, guest: Box<dyn Guest>) {
        let old = self.current.take();
        self.version = version;
        // Where each request has its own, this one has only shown that it starts.
        if self.lacks_instance() {
            self.put(guest);
        }
        if let Some(old) = old {
            self.drop_idle(old);
        }
    }

    /// Makes it the instance of all requests.
    pub(super) fn put(&mut self, guest: Box<dyn Guest>) {
        let number = self.add(guest, None);
        self.current = Some(number);
        self.collect(number);
    }

    /// An instance for one request.
    pub(super) fn own_instance(&mut self) -> Result<u32, Fault> {
        let permit = match self.version.filter.permit() {
            Err(_full) if self.drop_lingering() => self.version.filter.permit(),
            permit => permit,
        }?;
        let guest = self.version.start_for_one(&mut self.spent)?;
        Ok(self.add(guest, Some(permit)))
    }

    fn add(&mut self, guest: Box<dyn Guest>, permit: Option<Permit>) -> u32 {
        while self.lives.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let filter = Arc::clone(&self.version.filter);
        let live = Live {
            started: filter.now(),
            served: false,
            filter,
            guest,
            _permit: permit,
        };
        self.lives.insert(number, live);
        number
    }

    pub(super) fn collect(&mut self, instance: u32) {
        let Some(live) = self.lives.get_mut(&instance) else {
            return;
        };
        live.guest.commands(&mut self.scratch);
        if !self.scratch.is_empty() {
            self.tell(instance);
        }
    }

    fn tell(&mut self, instance: u32) {
        let commands = self.scratch.drain(..).map(|(context, command)| {
            let ticket = Ticket { instance, context };
            (ticket, Effect::Command(command))
        });
        self.effects.extend(commands);
    }

    /// Ends exchanges that have been over for long and that their filter does not let go.
    pub(super) fn sweep(&mut self) {
        let lingering = self
            .lives
            .iter()
            .filter(|(_, live)| live.guest.lingering() > 0);
        let lingering: Vec<u32> = lingering.map(|(number, _)| *number).collect();
        for number in lingering {
            let Some(live) = self.lives.get_mut(&number) else {
                continue;
            };
            // Of many calls.
            let start = thread_time();
            let swept = live.guest.sweep();
            self.spent += thread_time().saturating_sub(start);
            self.collect(number);
            match swept {
                Ok(()) => self.drop_idle(number),
                Err(fault) => self.failed(number, None, &fault),
            }
        }
    }

    /// Makes room: an instance goes in which all exchanges are over, whatever its filter says. The
    /// oldest first.
    fn drop_lingering(&mut self) -> bool {
        let over = self.lives.iter().filter(|(number, live)| {
            self.current != Some(**number) && live.guest.contexts() == live.guest.lingering()
        });
        let oldest = over.min_by_key(|(_, live)| live.started);
        let oldest = oldest.map(|(number, _)| *number);
        if let Some(number) = oldest
            && let Some(live) = self.lives.remove(&number)
        {
            self.retire(number, live);
        }
        oldest.is_some()
    }

    /// Nobody is in it any more, and nobody will be.
    pub(super) fn drop_idle(&mut self, instance: u32) {
        let idle = self
            .lives
            .get(&instance)
            .is_some_and(|live| live.guest.contexts() == 0);
        if idle
            && self.current != Some(instance)
            && let Some(live) = self.lives.remove(&instance)
        {
            self.retire(instance, live);
        }
    }

    /// It is gone; what it waited for is cancelled. Returns who was in it, with what was lent kept
    /// for them.
    fn retire(&mut self, instance: u32, live: Live) -> Vec<Ticket> {
        let start = thread_time();
        let inside = live.guest.retire(&mut self.scratch);
        self.spent += thread_time().saturating_sub(start);
        self.tell(instance);
        let mut tickets = Vec::with_capacity(inside.len());
        for (context, exchange) in inside {
            let ticket = Ticket { instance, context };
            if let Some(exchange) = exchange {
                self.salvaged.insert(ticket, exchange);
            }
            tickets.push(ticket);
        }
        tickets
    }

    /// An instance failed. If it must not be called again it goes, and everybody who was in it
    /// hears of it, but for who was in the call.
    pub(super) fn failed(&mut self, instance: u32, caller: Option<ContextId>, fault: &Fault) {
        if !fault.is_fatal() {
            self.collect(instance);
            self.drop_idle(instance);
            return;
        }
        let Some(live) = self.lives.remove(&instance) else {
            return;
        };
        let of_current_version = self.version.is(&live.filter);
        let (started, served) = (live.started, live.served);
        for ticket in self.retire(instance, live) {
            if Some(ticket.context) != caller {
                self.effects.push((ticket, Effect::Failed(fault.clone())));
            }
        }
        if self.current == Some(instance) {
            self.current = None;
        }
        if of_current_version && self.version.filter.isolation() == Isolation::Worker {
            let now = self.version.filter.now();
            self.version
                .health
                .trapped(started, served, now, fault.clone());
            self.settle();
        }
    }
}
