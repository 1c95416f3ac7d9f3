//! A filter on one worker: its instance, those that are being replaced, and what becomes of a
//! request when one of them fails.

mod health;
mod lives;
mod version;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use self::lives::Live;
use self::version::Version;
use crate::exchange::Exchange;
use crate::fault::Fault;
use crate::filter::{Filter, Isolation};
use crate::instance::Guest;
use crate::module::Abi;
use crate::reload::Published;
use crate::types::{Command, ContextId, Event, Step};

/// An exchange in a filter on this worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    instance: u32,
    context: ContextId,
}

impl Ticket {
    /// The number that the filter knows the exchange by.
    #[must_use]
    pub const fn context(self) -> ContextId {
        self.context
    }

    /// Whether it means an instance itself: its own fetches and timers.
    #[must_use]
    pub fn is_instance(self) -> bool {
        self.context == ContextId::INSTANCE
    }
}

/// What came of an event.
#[derive(Debug)]
pub struct Outcome {
    /// What becomes of the message, or what went wrong: then the filter's policy decides.
    pub step: Result<Step, Fault>,
    /// How long it took, to be paid from the namespace's budget.
    pub spent: Duration,
    /// When, by the filter's clock.
    pub ended: u64,
    /// The filter has forgotten the exchange: closing it now costs nothing.
    pub over: bool,
}

impl Outcome {
    /// Nothing was called.
    #[must_use]
    pub const fn uncalled(fault: Fault, now: u64) -> Self {
        Self {
            step: Err(fault),
            spent: Duration::ZERO,
            ended: now,
            over: false,
        }
    }
}

/// Something that is to be done, besides the step.
#[derive(Debug)]
pub enum Effect {
    /// The filter asked for it.
    Command(Command),
    /// Its instance failed in another request's event: the filter's policy decides about this one.
    Failed(Fault),
}

/// A filter on one worker.
pub struct Slot {
    /// The version that new requests meet.
    version: Version,
    /// The one that is to come in its place, once an instance of it is there.
    coming: Option<Version>,
    current: Option<u32>,
    /// One or two, unless each request has its own.
    lives: BTreeMap<u32, Live>,
    next: u32,
    /// Exchanges that were in instances that failed.
    salvaged: HashMap<Ticket, Box<dyn Exchange>>,
    effects: Vec<(Ticket, Effect)>,
    scratch: Vec<(ContextId, Command)>,
    /// What was spent outside of events, and has not been told.
    spent: Duration,
}

impl Slot {
    /// A slot without an instance; the first request makes one, or [`Self::settle`] before it.
    #[must_use]
    pub fn new(filter: Arc<Filter>) -> Self {
        Self {
            version: Version::new(filter),
            coming: None,
            current: None,
            lives: BTreeMap::new(),
            next: 0,
            salvaged: HashMap::new(),
            effects: Vec::new(),
            scratch: Vec::new(),
            spent: Duration::ZERO,
        }
    }

    /// The filter that new requests meet.
    #[must_use]
    pub const fn filter(&self) -> &Arc<Filter> {
        &self.version.filter
    }

    /// The version of it that is to come in its place, once an instance of it is there.
    #[must_use]
    pub fn coming(&self) -> Option<&Arc<Filter>> {
        self.coming.as_ref().map(|version| &version.filter)
    }

    /// Requests that are in it, also in older versions of it.
    #[must_use]
    pub fn contexts(&self) -> usize {
        let requests = |live: &Live| live.guest.contexts() - live.guest.lingering();
        self.lives.values().map(requests).sum()
    }

    /// Instances that are there.
    #[must_use]
    pub fn instances(&self) -> usize {
        self.lives.len()
    }

    /// Bytes of memory of all of them.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.lives.values().map(|live| live.guest.memory()).sum()
    }

    /// Takes over what is in force now. Requests that are in the old version stay there.
    pub fn refresh(&mut self, published: &Published) {
        let newest = self.coming().unwrap_or_else(|| self.filter());
        if !published.is_current(newest)
            && let Some(filter) = published.current()
        {
            self.replace(filter);
        }
    }

    /// New requests meet `filter` as soon as there is an instance of it: at once if it is quickly
    /// made, else when it is brought with [`Self::install`]. Until then they meet the old one, also
    /// when the new one fails to start. Requests that are in the old one stay there until they are
    /// over.
    pub fn replace(&mut self, filter: Arc<Filter>) {
        self.coming = match self.version.is(&filter) {
            true => None,
            false => Some(Version::new(filter)),
        };
        self.settle();
    }

    /// Makes an instance if one is wanted and it is quickly made.
    pub fn settle(&mut self) {
        if self.coming.as_ref().is_some_and(Version::starts_here)
            && let Some(mut coming) = self.coming.take()
        {
            match coming.start_for_all(&mut self.spent) {
                Some(guest) => self.adopt(coming, guest),
                None => self.coming = Some(coming),
            }
        }
        if self.lacks_instance()
            && self.version.starts_here()
            && let Some(guest) = self.version.start_for_all(&mut self.spent)
        {
            self.put(guest);
        }
    }

    /// A filter of which an instance is wanted. Where [`Self::settle`] does not make it, it is to be
    /// made elsewhere and brought with [`Self::install`].
    #[must_use]
    pub fn wanted(&self) -> Option<Arc<Filter>> {
        let own = self.lacks_instance().then_some(&self.version);
        let mut versions = self.coming.iter().chain(own);
        let wanted = versions.find(|version| version.may_start())?;
        Some(Arc::clone(&wanted.filter))
    }

    /// Takes an instance that was made elsewhere, or hears that none could be made. One of another
    /// version, or one too many, is thrown away.
    pub fn install(&mut self, filter: &Arc<Filter>, made: Result<Box<dyn Guest>, Fault>) {
        if let Some(mut coming) = self.coming.take_if(|coming| coming.is(filter)) {
            match made {
                Ok(guest) => self.adopt(coming, guest),
                Err(fault) => {
                    coming.failed(fault);
                    self.coming = Some(coming);
                }
            }
        } else if self.version.is(filter) && self.lacks_instance() {
            match made {
                Ok(guest) => self.put(guest),
                Err(fault) => self.version.failed(fault),
            }
        }
    }

    /// A new request.
    ///
    /// # Errors
    /// [`Fault::Down`] while there is no instance; otherwise what its code did. The filter's policy
    /// decides.
    pub fn open(&mut self) -> Result<Ticket, Fault> {
        self.settle();
        let instance = match self.version.filter.isolation() {
            Isolation::Request => self.own_instance()?,
            Isolation::Worker => self.current.ok_or_else(|| self.version.health.why())?,
        };
        let Some(live) = self.lives.get_mut(&instance) else {
            return Err(self.version.health.why());
        };
        // A component does not hear of it before its first event.
        let hears = live.filter.module().abi() != Abi::Weft;
        let start = hears.then(|| live.begin());
        let opened = live.guest.open();
        self.spent += start.map_or(Duration::ZERO, |start| live.spent(start));
        match opened {
            Ok(context) => {
                self.collect(instance);
                Ok(Ticket { instance, context })
            }
            Err(fault) => {
                self.failed(instance, None, &fault);
                Err(fault)
            }
        }
    }

    /// Hands the exchange over, for as long as the filter is to see it.
    pub fn lend(&mut self, ticket: Ticket, exchange: Box<dyn Exchange>) {
        match self.lives.get_mut(&ticket.instance) {
            Some(live) => live.guest.lend(ticket.context, exchange),
            None => {
                self.salvaged.insert(ticket, exchange);
            }
        }
    }

    /// Takes it back, also from an instance that has failed.
    pub fn reclaim(&mut self, ticket: Ticket) -> Option<Box<dyn Exchange>> {
        match self.lives.get_mut(&ticket.instance) {
            Some(live) => live.guest.reclaim(ticket.context),
            None => self.salvaged.remove(&ticket),
        }
    }

    /// Tells the filter what happened.
    pub fn on_event(&mut self, ticket: Ticket, event: Event) -> Outcome {
        let start = self.filter().now();
        self.on_event_since(start, ticket, event)
    }

    /// The same where somebody has just read the filter's clock: the call begins then.
    pub fn on_event_since(&mut self, start: u64, ticket: Ticket, event: Event) -> Outcome {
        let Some(live) = self.lives.get_mut(&ticket.instance) else {
            return Outcome::uncalled(self.version.health.why(), start);
        };
        live.guest.begins_at(start);
        let step = live.guest.on_event(ticket.context, event);
        let ended = live.filter.now();
        let passed = Duration::from_nanos(ended.saturating_sub(start));
        let spent = live.guest.used(passed);
        // Only what it lets pass ends so: a reply is still to be given.
        let over = matches!(step, Ok(Step::Pass))
            && !ticket.is_instance()
            && live.guest.is_over(ticket.context);
        live.served |= step.is_ok();
        match &step {
            Ok(_) => self.collect(ticket.instance),
            Err(fault) => {
                let fault = fault.clone();
                self.failed(ticket.instance, Some(ticket.context), &fault);
            }
        }
        Outcome {
            step,
            spent,
            ended,
            over,
        }
    }

    /// The exchange is over. What was lent comes back.
    pub fn close(&mut self, ticket: Ticket) -> Option<Box<dyn Exchange>> {
        let Some(live) = self.lives.get_mut(&ticket.instance) else {
            return self.salvaged.remove(&ticket);
        };
        let is_called = !live.guest.is_over(ticket.context);
        let start = is_called.then(|| live.begin());
        let (exchange, closed) = live.guest.close(ticket.context);
        self.spent += start.map_or(Duration::ZERO, |start| live.spent(start));
        if is_called {
            self.collect(ticket.instance);
        }
        match closed {
            Ok(()) => self.drop_idle(ticket.instance),
            Err(fault) => self.failed(ticket.instance, None, &fault),
        }
        exchange
    }

    /// Looks after what no event announces, and ends what a filter does not let go. To be called now
    /// and then.
    pub fn poll(&mut self) {
        self.settle();
        self.sweep();
        if let Some(current) = self.current
            && let Some(live) = self.lives.get_mut(&current)
        {
            let start = live.begin();
            let polled = live.guest.poll();
            self.spent += live.spent(start);
            match polled {
                Ok(()) => self.collect(current),
                Err(fault) => self.failed(current, None, &fault),
            }
        }
    }

    /// How long everything else took since the last call: instances that were made here, and what
    /// requests that began or ended and [`Self::poll`] led to. To be paid as [`Outcome::spent`] is.
    pub const fn take_spent(&mut self) -> Duration {
        std::mem::replace(&mut self.spent, Duration::ZERO)
    }

    /// What is to be done since the last call, in its order.
    pub fn effects(&mut self) -> std::vec::Drain<'_, (Ticket, Effect)> {
        self.effects.drain(..)
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot")
            .field("filter", self.filter())
            .field("instances", &self.lives.len())
            .finish_non_exhaustive()
    }
}
