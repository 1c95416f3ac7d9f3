//! One filter's place in an exchange.

use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;
use weft_core::filter::{FilterSpec, Step as Place};
use weft_wasm_host::budget::{Admission, Reservation};
use weft_wasm_host::{Abi, Event, FailPolicy, Fault, FaultKind, Reply, Side, Step, side_of};

use super::build;
use super::exchange::Lent;
use super::fetch::Asker;
use super::glance::Staying;
use super::half::{Half, Part};
use super::hub::{self, Hub, LATER, Opened};
use super::inbox::{Message, Poller};
use super::node_filter::NodeFilter;
use super::queue::Queue;
use super::run::{Mark, Outcome, Run};
use crate::accept::worker::Worker;

/// One filter's place in an exchange.
#[derive(Debug)]
pub(super) struct Stage {
    node: Arc<NodeFilter>,
    spec: Arc<FilterSpec>,
    pub(super) step: Place,
    opened: Option<Opened>,
    /// Nothing of the exchange is its business any more.
    over: bool,
    request: Way,
    answer: Way,
    /// Its instance failed in another exchange's event.
    pub(super) failed: Option<Fault>,
    began: Option<Instant>,
    spent: Duration,
    calls: u32,
    pub(super) outcome: Outcome,
}

/// One message in the filter, and what the filter is still to be told of it.
#[derive(Debug, Default)]
struct Way {
    half: Half,
    events: Queue<Event>,
    /// Decided in another exchange's event.
    decided: VecDeque<Step>,
    slowed: Option<Box<Slowed>>,
}

/// An event that waits until its namespace has CPU time.
struct Slowed {
    until: Pin<Box<Sleep>>,
    event: Event,
    reserved: Reservation,
}

impl std::fmt::Debug for Slowed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Slowed")
            .field("event", &self.event)
            .finish_non_exhaustive()
    }
}

impl Way {
    /// The filter sees no more of this message.
    fn pass(&mut self, node: &NodeFilter) {
        self.half.pass();
        self.events.clear();
        self.decided.clear();
        self.give_back(node);
    }

    /// A call that is not made after all is not paid for.
    fn give_back(&mut self, node: &NodeFilter) {
        if let Some(slowed) = self.slowed.take() {
            Hub::give_back(node, slowed.reserved);
        }
    }
}

impl Stage {
    pub(super) fn new(node: &Arc<NodeFilter>, spec: &Arc<FilterSpec>, step: Place) -> Self {
        Self {
            node: Arc::clone(node),
            spec: Arc::clone(spec),
            step,
            opened: None,
            over: false,
            request: Way::default(),
            answer: Way::default(),
            failed: None,
            began: None,
            spent: Duration::ZERO,
            calls: 0,
            outcome: Outcome::default(),
        }
    }

    /// It has seen the request's head, and is done with the exchange. The head is
    /// still here, or has been taken.
    pub(super) fn has_passed(&mut self, run: &Run, end: bool, is_here: bool) {
        self.began = Some(run.began);
        self.spent = run.spent;
        self.calls = run.calls;
        self.request.half.let_through(Part::Head { end });
        if !is_here {
            self.request.half.take();
        }
        self.skip_silently();
    }

    /// It has seen the request's head, and goes on with the exchange.
    pub(super) fn has_seen_head(&mut self, staying: Staying, end: bool) {
        self.opened = Some(staying.opened);
        self.began = Some(staying.began);
        self.spent = staying.spent;
        self.calls = 1;
        self.request.half.hold(Part::Head { end });
        self.request.half.told();
        match staying.step {
            Ok(step) => self.request.decided.push_back(step),
            Err(fault) => self.failed = Some(fault),
        }
    }

    pub(super) fn half(&mut self, side: Side) -> &mut Half {
        &mut self.way(side).half
    }

    pub(super) fn seen(&self, side: Side) -> &Half {
        match side {
            Side::Request => &self.request.half,
            Side::Response => &self.answer.half,
        }
    }

    fn way(&mut self, side: Side) -> &mut Way {
        match side {
            Side::Request => &mut self.request,
            Side::Response => &mut self.answer,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.opened.is_some()
    }

    /// The exchange comes to the filter.
    pub(super) fn open(&mut self, worker: &Rc<Worker>, asker: Asker) -> Result<(), Fault> {
        let began = Instant::now();
        self.began = Some(began);
        let opened = Hub::open(worker, &self.node, &self.spec, asker, began)?;
        self.opened = Some(opened);
        Ok(())
    }

    /// Whether the filter wants to know of this part: one of those that it is
    /// interested in, or one that it asked for by holding what was before.
    pub(super) fn asks_about(&self, side: Side, part: &Part) -> bool {
        let half = self.seen(side);
        let Some(opened) = &self.opened else {
            return false;
        };
        if half.pass {
            return false;
        }
        let wants = opened.filter.manifest().interests;
        let interested = match (side, part) {
            (Side::Request, Part::Head { .. }) => wants.request_headers,
            (Side::Request, Part::Data { .. }) => wants.request_body,
            (Side::Request, Part::Trailers) => wants.request_trailers,
            (Side::Response, Part::Head { .. }) => wants.response_headers,
            (Side::Response, Part::Data { .. }) => wants.response_body,
            (Side::Response, Part::Trailers) => wants.response_trailers,
        };
        interested || half.holds()
    }

    /// Whether what is still to come of a body passes as it is.
    pub(super) fn leaves_body_alone(&self, side: Side) -> bool {
        let half = self.seen(side);
        if half.pass {
            return true;
        }
        let Some(opened) = &self.opened else {
            return false;
        };
        let wants = opened.filter.manifest().interests;
        let body = match side {
            Side::Request => wants.request_body,
            Side::Response => wants.response_body,
        };
        !body && !half.holds()
    }

    /// Whether it wants to see anything of the answer.
    pub(super) fn sees_answer(&self) -> bool {
        let wants = |opened: &Opened| opened.filter.manifest().interests.any(Side::Response);
        !self.over && self.opened.as_ref().is_some_and(wants)
    }

    /// Whether it may still look at the answer when its head is sent.
    pub(super) fn sees_more_of_answer(&self) -> bool {
        let half = self.seen(Side::Response);
        !half.pass && !half.ended && !self.leaves_body_alone(Side::Response)
            || !self.answer.events.is_empty()
            || self.opened.as_ref().is_some_and(|opened| {
                let wants = opened.filter.manifest().interests;
                wants.response_trailers || opened.filter.module().abi() != Abi::Weft
            })
    }

    /// The filter is to be told of this part.
    pub(super) fn give(&mut self, side: Side, part: Part) {
        let event = event(side, &part);
        let way = self.way(side);
        way.half.hold(part);
        way.events.push_back(event);
    }

    /// Brings what came for the exchange to where it belongs.
    pub(super) fn sort_mail(&mut self) {
        let Some(opened) = &self.opened else { return };
        let inbox = Rc::clone(&opened.inbox);
        let mut any = false;
        while let Some(message) = inbox.pop() {
            any = true;
            if self.over {
                continue;
            }
            match message {
                Message::Event(event) => {
                    let side = side(&event);
                    self.way(side).events.push_back(event);
                }
                Message::Decided { side, step } => self.way(side).decided.push_back(step),
                Message::Failed(fault) => self.failed = Some(fault),
            }
        }
        if any {
            // It may be about the other message.
            inbox.wake();
        }
    }

    /// The filter's next decision about a message; none while it has nothing to
    /// decide about.
    pub(super) fn poll_step(
        &mut self,
        worker: &Rc<Worker>,
        side: Side,
        by: Poller,
        lent: &mut Option<Box<Lent>>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Step, Fault>>> {
        let Some(opened) = &self.opened else {
            return Poll::Ready(None);
        };
        opened.inbox.register(by, context);
        let ticket = opened.ticket;
        if let Some(step) = self.way(side).decided.pop_front() {
            return Poll::Ready(Some(Ok(step)));
        }
        let (event, reserved, start) = if let Some(mut slowed) = self.way(side).slowed.take() {
            if slowed.until.as_mut().poll(context).is_pending() {
                self.way(side).slowed = Some(slowed);
                return Poll::Pending;
            }
            (slowed.event, slowed.reserved, hub::now())
        } else {
            let Some(event) = self.way(side).events.pop_front() else {
                return Poll::Ready(None);
            };
            let now = hub::now();
            let (admission, reserved) = self.node.budget.admit(worker.id, now);
            let admission = match admission {
                // It was let in: what it began is not thrown away.
                Admission::Refused if self.calls > 0 => Admission::Wait(LATER),
                admission => admission,
            };
            match admission {
                Admission::Run => (event, reserved, now),
                Admission::Wait(after) => {
                    let mut until = Box::pin(tokio::time::sleep(after));
                    // A sleep of no length is over at once.
                    let over = until.as_mut().poll(context).is_ready();
                    if !over {
                        self.way(side).slowed = Some(Box::new(Slowed {
                            until,
                            event,
                            reserved,
                        }));
                        return Poll::Pending;
                    }
                    (event, reserved, now)
                }
                Admission::Refused | Admission::Quarantined { .. } => {
                    return Poll::Ready(Some(Err(Fault::Down {
                        of: FaultKind::Timeout,
                    })));
                }
            }
        };
        if let Some(lent) = lent {
            lent.direction = self.step.direction;
        }
        if event.side().is_some() {
            self.half(side).told();
        }
        let call = hub::Call {
            ticket,
            event,
            reserved,
            start,
        };
        let called = Hub::call(worker, &self.node, call, lent);
        self.calls += 1;
        self.spent += called.spent;
        if called.over {
            // What another task waits for is decided as well.
            self.wake();
            self.opened = None;
            self.over = true;
        }
        Poll::Ready(Some(called.step))
    }

    /// Does what the filter wants done; gives back its answer, if it has one.
    pub(super) fn take(&mut self, side: Side, step: Step) -> Option<Box<Reply>> {
        match step {
            Step::Reply(reply) => Some(reply),
            Step::More if self.seen(side).ended => {
                self.failed = Some(Fault::Answer("more of a message that is over".into()));
                None
            }
            step => {
                self.half(side).step(&step);
                if self.over {
                    self.skip_silently();
                }
                None
            }
        }
    }

    /// Memory of what is here of both messages.
    pub(super) fn kept(&self) -> usize {
        self.request.half.kept() + self.answer.half.kept()
    }

    /// Whether it holds some of a body.
    pub(super) fn holds_body(&self) -> bool {
        self.request.half.bytes() + self.answer.half.bytes() > 0
    }

    pub(super) fn holds_too_much(&self, side: Side) -> bool {
        let opened = self.opened.as_ref();
        opened.is_some_and(|opened| self.seen(side).bytes() > opened.filter.limits().held_body)
    }

    /// Whether its owner wants requests to go on without it.
    pub(super) fn goes_on_without(&self, kind: FaultKind) -> bool {
        match &self.opened {
            Some(opened) => opened.filter.on_error().policy(kind) == FailPolicy::Open,
            None => {
                let policies = build::on_error(&self.spec.on_error);
                policies.policy(kind) == FailPolicy::Open
            }
        }
    }

    /// It failed, and the exchange goes on without it.
    pub(super) fn skip(&mut self, kind: FaultKind) {
        self.outcome = Outcome::Skipped(kind);
        self.skip_silently();
    }

    /// It sees no more of the exchange.
    pub(super) fn skip_silently(&mut self) {
        self.over = true;
        self.answer.pass(&self.node);
        self.leave_request();
    }

    /// It sees no more of the request.
    pub(super) fn leave_request(&mut self) {
        self.request.pass(&self.node);
        self.wake();
    }

    /// Whether what it answers comes to it as a response, which filters for
    /// proxy-wasm rely on: Envoy shows it to them.
    pub(super) fn sees_own_answer(&self) -> bool {
        let for_proxy_wasm = self
            .opened
            .as_ref()
            .is_some_and(|opened| opened.filter.module().abi() != Abi::Weft);
        for_proxy_wasm && !self.answer.half.begun
    }

    pub(super) fn wake(&self) {
        if let Some(opened) = &self.opened {
            opened.inbox.wake();
        }
    }

    pub(super) fn mark(&self, reason: &str, status: Option<u16>) -> Mark {
        Mark {
            filter: Arc::clone(&self.node.name),
            direction: self.step.direction,
            reason: reason.into(),
            status,
        }
    }

    /// What it did; nothing if the exchange never came to it.
    pub(super) fn run(&self) -> Option<Run> {
        Some(Run {
            filter: Arc::clone(&self.node.name),
            phase: self.step.phase,
            began: self.began?,
            spent: self.spent,
            calls: self.calls,
            outcome: self.outcome,
        })
    }

    /// The exchange is over.
    pub(super) fn close(&mut self, worker: &Rc<Worker>, lent: &mut Option<Box<Lent>>) {
        self.request.give_back(&self.node);
        self.answer.give_back(&self.node);
        if let Some(opened) = self.opened.take() {
            if let Some(lent) = lent {
                lent.direction = self.step.direction;
            }
            Hub::close(worker, &self.node, opened.ticket, lent);
        }
    }
}

/// The message that an event is about.
fn side(event: &Event) -> Side {
    match event {
        Event::FetchDone { id, .. } | Event::Timer { id } => side_of(*id),
        other => other.side().unwrap_or(Side::Request),
    }
}

fn event(side: Side, part: &Part) -> Event {
    match (side, part) {
        (Side::Request, Part::Head { end }) => Event::RequestHeaders { end: *end },
        (Side::Request, Part::Data { content, end }) => Event::RequestBody {
            data: content.bytes.clone(),
            end: *end,
        },
        (Side::Request, Part::Trailers) => Event::RequestTrailers,
        (Side::Response, Part::Head { end }) => Event::ResponseHeaders { end: *end },
        (Side::Response, Part::Data { content, end }) => Event::ResponseBody {
            data: content.bytes.clone(),
            end: *end,
        },
        (Side::Response, Part::Trailers) => Event::ResponseTrailers,
    }
}
