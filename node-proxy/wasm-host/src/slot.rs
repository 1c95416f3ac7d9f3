//! A filter on one worker: its instance, those that are being replaced, and what becomes of a
//! request when one of them fails.

mod health;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use self::health::Health;
use crate::exchange::Exchange;
use crate::fault::Fault;
use crate::filter::{Filter, Isolation};
use crate::instance::Guest;
use crate::reload::Published;
use crate::types::{Command, ContextId, Event, Step};

/// An instance that takes longer than this to start is not made on a worker.
pub const INLINE_START: Duration = Duration::from_millis(2);

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
}

/// Something that is to be done, besides the step.
#[derive(Debug)]
pub enum Effect {
    /// The filter asked for it.
    Command(Command),
    /// Its instance failed in another request's event: the filter's policy decides about this one.
    Failed(Fault),
}

struct Live {
    filter: Arc<Filter>,
    guest: Box<dyn Guest>,
    started: u64,
}

/// A filter on one worker.
pub struct Slot {
    filter: Arc<Filter>,
    current: Option<u32>,
    lives: HashMap<u32, Live>,
    next: u32,
    health: Health,
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
            filter,
            current: None,
            lives: HashMap::new(),
            next: 0,
            health: Health::default(),
            salvaged: HashMap::new(),
            effects: Vec::new(),
            scratch: Vec::new(),
            spent: Duration::ZERO,
        }
    }

    /// The filter that new requests meet.
    #[must_use]
    pub const fn filter(&self) -> &Arc<Filter> {
        &self.filter
    }

    /// Requests that are in it, also in older versions of it.
    #[must_use]
    pub fn contexts(&self) -> usize {
        self.lives.values().map(|live| live.guest.contexts()).sum()
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
        if !published.is_current(&self.filter)
            && let Some(filter) = published.current()
        {
            self.replace(filter);
        }
    }

    /// New requests meet `filter`; those that are in the old one stay there until they are over.
    pub fn replace(&mut self, filter: Arc<Filter>) {
        self.filter = filter;
        self.health = Health::default();
        if let Some(old) = self.current.take() {
            self.drop_idle(old);
        }
        self.settle();
    }

    /// Makes an instance if one is wanted and it is quickly made.
    pub fn settle(&mut self) {
        if self.filter.start_cost() <= INLINE_START
            && let Some(filter) = self.wanted()
        {
            let start = filter.now();
            let made = filter.instantiate();
            self.spent += since(&filter, start);
            self.install(&filter, made);
        }
    }

    /// A filter of which an instance is wanted. Where [`Self::settle`] does not make it, it is to be
    /// made elsewhere and brought with [`Self::install`].
    #[must_use]
    pub fn wanted(&self) -> Option<Arc<Filter>> {
        let wanted = self.filter.isolation() == Isolation::Worker
            && self.current.is_none()
            && self.health.allows(self.filter.now());
        wanted.then(|| Arc::clone(&self.filter))
    }

    /// Takes an instance that was made elsewhere, or hears that none could be made. One of another
    /// version, or one too many, is thrown away.
    pub fn install(&mut self, filter: &Arc<Filter>, made: Result<Box<dyn Guest>, Fault>) {
        if !Arc::ptr_eq(filter, &self.filter) || self.current.is_some() {
            return;
        }
        match made {
            Ok(guest) => {
                let number = self.add(guest);
                self.current = Some(number);
                self.collect(number);
            }
            Err(fault) => self.health.failed(self.filter.now(), fault),
        }
    }

    /// A new request.
    ///
    /// # Errors
    /// [`Fault::Down`] while there is no instance; otherwise what its code did. The filter's policy
    /// decides.
    pub fn open(&mut self) -> Result<Ticket, Fault> {
        let instance = match self.filter.isolation() {
            Isolation::Request => {
                let start = self.filter.now();
                let made = self.filter.instantiate();
                self.spent += since(&self.filter, start);
                self.add(made?)
            }
            Isolation::Worker => {
                self.settle();
                self.current.ok_or_else(|| self.health.why())?
            }
        };
        let Some(live) = self.lives.get_mut(&instance) else {
            return Err(self.health.why());
        };
        let start = live.filter.now();
        let opened = live.guest.open();
        self.spent += since(&live.filter, start);
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
        let Some(live) = self.lives.get_mut(&ticket.instance) else {
            return Outcome {
                step: Err(self.health.why()),
                spent: Duration::ZERO,
            };
        };
        let start = live.filter.now();
        let step = live.guest.on_event(ticket.context, event);
        let spent = since(&live.filter, start);
        match &step {
            Ok(_) => self.collect(ticket.instance),
            Err(fault) => {
                let fault = fault.clone();
                self.failed(ticket.instance, Some(ticket.context), &fault);
            }
        }
        Outcome { step, spent }
    }

    /// The exchange is over. What was lent comes back.
    pub fn close(&mut self, ticket: Ticket) -> Option<Box<dyn Exchange>> {
        let Some(live) = self.lives.get_mut(&ticket.instance) else {
            return self.salvaged.remove(&ticket);
        };
        let start = live.filter.now();
        let (exchange, closed) = live.guest.close(ticket.context);
        self.spent += since(&live.filter, start);
        self.collect(ticket.instance);
        match closed {
            Ok(()) => self.drop_idle(ticket.instance),
            Err(fault) => self.failed(ticket.instance, None, &fault),
        }
        exchange
    }

    /// Looks after what no event announces. To be called now and then.
    pub fn poll(&mut self) {
        self.settle();
        if let Some(current) = self.current
            && let Some(live) = self.lives.get_mut(&current)
        {
            let start = live.filter.now();
            let polled = live.guest.poll();
            self.spent += since(&live.filter, start);
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

    fn add(&mut self, guest: Box<dyn Guest>) -> u32 {
        while self.lives.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        let live = Live {
            started: self.filter.now(),
            filter: Arc::clone(&self.filter),
            guest,
        };
        self.lives.insert(number, live);
        number
    }

    fn collect(&mut self, instance: u32) {
        let Some(live) = self.lives.get_mut(&instance) else {
            return;
        };
        live.guest.commands(&mut self.scratch);
        let commands = self.scratch.drain(..).map(|(context, command)| {
            let ticket = Ticket { instance, context };
            (ticket, Effect::Command(command))
        });
        self.effects.extend(commands);
    }

    /// Nobody is in it any more, and nobody will be.
    fn drop_idle(&mut self, instance: u32) {
        let idle = self
            .lives
            .get(&instance)
            .is_some_and(|live| live.guest.contexts() == 0);
        if idle && self.current != Some(instance) {
            self.lives.remove(&instance);
        }
    }

    /// An instance failed. If it must not be called again it goes, and everybody who was in it
    /// hears of it, but for who was in the call.
    fn failed(&mut self, instance: u32, caller: Option<ContextId>, fault: &Fault) {
        if !fault.is_fatal() {
            self.collect(instance);
            self.drop_idle(instance);
            return;
        }
        let Some(live) = self.lives.remove(&instance) else {
            return;
        };
        let of_current_version = Arc::ptr_eq(&live.filter, &self.filter);
        let started = live.started;
        for (context, exchange) in live.guest.retire() {
            let ticket = Ticket { instance, context };
            if let Some(exchange) = exchange {
                self.salvaged.insert(ticket, exchange);
            }
            if Some(context) != caller {
                self.effects.push((ticket, Effect::Failed(fault.clone())));
            }
        }
        if self.current == Some(instance) {
            self.current = None;
        }
        if of_current_version && self.filter.isolation() == Isolation::Worker {
            let now = self.filter.now();
            self.health.trapped(started, now, fault.clone());
            self.settle();
        }
    }
}

/// How long ago that was, by the clock of a filter.
fn since(filter: &Filter, start: u64) -> Duration {
    Duration::from_nanos(filter.now().saturating_sub(start))
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot")
            .field("filter", &self.filter)
            .field("instances", &self.lives.len())
            .finish_non_exhaustive()
    }
}
