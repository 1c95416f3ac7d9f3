//! All filters of one worker: their instances, and what they wait for.
//!
//! Whoever drives an exchange calls a filter through here. What the filter asks
//! for in a call is started here, and its answer goes to the exchange's inbox;
//! what it asks for on its own account is answered here too.

mod asks;

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use tokio::task::AbortHandle;
use weft_core::filter::FilterSpec;
use weft_wasm_host::budget::{Admission, Reservation};
use weft_wasm_host::clock::{Clock, SystemClock};
use weft_wasm_host::exchange::Exchange;
use weft_wasm_host::{
    Abi, Command, Effect, Event, Fault, FaultKind, Filter, Isolation, Outcome, Slot, Ticket,
    thread_time,
};

use super::exchange::Lent;
use super::fetch::Asker;
use super::glance::{Look, Staying};
use super::inbox::{Inbox, Message};
use super::node_filter::NodeFilter;
use crate::accept::worker::Worker;
use crate::control::config::Config;

/// Filters of one worker.
#[derive(Debug, Default)]
pub struct Hub {
    filters: RefCell<FxHashMap<u64, Local>>,
}

/// A filter on this worker.
#[derive(Debug)]
struct Local {
    node: Arc<NodeFilter>,
    spec: Arc<FilterSpec>,
    slot: Slot,
    inboxes: FxHashMap<Ticket, Weak<Inbox>>,
    /// What instances wait for on their own account.
    own: FxHashMap<(Ticket, u64), AbortHandle>,
    /// An instance is being made elsewhere.
    making: bool,
    /// No manifest names it any more.
    gone: bool,
}

/// An exchange in a filter.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) ticket: Ticket,
    pub(super) filter: Arc<Filter>,
    pub(super) inbox: Rc<Inbox>,
}

/// A call that is paid for.
pub(super) struct Call {
    /// The exchange in the filter.
    pub(super) ticket: Ticket,
    /// What happened.
    pub(super) event: Event,
    /// What its namespace has set aside for it.
    pub(super) reserved: Reservation,
    /// Now, by [`now`].
    pub(super) start: u64,
}

/// When a call is made that there is no CPU time for now: a filter's own work,
/// and what follows in an exchange that was let in.
pub(super) const LATER: Duration = Duration::from_secs(1);

/// What a fetch costs the namespace that asks: about what the worker has to do
/// for it.
const FETCH: Duration = Duration::from_micros(50);

/// Something to be started once no filter is borrowed.
type Ask = (Ticket, Option<Rc<Inbox>>, Command);

pub(super) fn now() -> u64 {
    SystemClock.monotonic()
}

impl Hub {
    /// An exchange comes to a filter.
    ///
    /// # Errors
    /// There is no instance of it: its policy decides.
    pub(super) fn open(
        worker: &Rc<Worker>,
        node: &Arc<NodeFilter>,
        spec: &Arc<FilterSpec>,
        asker: Asker,
        began: Instant,
    ) -> Result<Opened, Fault> {
        if node.budget.is_closed(worker.id, SystemClock::at(began)) {
            return Err(Fault::Down {
                of: FaultKind::Timeout,
            });
        }
        let opened = within(
            worker,
            node.id,
            |all| local(all, node, spec),
            |local| {
                local.slot.refresh(&node.published);
                let ticket = local.slot.open()?;
                let filter = Arc::clone(local.slot.filter());
                Ok(local.opened(ticket, filter, asker))
            },
        );
        let down = || Fault::Down {
            of: node.first_fault(),
        };
        opened.ok_or_else(down)?
    }

    /// A call that was admitted is not made after all.
    pub(super) fn give_back(node: &NodeFilter, reserved: Reservation) {
        node.budget.cancel(reserved, now());
    }

    /// Tells a filter what happened to an exchange that is in it.
    pub(super) fn call(
        worker: &Rc<Worker>,
        node: &NodeFilter,
        call: Call,
        lent: &mut Option<Box<Lent>>,
    ) -> Outcome {
        let start = call.start;
        let mut call = Some(call);
        let called = with(worker, node.id, |local| {
            Some(local.call(node, call.take()?, lent))
        });
        if let Some(call) = call {
            node.budget.cancel(call.reserved, start);
        }
        called.flatten().unwrap_or_else(|| {
            let of = node.first_fault();
            Outcome::uncalled(Fault::Down { of }, start)
        })
    }

    /// An exchange comes to a filter, which is told of the request's head: nothing
    /// more follows it if `end` is set. If the filter lets all of it pass the
    /// exchange has left it again. None if it cannot be told so now.
    pub(super) fn look(
        worker: &Rc<Worker>,
        node: &Arc<NodeFilter>,
        spec: &Arc<FilterSpec>,
        asker: impl FnOnce() -> Asker,
        (began, end): (Instant, bool),
        lent: &mut Option<Box<Lent>>,
    ) -> Option<Look> {
        let looked = within(
            worker,
            node.id,
            |all| local(all, node, spec),
            |local| {
                if !may_pass_at_head(local.slot.filter()) {
                    return None;
                }
                let start = SystemClock::at(began);
                let (admission, reserved) = node.budget.admit(worker.id, start);
                let opened = (admission == Admission::Run).then(|| {
                    local.slot.refresh(&node.published);
                    local.slot.open()
                });
                let Some(Ok(ticket)) = opened else {
                    node.budget.cancel(reserved, start);
                    return None;
                };
                // Of the version that it was opened in: a fault may bring another one.
                let filter = Arc::clone(local.slot.filter());
                let has_started = local.bill(worker.id);
                let call = Call {
                    ticket,
                    event: Event::RequestHeaders { end },
                    reserved,
                    start: if has_started { now() } else { start },
                };
                let Outcome {
                    step, spent, over, ..
                } = local.call(node, call, lent);
                if over {
                    return Some(Look::Passed { spent });
                }
                Some(Look::Stays(Staying {
                    opened: local.opened(ticket, filter, asker()),
                    began,
                    spent,
                    step,
                }))
            },
        );
        looked.flatten()
    }

    /// An exchange leaves a filter.
    pub(super) fn close(
        worker: &Rc<Worker>,
        node: &NodeFilter,
        ticket: Ticket,
        lent: &mut Option<Box<Lent>>,
    ) {
        let _gone = with(worker, node.id, |local| {
            if let Some(exchange) = lent.take() {
                local.slot.lend(ticket, exchange);
            }
            *lent = local.leave(ticket).and_then(own);
        });
    }

    /// Takes over what a new snapshot names: instances are there before the
    /// first request, and those that nobody names end with their last one.
    pub fn adopt(worker: &Rc<Worker>, config: &Config) {
        let mut filters = worker.filters.filters.borrow_mut();
        for (node, spec) in config.filters.iter().zip(config.snapshot.filters()) {
            if let Some(local) = filters.get_mut(&node.id) {
                local.spec = Arc::clone(spec);
            }
        }
        drop(filters);
        Self::tick(worker, config);
    }

    /// Looks after what no event announces. Called once a tick of the worker.
    pub fn tick(worker: &Rc<Worker>, config: &Config) {
        if config.filters.is_empty() && worker.filters.filters.borrow().is_empty() {
            return;
        }
        let mut filters = worker.filters.filters.borrow_mut();
        for local in filters.values_mut() {
            local.gone = true;
        }
        for (node, spec) in config.filters.iter().zip(config.snapshot.filters()) {
            // One that was loaded since has no slot yet.
            if let Some(local) = local(&mut filters, node, spec) {
                local.gone = false;
            }
        }
        let all: Vec<u64> = filters.keys().copied().collect();
        drop(filters);
        for id in all {
            let _gone = with(worker, id, |local| {
                if !local.node.budget.is_closed(worker.id, now()) {
                    local.slot.refresh(&local.node.published);
                    local.slot.poll();
                }
            });
        }
    }

    /// Requests that are in filters now.
    #[must_use]
    pub fn contexts(&self) -> usize {
        let filters = self.filters.borrow();
        filters.values().map(|local| local.slot.contexts()).sum()
    }
}

/// Does something with a filter of this worker. What the filter asked for
/// meanwhile is then started, what was spent outside of events is paid, and an
/// instance is made if one is wanted. None if the worker does not have it.
fn with<R>(worker: &Rc<Worker>, id: u64, work: impl FnOnce(&mut Local) -> R) -> Option<R> {
    within(worker, id, |filters| filters.get_mut(&id), work)
}

/// The same with one that has this number wherever it is found.
fn within<R>(
    worker: &Rc<Worker>,
    id: u64,
    find: impl FnOnce(&mut FxHashMap<u64, Local>) -> Option<&mut Local>,
    work: impl FnOnce(&mut Local) -> R,
) -> Option<R> {
    let mut asks = Vec::new();
    let mut filters = worker.filters.filters.borrow_mut();
    let local = find(&mut filters)?;
    let result = work(local);
    local.bill(worker.id);
    local.collect(&mut asks);
    let wanted = local.wants_instance(worker.id);
    if local.gone && local.slot.contexts() == 0 {
        filters.remove(&id);
    }
    // Both call filters again.
    drop(filters);
    asks::start(worker, id, asks);
    if wanted {
        make(worker, id);
    }
    Some(result)
}

/// The filter on this worker; none while nothing is in force.
fn local<'a>(
    filters: &'a mut FxHashMap<u64, Local>,
    node: &Arc<NodeFilter>,
    spec: &Arc<FilterSpec>,
) -> Option<&'a mut Local> {
    use std::collections::hash_map::Entry;
    match filters.entry(node.id) {
        Entry::Occupied(known) => Some(known.into_mut()),
        Entry::Vacant(place) => {
            let filter = node.published.current()?;
            Some(place.insert(Local {
                node: Arc::clone(node),
                spec: Arc::clone(spec),
                slot: Slot::new(filter),
                inboxes: FxHashMap::default(),
                own: FxHashMap::default(),
                making: false,
                gone: false,
            }))
        }
    }
}

/// Whether it may be done with a request when it has seen its head; only then it
/// is worth a look. Filters for proxy-wasm want to hear of its end, too, and
/// instances for one request are made for it first.
fn may_pass_at_head(filter: &Filter) -> bool {
    filter.manifest().interests.request_headers
        && filter.module().abi() == Abi::Weft
        && filter.isolation() == Isolation::Worker
}

/// The exchange that comes back is the one that was lent.
fn own(exchange: Box<dyn Exchange>) -> Option<Box<Lent>> {
    let exchange: Box<dyn std::any::Any> = exchange;
    exchange.downcast().ok()
}

impl Drop for Local {
    fn drop(&mut self) {
        self.own.values().for_each(AbortHandle::abort);
    }
}

impl Local {
    /// Tells the filter what happened. The exchange is lent to it meanwhile, and
    /// leaves it if the filter has forgotten it then.
    fn call(&mut self, node: &NodeFilter, call: Call, lent: &mut Option<Box<Lent>>) -> Outcome {
        let ticket = call.ticket;
        if let Some(exchange) = lent.take() {
            self.slot.lend(ticket, exchange);
        }
        let outcome = self.slot.on_event_since(call.start, ticket, call.event);
        let exchange = match outcome.over {
            true => self.leave(ticket),
            false => self.slot.reclaim(ticket),
        };
        *lent = exchange.and_then(own);
        let spent = outcome.spent + self.slot.take_spent();
        node.budget.settle(call.reserved, spent, outcome.ended);
        outcome
    }

    /// What comes for the exchange from now on is kept for it.
    fn opened(&mut self, ticket: Ticket, filter: Arc<Filter>, asker: Asker) -> Opened {
        let inbox = Rc::new(Inbox::new(asker));
        self.inboxes.insert(ticket, Rc::downgrade(&inbox));
        Opened {
            ticket,
            filter,
            inbox,
        }
    }

    /// An exchange is over, or the filter has forgotten it. What was lent comes
    /// back.
    fn leave(&mut self, ticket: Ticket) -> Option<Box<dyn Exchange>> {
        self.inboxes.remove(&ticket);
        self.slot.close(ticket)
    }

    /// Pays for what was done outside of events. False if there was nothing.
    fn bill(&mut self, worker: usize) -> bool {
        let spent = self.slot.take_spent();
        if spent.is_zero() {
            return false;
        }
        self.node.budget.charge(worker, spent, now());
        true
    }

    fn wants_instance(&self, worker: usize) -> bool {
        !self.making
            && !self.gone
            && self.slot.wanted().is_some()
            && !self.node.budget.is_closed(worker, now())
    }

    /// Takes what filters asked for and what became of them. What concerns an
    /// exchange goes to its inbox.
    fn collect(&mut self, asks: &mut Vec<Ask>) {
        for (ticket, effect) in self.slot.effects() {
            let inbox = self.inboxes.get(&ticket).and_then(Weak::upgrade);
            match (effect, inbox) {
                (Effect::Failed(fault), Some(inbox)) => inbox.push(Message::Failed(fault)),
                (Effect::Failed(_), None) => {}
                (Effect::Command(Command::Decide { side, step }), Some(inbox)) => {
                    inbox.push(Message::Decided { side, step });
                }
                (
                    Effect::Command(Command::CancelFetch { id } | Command::CancelTimer { id }),
                    inbox,
                ) => match (inbox, self.own.remove(&(ticket, id))) {
                    (Some(inbox), _) => inbox.cancel(id),
                    (None, Some(task)) => task.abort(),
                    (None, None) => {}
                },
                (Effect::Command(command), Some(inbox)) => {
                    asks.push((ticket, Some(inbox), command));
                }
                (Effect::Command(command), None) if ticket.is_instance() => {
                    asks.push((ticket, None, command));
                }
                // Whoever asked has left.
                (Effect::Command(_), None) => {}
            }
        }
    }
}

/// Makes an instance where it holds up nobody.
fn make(worker: &Rc<Worker>, id: u64) {
    let mut filters = worker.filters.filters.borrow_mut();
    let Some(local) = filters.get_mut(&id) else {
        return;
    };
    let Some(filter) = local.slot.wanted() else {
        return;
    };
    local.making = true;
    drop(filters);
    let owner = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        let maker = Arc::clone(&filter);
        let making = move || {
            let start = thread_time();
            let made = maker.instantiate();
            (made, thread_time().saturating_sub(start))
        };
        let made = tokio::task::spawn_blocking(making).await;
        let (made, spent) = made.unwrap_or_else(|error| {
            let fault = Fault::NoRoom(error.to_string());
            (Err(fault), Duration::ZERO)
        });
        let _gone = with(&owner, id, |local| {
            local.making = false;
            local.node.budget.charge_apart(owner.id, spent, now());
            local.slot.install(&filter, made);
        });
    });
}
