//! An exchange's way through its filters.
//!
//! Each filter has both messages of the exchange, part by part. Parts are
//! pulled: whoever sends a message on asks the last filter for the next part,
//! which asks the one before it, down to where the message comes from. So a
//! slow reader slows down the filters, and what a filter holds holds up whoever
//! sends. Events come in between; they are dealt with by whoever asks next.

mod answering;
mod outcome;
mod source;

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Buf;
use http::request::Parts;
use http_body::Frame;
use weft_core::filter::{Phase, Step};
use weft_wasm_host::{FaultKind, Reply, Side};

use super::answer::AnswerBody;
use super::exchange::{Known, Lent};
use super::fetch::Asker;
use super::glance::Glance;
use super::half::Part;
use super::inbox::Poller;
use super::run::{Mark, Runs};
use super::stage::Stage;
use crate::accept::worker::Worker;
use crate::control::config::Config;
use crate::failure::Failure;
use crate::http::body::ClientBody;
use crate::memory::Held;
use crate::telemetry::exchange::{Decisions, Exchange};
use crate::upstream::Content;

/// Memory of an exchange in its filters, and for each of them: its state here
/// and in the filter.
const EXCHANGE: usize = 2 * 1024;
const STAGE: usize = 2 * 1024;

/// Why an exchange goes no further.
#[derive(Debug)]
pub enum Stop {
    /// A filter answers it.
    Reply(Box<Reply>),
    /// It failed.
    Failure(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// One exchange in its filters.
#[derive(Debug)]
pub struct Drive {
    worker: Rc<Worker>,
    stages: Vec<Stage>,
    /// The exchange, while no filter has it.
    lent: Option<Box<Lent>>,
    known: Arc<Known>,
    held: Held,
    /// None once the request has left all filters.
    client: Option<ClientBody>,
    request: Progress,
    answer: AnswerBody,
    answered: Progress,
    /// The request's head has come through so many filters.
    through: usize,
    /// So many filters see the answer: those that the request has passed.
    answering: usize,
    /// Why it went no further, for whoever can answer.
    stopped: Option<Stop>,
    /// The filter that decided, if one did.
    mark: Option<Mark>,
}

/// How much of a message was taken from where it comes from, and sent on.
#[derive(Debug, Default)]
struct Progress {
    /// The head was given to the first filter.
    begun: bool,
    /// The last part was given.
    read: bool,
    /// The last part was sent on.
    sent: bool,
    /// A filter has stopped the exchange: no more of it is sent on, whoever
    /// asks.
    stopped: bool,
}

impl Drive {
    /// A request that goes to the filters of its connection, some of which may
    /// have seen its head already.
    #[must_use]
    pub fn new(
        worker: &Rc<Worker>,
        config: &Config,
        steps: &[Step],
        known: Arc<Known>,
        lent: Option<Box<Lent>>,
        glance: Glance,
        client: ClientBody,
    ) -> Self {
        let over = client.is_end_stream();
        let request = Progress {
            begun: glance.has_begun(),
            read: over,
            ..Progress::default()
        };
        let stages = stages(config, steps, glance, over);
        // Snapshots with such a chain are refused. Nothing passes it all the same.
        let missing = stages.len() < steps.len();
        let stopped = missing.then_some(Stop::Failure(MISSING));
        let memory = EXCHANGE + STAGE * stages.len();
        Self {
            worker: Rc::clone(worker),
            through: 0,
            answering: 0,
            stages,
            lent,
            held: Held::new(&known.account, memory),
            known,
            client: Some(client),
            request,
            answer: AnswerBody::Empty,
            answered: Progress::default(),
            stopped,
            mark: None,
        }
    }

    /// The exchange as it is now.
    ///
    /// # Errors
    /// A filter has lost it, which none can.
    pub fn lent(&mut self) -> Result<&mut Lent, Failure> {
        self.lent.as_deref_mut().ok_or(LOST)
    }

    /// Filters up to and including this phase.
    #[must_use]
    pub fn up_to(&self, phase: Phase) -> usize {
        let stages = self.stages.iter();
        stages.take_while(|stage| stage.step.phase <= phase).count()
    }

    /// Whether the request's head has come through so many filters.
    ///
    /// # Errors
    /// Why it goes no further.
    pub fn poll_request(
        &mut self,
        context: &mut Context<'_>,
        filters: usize,
    ) -> Poll<Result<(), Stop>> {
        if let Some(stop) = self.stopped.take() {
            return Poll::Ready(Err(stop));
        }
        if filters <= self.through {
            return Poll::Ready(Ok(()));
        }
        let part = ready!(self.poll_out(Side::Request, filters, context))?;
        if let Some(part) = part
            && let Some(stage) = self.stages.get_mut(filters - 1)
        {
            stage.half(Side::Request).put_back(part);
        }
        self.through = filters;
        let passed = self.stages.get(..filters).unwrap_or_default();
        let last = passed.iter().rposition(Stage::sees_answer);
        self.answering = last.map_or(0, |at| at + 1);
        Poll::Ready(Ok(()))
    }

    /// Takes the request's head, which is sent now.
    ///
    /// # Errors
    /// It is gone already.
    pub fn send(&mut self) -> Result<Parts, Failure> {
        if let Some(stage) = self.stages.last_mut() {
            let head = stage.half(Side::Request).take();
            self.request.sent = head.is_none_or(|head| head.ends());
        }
        self.lent()?.take().ok_or(LOST)
    }

    /// The request is decided on: its head is here now.
    pub fn recorded(&mut self, exchange: &Arc<Exchange>) {
        if let Some(lent) = &mut self.lent {
            lent.recorded(Arc::clone(exchange));
        }
    }

    /// Policy has decided.
    pub fn decided(&mut self, decisions: Decisions) {
        if let Some(lent) = &mut self.lent {
            lent.decided(decisions);
        }
    }

    /// Whether a message is over and sent on.
    #[must_use]
    pub fn is_sent(&self, side: Side) -> bool {
        self.progress(side).sent
    }

    /// The next part of a message's body, on its way out.
    pub fn poll_body(
        &mut self,
        side: Side,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Content>, Failure>>> {
        let progress = self.progress(side);
        if progress.stopped {
            return Poll::Ready(Some(Err(Failure::Answered)));
        }
        if progress.sent {
            return Poll::Ready(None);
        }
        let filters = match side {
            Side::Request => self.stages.len(),
            Side::Response => self.answering,
        };
        let part = match ready!(self.poll_out(side, filters, context)) {
            Ok(part) => part,
            Err(stop) => return Poll::Ready(Some(Err(self.stop(stop)))),
        };
        self.progress_mut(side).sent = part.as_ref().is_none_or(Part::ends);
        self.charge();
        Poll::Ready(match part {
            Some(Part::Data { content, .. }) if content.has_remaining() => {
                Some(Ok(Frame::data(content)))
            }
            Some(Part::Data { end: false, .. }) => return self.poll_body(side, context),
            Some(Part::Trailers) => {
                let trailers = self.lent.as_mut().and_then(|lent| match side {
                    Side::Request => lent.request_trailers.take(),
                    Side::Response => lent.response_trailers.take(),
                });
                trailers.map(|trailers| Ok(Frame::trailers(trailers)))
            }
            Some(Part::Data { .. } | Part::Head { .. }) | None => None,
        })
    }

    /// Deals with what came for filters while neither message moves, and says
    /// whether one of them has stopped the exchange.
    pub fn poll_stopped(&mut self, context: &mut Context<'_>) -> Poll<Failure> {
        for at in 0..self.stages.len() {
            for side in [Side::Request, Side::Response] {
                let polled = self.poll_events(at, side, Poller::Watcher, context);
                if let Poll::Ready(Err(stop)) = polled {
                    return Poll::Ready(self.stop(stop));
                }
            }
        }
        match &self.stopped {
            Some(_stop) => Poll::Ready(Failure::Answered),
            None => Poll::Pending,
        }
    }

    /// What stopped it, for whoever can answer.
    pub fn take_stopped(&mut self) -> Option<Stop> {
        self.stopped.take()
    }

    /// The filter that decided about it, if one did.
    #[must_use]
    pub fn mark(&self) -> Option<&Mark> {
        self.mark.as_ref()
    }

    /// What the filters did to it.
    pub fn runs(&mut self) -> Runs {
        let runs = self.stages.iter().filter_map(Stage::run);
        let runs = runs.collect();
        let marks = self
            .lent
            .as_mut()
            .map(|lent| std::mem::take(&mut lent.marks));
        Runs {
            runs,
            marks: marks.unwrap_or_default(),
        }
    }

    /// Keeps why it stopped for whoever answers, and says so to whoever sends.
    fn stop(&mut self, stop: Stop) -> Failure {
        let failure = match &stop {
            Stop::Failure(failure) => *failure,
            Stop::Reply(_) => Failure::Answered,
        };
        if self.stopped.is_none() {
            self.stopped = Some(stop);
            self.stages.iter().for_each(Stage::wake);
        }
        failure
    }

    /// The next part that comes out behind so many filters.
    fn poll_out(
        &mut self,
        side: Side,
        filters: usize,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Part>, Stop>> {
        if filters == 0 {
            return self.poll_source(side, context);
        }
        let (at, by) = match side {
            Side::Request => (filters - 1, Poller::Request),
            Side::Response => (self.answering - filters, Poller::Answer),
        };
        loop {
            ready!(self.poll_events(at, side, by, context))?;
            let Some(stage) = self.stages.get_mut(at) else {
                return Poll::Ready(Ok(None));
            };
            let half = stage.half(side);
            if let Some(part) = half.take() {
                return Poll::Ready(Ok(Some(part)));
            }
            if half.waiting {
                return Poll::Pending;
            }
            if half.ended {
                return Poll::Ready(Ok(None));
            }
            let Some(part) = ready!(self.poll_out(side, filters - 1, context))? else {
                return Poll::Ready(Ok(None));
            };
            self.meet(at, side, part)?;
        }
    }

    /// A part comes to a filter.
    fn meet(&mut self, at: usize, side: Side, part: Part) -> Result<(), Stop> {
        let Some(stage) = self.stages.get_mut(at) else {
            return Ok(());
        };
        if !stage.is_open() && !stage.half(side).pass {
            let asker = Asker {
                known: Arc::clone(&self.known),
                direction: stage.step.direction,
            };
            if let Err(fault) = stage.open(&self.worker, asker) {
                self.failed(at, &fault)?;
            }
        }
        let Some(stage) = self.stages.get_mut(at) else {
            return Ok(());
        };
        if !stage.asks_about(side, &part) {
            stage.half(side).let_through(part);
            return Ok(());
        }
        stage.give(side, part);
        Ok(())
    }

    /// Deals with all that a filter is to be told of a message. Pending while
    /// its namespace has no CPU time.
    fn poll_events(
        &mut self,
        at: usize,
        side: Side,
        by: Poller,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Stop>> {
        loop {
            let Some(stage) = self.stages.get_mut(at) else {
                return Poll::Ready(Ok(()));
            };
            stage.sort_mail();
            if let Some(fault) = stage.failed.take() {
                self.failed(at, &fault)?;
                continue;
            }
            let polled = stage.poll_step(&self.worker, side, by, &mut self.lent, context);
            let step = match ready!(polled) {
                None => return Poll::Ready(Ok(())),
                Some(Ok(step)) => step,
                Some(Err(fault)) => {
                    self.failed(at, &fault)?;
                    continue;
                }
            };
            if let Some(reply) = stage.take(side, step) {
                return Poll::Ready(Err(self.replied(at, side, reply)));
            }
            if by == Poller::Watcher {
                // What it moved another task waits for.
                stage.wake();
            }
            self.within_bounds(at, side)?;
        }
    }

    fn progress(&self, side: Side) -> &Progress {
        match side {
            Side::Request => &self.request,
            Side::Response => &self.answered,
        }
    }

    fn progress_mut(&mut self, side: Side) -> &mut Progress {
        match side {
            Side::Request => &mut self.request,
            Side::Response => &mut self.answered,
        }
    }
}

/// The filters of a chain, as far as the configuration has them.
fn stages(config: &Config, steps: &[Step], glance: Glance, end: bool) -> Vec<Stage> {
    let Glance { passed, mut stays } = glance;
    let mut passed = passed.into_iter();
    let mut stages = Vec::with_capacity(steps.len());
    for step in steps {
        let Some((node, spec)) = config.filter(step) else {
            break;
        };
        let mut stage = Stage::new(node, spec, *step);
        if let Some(run) = passed.next() {
            // Only the last one still has the head: the next one has it already.
            let is_here = passed.len() == 0 && stays.is_none();
            stage.has_passed(&run, end, is_here);
        } else if let Some(staying) = stays.take() {
            stage.has_seen_head(staying, end);
        }
        stages.push(stage);
    }
    stages
}

/// An exchange is with its filter for the time of a call only.
const LOST: Failure = Failure::Filter(FaultKind::Trap);

/// A chain names a filter that the configuration lacks.
const MISSING: Failure = Failure::Filter(FaultKind::Load);

impl Drop for Drive {
    fn drop(&mut self) {
        for stage in &mut self.stages {
            stage.close(&self.worker, &mut self.lent);
        }
    }
}
