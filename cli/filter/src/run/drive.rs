//! Drives one instance through one exchange.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use weft_wasm_host::exchange::{Attributes, Exchange};
use weft_wasm_host::{
    Command, ContextId, Event, Fault, Filter, Guest, Interests, Shared, Side, Step, side_of,
};

use super::args::{Message, Script};
use super::exchange::{Offline, Outside, State};
use super::line::{self, Line};
use super::millis;
use super::record::{Entry, Lines, Report, changes};
use super::time::{OfflineClock, cpu_time};

/// Longest time that is waited for a message, by the filter's own clock.
const MAX_WAIT: Duration = Duration::from_secs(300);
/// Calls, after which a filter that always asks for one more is stopped.
const MAX_CALLS: usize = 10_000;

/// Something that will happen.
struct Due {
    context: ContextId,
    at: Duration,
    what: String,
    event: Event,
}

impl Due {
    const fn id(&self) -> u64 {
        match &self.event {
            Event::FetchDone { id, .. } | Event::Timer { id } => *id,
            _ => 0,
        }
    }

    fn is_fetch(&self) -> bool {
        matches!(self.event, Event::FetchDone { .. })
    }
}

pub(super) struct Drive {
    pub(super) filter: Arc<Filter>,
    pub(super) guest: Box<dyn Guest>,
    interests: Interests,
    pub(super) script: Script,
    clock: Arc<OfflineClock>,
    lines: Arc<Lines>,
    pub(super) shared: Shared,
    outside: Arc<Outside>,
    attributes: Arc<Attributes>,
    context: ContextId,
    pub(super) state: State,
    pub(super) request: Line,
    pub(super) response: Option<Line>,
    due: Vec<Due>,
    pub(super) steps: Vec<Entry>,
    pub(super) cpu: Duration,
    /// It failed outside of the exchange's own events.
    pub(super) broken: Option<Fault>,
}

impl Drive {
    /// Starts an instance.
    pub(super) fn new(
        filter: Arc<Filter>,
        interests: Interests,
        mut script: Script,
        clock: Arc<OfflineClock>,
        lines: Arc<Lines>,
        shared: Shared,
    ) -> Result<Self> {
        let began = cpu_time();
        let guest = filter.instantiate().context("a second instance")?;
        let took = cpu_time().saturating_sub(began);
        let state = State {
            method: script.method.to_string(),
            path: script.path.clone(),
            authority: script.authority.clone(),
            request: std::mem::take(&mut script.request.headers),
            response: None,
        };
        let held = filter.limits().held_body;
        let body = std::mem::take(&mut script.request.body);
        let mut drive = Self {
            attributes: Arc::new(std::mem::take(&mut script.attributes)),
            request: Line::new(Side::Request, body, held),
            filter,
            guest,
            interests,
            script,
            clock,
            lines,
            shared,
            outside: Arc::default(),
            context: ContextId::INSTANCE,
            state,
            response: None,
            due: Vec::new(),
            steps: Vec::new(),
            cpu: Duration::ZERO,
            broken: None,
        };
        drive.note("start", took, "configured".to_owned());
        drive.commands();
        Ok(drive)
    }

    /// The whole exchange.
    pub(super) fn run(mut self) -> Report {
        self.settle(None);
        if self.open() {
            self.begin(Side::Request);
            if self.request.has_passed() && self.broken.is_none() {
                self.respond();
            }
            self.close();
        }
        self.report()
    }

    /// False if the filter failed before it saw anything.
    fn open(&mut self) -> bool {
        if self.broken.is_some() {
            return false;
        }
        let began = cpu_time();
        match self.guest.open() {
            Ok(context) => self.context = context,
            Err(fault) => {
                self.note(
                    "context",
                    cpu_time().saturating_sub(began),
                    fault.to_string(),
                );
                self.broken = Some(fault);
                return false;
            }
        }
        self.cpu += cpu_time().saturating_sub(began);
        self.commands();
        true
    }

    fn respond(&mut self) {
        let Message { headers, body } = std::mem::take(&mut self.script.response);
        self.state.response = Some((self.script.status, headers));
        let held = self.filter.limits().held_body;
        self.response = Some(Line::new(Side::Response, body, held));
        self.begin(Side::Response);
    }

    fn begin(&mut self, side: Side) {
        let wants = match side {
            Side::Request => self.interests.request_headers,
            Side::Response => self.interests.response_headers,
        };
        match wants {
            true => {
                if let Some(head) = self.line(side).map(|line| line.head()) {
                    self.message(side, head);
                }
            }
            false => self.apply(side, Ok(Step::Pass)),
        }
        self.settle(Some(side));
    }

    /// Goes on until this message is decided, or nothing is left that could decide it.
    fn settle(&mut self, side: Option<Side>) {
        for _call in 0..MAX_CALLS {
            if self.broken.is_some() {
                return;
            }
            if let Some(due) = self.take_due() {
                self.deliver(due);
            } else if let Some((side, part)) = side.and_then(|side| self.part(side)) {
                self.message(side, part);
            } else if !side.is_some_and(|side| self.waits(side)) {
                return;
            }
        }
        self.broken = Some(Fault::Misuse(
            "it asks for one more event over and over, and does not come to rest",
        ));
    }

    fn part(&mut self, side: Side) -> Option<(Side, Event)> {
        let wants = match side {
            Side::Request => self.interests.request_body,
            Side::Response => self.interests.response_body,
        };
        let part = self.line(side)?.feed(wants)?;
        Some((side, part))
    }

    /// Whether the message is held, and something is to come: then it is time for that.
    fn waits(&mut self, side: Side) -> bool {
        let held = self.line(side).is_some_and(|line| line.is_held());
        let next = self.due.iter().map(|due| due.at).min();
        match next.filter(|at| held && *at <= MAX_WAIT) {
            Some(at) => {
                self.clock.advance_to(at);
                true
            }
            None => false,
        }
    }

    /// What is due first, if it is by now.
    fn take_due(&mut self) -> Option<Due> {
        let now = self.clock.passed();
        let (at, _) = self
            .due
            .iter()
            .enumerate()
            .filter(|(_, due)| due.at <= now)
            .min_by_key(|(_, due)| (due.at, due.id()))?;
        Some(self.due.remove(at))
    }

    fn deliver(&mut self, due: Due) {
        let of_exchange = due.context != ContextId::INSTANCE;
        let side = side_of(due.id());
        let step = self.call(due.context, due.event, due.what, side);
        match (of_exchange, step) {
            (true, step) => self.apply(side, step),
            (false, Ok(_)) => {}
            (false, Err(fault)) => self.broken = Some(fault),
        }
        self.commands();
        if !of_exchange && self.steps.last().is_some_and(Entry::is_quiet) {
            self.steps.pop();
        }
    }

    fn message(&mut self, side: Side, event: Event) {
        let what = describe(&event);
        let step = self.call(self.context, event, what, side);
        self.apply(side, step);
        self.commands();
    }

    /// One call, with the exchange lent for as long as it takes.
    fn call(
        &mut self,
        context: ContextId,
        event: Event,
        what: String,
        side: Side,
    ) -> Result<Step, Fault> {
        self.lend();
        let began = cpu_time();
        let step = self.guest.on_event(context, event);
        let took = cpu_time().saturating_sub(began);
        let of_exchange = context != ContextId::INSTANCE;
        let told = match &step {
            Ok(_) if !of_exchange => "done".to_owned(),
            Ok(step) => told(step, side),
            Err(fault) => fault.to_string(),
        };
        self.note(&what, took, told);
        self.reclaim();
        if step.as_ref().is_err_and(Fault::is_fatal) && !of_exchange {
            self.broken = step.as_ref().err().cloned();
        }
        step
    }

    fn lend(&mut self) {
        if self.context != ContextId::INSTANCE {
            let exchange = Offline {
                state: self.state.clone(),
                attributes: Arc::clone(&self.attributes),
                outside: Arc::clone(&self.outside),
            };
            self.guest.lend(self.context, Box::new(exchange));
        }
    }

    /// Takes the exchange back, and notes what is another than before.
    fn reclaim(&mut self) {
        if self.context == ContextId::INSTANCE {
            return;
        }
        if let Some(exchange) = self.guest.reclaim(self.context) {
            let after = State::of(exchange.as_ref() as &dyn Exchange);
            if let Some(entry) = self.steps.last_mut() {
                entry.changes = changes(&self.state, &after);
            }
            self.state = after;
        }
    }

    fn note(&mut self, event: &str, took: Duration, step: String) {
        self.cpu += took;
        self.steps.push(Entry {
            event: event.to_owned(),
            at_ms: millis(self.clock.passed()),
            cpu_us: took.as_secs_f64() * 1e6,
            step,
            logs: self.lines.take(),
            span: self.outside.take_marks(),
            ..Entry::default()
        });
    }

    fn line(&mut self, side: Side) -> Option<&mut Line> {
        match side {
            Side::Request => Some(&mut self.request),
            Side::Response => self.response.as_mut(),
        }
    }

    fn apply(&mut self, side: Side, step: Result<Step, Fault>) {
        let Some(line) = self.line(side) else {
            return;
        };
        line.apply(step);
        if line.head_sent {
            self.outside.send(side);
        }
    }

    /// Does what the filter asked for in its last call.
    fn commands(&mut self) {
        let mut commands = Vec::new();
        self.guest.commands(&mut commands);
        for (context, command) in commands {
            match command {
                Command::StartFetch { id, request } => {
                    let asked = format!(
                        "fetch {} {}{} -> {}",
                        request.method,
                        request.service,
                        request.path,
                        self.answer(context, id, &request)
                    );
                    self.asked(asked);
                }
                Command::SetTimer { id, after } => {
                    self.asked(format!("timer in {} ms", millis(after)));
                    self.schedule(context, after, "timer".to_owned(), Event::Timer { id });
                }
                Command::CancelFetch { id } => {
                    self.due.retain(|due| due.id() != id || !due.is_fetch())
                }
                Command::CancelTimer { id } => {
                    self.due.retain(|due| due.id() != id || due.is_fetch())
                }
                Command::Decide { side, step } => {
                    self.asked(format!("decides: {}", told(&step, side)));
                    if context == self.context {
                        self.apply(side, Ok(step));
                    }
                }
            }
        }
    }

    /// Answers a fetch, and says with what.
    fn answer(
        &mut self,
        context: ContextId,
        id: u64,
        request: &weft_wasm_host::FetchRequest,
    ) -> String {
        let known = self.script.answers.knows(&request.service);
        let result = self.script.answers.next(request);
        let said = match &result {
            Ok(answer) => answer.status.as_str().to_owned(),
            Err(error) if known => error.to_string(),
            Err(error) => format!(
                "{error} (answer it with --fetch '{}=200 BODY')",
                request.service
            ),
        };
        let after = match &result {
            Err(weft_wasm_host::FetchError::Timeout) => request.timeout,
            _ => Duration::ZERO,
        };
        let what = format!("answer of {}", request.service);
        self.schedule(context, after, what, Event::FetchDone { id, result });
        said
    }

    fn schedule(&mut self, context: ContextId, after: Duration, what: String, event: Event) {
        self.due.push(Due {
            context,
            at: self.clock.passed().saturating_add(after),
            what,
            event,
        });
    }

    fn asked(&mut self, what: String) {
        if let Some(entry) = self.steps.last_mut() {
            entry.asked.push(what);
        }
    }

    fn close(&mut self) {
        if self.broken.as_ref().is_some_and(Fault::is_fatal) || self.trapped() {
            return;
        }
        self.lend();
        let began = cpu_time();
        let (_exchange, closed) = self.guest.close(self.context);
        let took = cpu_time().saturating_sub(began);
        self.context = ContextId::INSTANCE;
        let logs = self.lines.take();
        self.cpu += took;
        if let Err(fault) = closed {
            self.note("end", took, fault.to_string());
            self.broken = Some(fault);
        } else if !logs.is_empty() {
            self.note("end", took, "done".to_owned());
        }
        if let Some(last) = self.steps.last_mut() {
            last.logs.extend(logs);
        }
    }

    /// Its instance is gone.
    fn trapped(&self) -> bool {
        let fatal =
            |line: &Line| matches!(&line.state, line::State::Failed(fault) if fault.is_fatal());
        fatal(&self.request) || self.response.as_ref().is_some_and(fatal)
    }
}

fn describe(event: &Event) -> String {
    let body = |what: &str, length: usize, end: bool| {
        let last = if end { ", the last" } else { "" };
        format!("{what} body, {length} bytes{last}")
    };
    match event {
        Event::RequestHeaders { .. } => "request headers".to_owned(),
        Event::RequestBody { data, end } => body("request", data.len(), *end),
        Event::RequestTrailers => "request trailers".to_owned(),
        Event::ResponseHeaders { .. } => "response headers".to_owned(),
        Event::ResponseBody { data, end } => body("response", data.len(), *end),
        Event::ResponseTrailers => "response trailers".to_owned(),
        Event::FetchDone { .. } => "answer".to_owned(),
        Event::Timer { .. } => "timer".to_owned(),
    }
}

fn told(step: &Step, side: Side) -> String {
    let what = match side {
        Side::Request => "request",
        Side::Response => "response",
    };
    match step {
        Step::Pending => format!("the {what} is held"),
        Step::More => "wants more of the body".to_owned(),
        Step::Proceed => format!("the {what} goes on"),
        Step::Emit(bytes) => format!("the {what} goes on with {} bytes instead", bytes.len()),
        Step::Pass => format!("the {what} goes on, no more is shown"),
        Step::Reply(reply) => format!("answered with {}", reply.status.as_u16()),
    }
}
