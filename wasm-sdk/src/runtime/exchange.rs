//! A request and its response inside of the filter.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Poll;

use super::message::{Message, Next, Reached};
use super::outcome;
use super::task::{Task, polled_side};
use super::wait::{Asked, Slot, Wait};
use crate::sys::host;
use crate::sys::types::{FetchError, FetchRequest, FetchResponse, Fetched, Step};

/// Where the answer to a fetch will be.
pub(crate) type Answer = Rc<Slot<Result<FetchResponse, FetchError>>>;

/// One of the two messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Request,
    Response,
}

pub(crate) struct Exchange {
    ctx: u64,
    request: Half,
    response: Half,
    asked: RefCell<Vec<Asked>>,
    kept: RefCell<Vec<Rc<dyn Any>>>,
}

#[derive(Default)]
struct Half {
    task: RefCell<Option<Task>>,
    message: RefCell<Message>,
    /// The host was told that all of it may pass.
    passed: Cell<bool>,
}

impl Exchange {
    pub(crate) fn new(ctx: u64) -> Self {
        Self {
            ctx,
            request: Half::default(),
            response: Half::default(),
            asked: RefCell::default(),
            kept: RefCell::default(),
        }
    }

    pub(crate) const fn ctx(&self) -> u64 {
        self.ctx
    }

    const fn half(&self, side: Side) -> &Half {
        match side {
            Side::Request => &self.request,
            Side::Response => &self.response,
        }
    }

    /// Nothing of it has to be remembered.
    pub(crate) fn is_idle(&self) -> bool {
        self.request.task.borrow().is_none()
            && self.response.task.borrow().is_none()
            && self.asked.borrow().is_empty()
            && self.kept.borrow().is_empty()
    }

    /// Whether the host was told that all of a message may pass.
    pub(crate) fn has_passed(&self, side: Side) -> bool {
        self.half(side).passed.get()
    }

    /// Neither a fetch nor a timer.
    pub(crate) fn waits_for_nothing(&self) -> bool {
        self.asked.borrow().is_empty()
    }

    pub(crate) fn begin(&self, side: Side, task: Task, reads_body: bool) {
        let half = self.half(side);
        half.message.replace(Message::new(reads_body));
        // Bound outside: dropping a task runs the filter's code.
        let _before = half.task.replace(Some(task));
    }

    pub(crate) fn arrived(&self, side: Side, reached: Reached) -> Step {
        let half = self.half(side);
        if half.task.borrow().is_none() {
            half.passed.set(true);
            return Step::Pass;
        }
        half.message.borrow_mut().arrived(reached);
        self.drive(side)
    }

    /// Lets the task go on as far as it can.
    pub(crate) fn drive(&self, side: Side) -> Step {
        let half = self.half(side);
        // Taken out, so that nothing is borrowed while the filter's code runs.
        let task = half.task.borrow_mut().take();
        let Some(mut task) = task else {
            return Step::Pending;
        };
        match task.poll(|| half.message.borrow_mut().begin_poll()) {
            Poll::Ready(result) => {
                task.end();
                match outcome(result) {
                    Ok(None) => {
                        let step = half.message.borrow_mut().passed();
                        half.passed.set(matches!(step, Step::Pass));
                        step
                    }
                    Ok(Some(reply)) => Step::Reply(reply.into_sys()),
                    Err(reason) => Step::Fail(reason),
                }
            }
            Poll::Pending if half.message.borrow().is_unwanted() => {
                Step::Fail("the filter reads a body that its INTERESTS do not name".to_owned())
            }
            Poll::Pending => {
                half.task.replace(Some(task));
                half.message.borrow_mut().waiting()
            }
        }
    }

    pub(crate) fn next_part(&self, side: Side) -> Next {
        self.half(side).message.borrow_mut().next()
    }

    pub(crate) fn release(&self, side: Side) {
        self.half(side).message.borrow_mut().release();
    }

    pub(crate) fn replace_body(&self, side: Side, bytes: Vec<u8>) {
        self.half(side).message.borrow_mut().replace(bytes);
    }

    /// Starts a fetch, whose answer will be in the slot.
    pub(crate) fn start_fetch(&self, request: &FetchRequest) -> Result<(u64, Answer), FetchError> {
        let id = host::start_fetch(self.ctx, request)?;
        let slot = Slot::new();
        self.ask(id, Wait::Fetch(slot.clone()));
        Ok((id, slot))
    }

    /// Starts a timer; none if the host lets it have no more.
    pub(crate) fn start_timer(&self, after_ms: u64) -> Option<(u64, Rc<Slot<()>>)> {
        let id = self.set_timer(after_ms)?;
        let slot = Slot::new();
        self.ask(id, Wait::Timer(slot.clone()));
        Some((id, slot))
    }

    /// 0 is no timer.
    fn set_timer(&self, after_ms: u64) -> Option<u64> {
        Some(host::set_timer(self.ctx, after_ms)).filter(|id| *id != 0)
    }

    fn ask(&self, id: u64, wait: Wait) {
        let side = polled_side(self.ctx);
        self.asked.borrow_mut().push(Asked { id, side, wait });
    }

    /// Polls a task that was woken by another one's progress. False if the host lets it have no
    /// timer now: then it has to be tried again.
    pub(crate) fn nudge(&self, side: Side) -> bool {
        if self.half(side).task.borrow().is_none() {
            return true;
        }
        let Some(id) = self.set_timer(0) else {
            return false;
        };
        let wait = Wait::Nudge;
        self.asked.borrow_mut().push(Asked { id, side, wait });
        true
    }

    /// Nobody waits for it any more.
    pub(crate) fn cancel(&self, id: u64, is_fetch: bool) {
        let found = self.take(id, is_fetch).is_some();
        match (found, is_fetch) {
            (false, _) => {}
            (true, true) => host::cancel_fetch(self.ctx, id),
            (true, false) => host::cancel_timer(self.ctx, id),
        }
    }

    fn take(&self, id: u64, is_fetch: bool) -> Option<Asked> {
        let mut asked = self.asked.borrow_mut();
        let at = asked
            .iter()
            .position(|it| it.id == id && matches!(it.wait, Wait::Fetch(_)) == is_fetch)?;
        Some(asked.swap_remove(at))
    }

    /// Takes in an answer; the side that asked.
    pub(crate) fn fetched(&self, fetched: Fetched) -> Option<Side> {
        let asked = self.take(fetched.id, true)?;
        if let Wait::Fetch(slot) = asked.wait {
            slot.put(fetched.result);
        }
        Some(asked.side)
    }

    /// Takes in a timer that has run out; the side that asked.
    pub(crate) fn timer(&self, id: u64) -> Option<Side> {
        let asked = self.take(id, false)?;
        if let Wait::Timer(slot) = asked.wait {
            slot.put(());
        }
        Some(asked.side)
    }

    pub(crate) fn keep(&self, value: Rc<dyn Any>) {
        let type_id = (*value).type_id();
        let before = {
            let mut kept = self.kept.borrow_mut();
            let at = kept.iter().position(|it| (**it).type_id() == type_id);
            let before = at.map(|at| kept.swap_remove(at));
            kept.push(value);
            before
        };
        drop(before);
    }

    pub(crate) fn kept<T: 'static>(&self) -> Option<Rc<T>> {
        let kept = self.kept.borrow();
        kept.iter()
            .find_map(|value| value.clone().downcast::<T>().ok())
    }

    /// Drops all that it holds: nothing may be asked about it any more, so nothing is cancelled.
    pub(crate) fn end(&self) {
        self.asked.borrow_mut().clear();
        let tasks = [&self.request, &self.response].map(|half| half.task.borrow_mut().take());
        drop(tasks);
        let kept = std::mem::take(&mut *self.kept.borrow_mut());
        drop(kept);
        // What the tasks asked for while they were dropped.
        self.asked.borrow_mut().clear();
    }
}
