//! What waits for an exchange inside of a filter: answers to what the filter
//! asked for, and what became of it meanwhile.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Waker};

use rustc_hash::FxHashMap;
use tokio::task::AbortHandle;
use weft_wasm_host::{Event, Fault, Side, Step};

use super::fetch::Asker;

/// Something to be dealt with by whoever drives the exchange.
#[derive(Debug)]
pub(super) enum Message {
    /// For the filter.
    Event(Event),
    /// The filter decided about it in another exchange's event.
    Decided { side: Side, step: Step },
    /// The filter's instance failed in another exchange's event.
    Failed(Fault),
}

/// Who deals with what waits here. They may be tasks of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Poller {
    /// Whoever sends the request on.
    Request,
    /// Whoever sends the answer on.
    Answer,
    /// Whoever looks whether a filter stops the exchange.
    Watcher,
}

/// Of one exchange in one filter. What it still waits for ends with it.
#[derive(Debug)]
pub(super) struct Inbox {
    messages: RefCell<VecDeque<Message>>,
    /// Of each [`Poller`]. What one of them waits for may be decided by an event
    /// that another deals with.
    wakers: RefCell<[Option<Waker>; 3]>,
    /// Fetches and timers under way, by their numbers.
    under_way: RefCell<FxHashMap<u64, AbortHandle>>,
    /// In whose name the filter asks here.
    pub(super) asker: Asker,
}

impl Inbox {
    pub(super) fn new(asker: Asker) -> Self {
        Self {
            messages: RefCell::default(),
            wakers: RefCell::default(),
            under_way: RefCell::default(),
            asker,
        }
    }

    pub(super) fn push(&self, message: Message) {
        self.messages.borrow_mut().push_back(message);
        self.wake();
    }

    pub(super) fn pop(&self) -> Option<Message> {
        self.messages.borrow_mut().pop_front()
    }

    /// The task is woken when there is something, or when the other message
    /// was decided about.
    pub(super) fn register(&self, by: Poller, context: &Context<'_>) {
        let mut wakers = self.wakers.borrow_mut();
        let slot = &mut wakers[by as usize];
        match slot {
            Some(waker) => waker.clone_from(context.waker()),
            empty => *empty = Some(context.waker().clone()),
        }
    }

    pub(super) fn wake(&self) {
        for waker in self.wakers.borrow_mut().iter_mut() {
            if let Some(waker) = waker.take() {
                waker.wake();
            }
        }
    }

    /// Something was started whose answer will be pushed here.
    pub(super) fn started(&self, id: u64, task: AbortHandle) {
        self.under_way.borrow_mut().insert(id, task);
    }

    /// It is over, or of no more use.
    pub(super) fn cancel(&self, id: u64) {
        if let Some(task) = self.under_way.borrow_mut().remove(&id) {
            task.abort();
        }
    }

    /// Its answer is there.
    pub(super) fn arrived(self: &Rc<Self>, id: u64, event: Event) {
        // None is there if it was cancelled while its task was running.
        if self.under_way.borrow_mut().remove(&id).is_some() {
            self.push(Message::Event(event));
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        for task in self.under_way.get_mut().values() {
            task.abort();
        }
    }
}
