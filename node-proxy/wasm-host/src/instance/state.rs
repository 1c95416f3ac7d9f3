//! What an instance's store holds, and what both ABIs do with it.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use wasmtime::{Error, PoolConcurrencyLimitError, Store, Trap, UpdateDeadline};

use super::contexts::Waiting;
use super::{Context, Contexts, Env};
use crate::exchange::Exchange;
use crate::fault::Fault;
use crate::headers::{self, Put, Refusal};
use crate::log::{LogRecord, one_line};
use crate::runtime::{Deadline, FIRST_LOOK, Limiter, Pulse};
use crate::shared::metrics::{Metric, MetricKind};
use crate::types::{
    Command, ContextId, Event, FetchError, FetchRequest, Fields, Labels, Level, Side,
};

/// Lines that one call may log.
const LINES_PER_CALL: usize = 64;
/// Attributes and events of the span that one call may give.
const MARKS_PER_CALL: usize = 64;
/// Fetches and timers that one call may ask for, also those that it cancels again.
const ASKED_PER_CALL: usize = 256;
/// Fetches and timers of the instance itself at once.
const OF_INSTANCE: usize = 1024;

/// `X` is what an ABI keeps of each context.
pub(crate) struct State<X> {
    pub(crate) env: Arc<Env>,
    pub(crate) contexts: Contexts<X>,
    pub(crate) commands: Vec<(ContextId, Command)>,
    pub(crate) limiter: Limiter,
    pub(crate) deadline: Deadline,
    metrics: Vec<Arc<Metric>>,
    pulse: Pulse,
    next: u64,
    fetches: usize,
    lines: usize,
    marks: usize,
    asked: usize,
}

/// What a filter waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Fetch,
    Timer,
}

impl<X: Default> State<X> {
    pub(crate) fn new(env: Arc<Env>, pulse: Pulse) -> Self {
        Self {
            limiter: Limiter::new(&env.limits),
            env,
            contexts: Contexts::new(),
            commands: Vec::new(),
            deadline: Deadline::default(),
            metrics: Vec::new(),
            pulse,
            next: 0,
            fetches: 0,
            lines: 0,
            marks: 0,
            asked: 0,
        }
    }

    /// A call of the filter's code begins.
    pub(crate) fn begin(&mut self, limit: Duration) {
        self.deadline.start(limit);
        self.lines = 0;
        self.marks = 0;
        self.asked = 0;
        self.pulse.beat();
    }

    /// A new context, if there is room for it.
    pub(crate) fn open(&mut self) -> Result<ContextId, Fault> {
        if self.contexts.open() >= self.env.limits.contexts {
            return Err(Fault::NoRoom(format!(
                "{} requests are in the filter already",
                self.contexts.open()
            )));
        }
        Ok(self.contexts.insert())
    }

    /// Notes what an event is about. False if nobody waits for it any more.
    pub(crate) fn accept(&mut self, id: ContextId, event: &Event) -> Result<bool, Fault> {
        let context = self
            .contexts
            .get_mut(id)
            .ok_or(Fault::Misuse("an event of a context that is not open"))?;
        let (number, fetch) = match event {
            Event::FetchDone { id, .. } => (*id, true),
            Event::Timer { id } => (*id, false),
            message => {
                if id == ContextId::INSTANCE {
                    return Err(Fault::Misuse("a message without a context"));
                }
                context.side = message.side().unwrap_or(Side::Request);
                return Ok(true);
            }
        };
        let waiting = Waiting { id: number, fetch };
        let Some(at) = context.waiting.iter().position(|one| *one == waiting) else {
            return Ok(false);
        };
        context.waiting.swap_remove(at);
        context.side = side_of(number);
        self.fetches -= usize::from(fetch);
        Ok(true)
    }

    /// Closes a context, and cancels what it waits for.
    pub(crate) fn remove(&mut self, id: ContextId) -> Option<Context<X>> {
        let context = self.contexts.remove(id)?;
        for waiting in &context.waiting {
            self.fetches -= usize::from(waiting.fetch);
            withdraw(&mut self.commands, id, *waiting);
        }
        Some(context)
    }

    /// Who is in it when it ends; cancels what anybody in it waits for. What was asked for and has not
    /// been told never was.
    pub(crate) fn retire(
        mut self,
        commands: &mut Vec<(ContextId, Command)>,
    ) -> Vec<(ContextId, Option<Box<dyn Exchange>>)> {
        let ids: Vec<ContextId> = self.contexts.ids().collect();
        for id in ids.iter().chain([&ContextId::INSTANCE]) {
            let waiting = self.contexts.get_mut(*id);
            let waiting = waiting.map(|context| std::mem::take(&mut context.waiting));
            for one in waiting.unwrap_or_default() {
                withdraw(&mut self.commands, *id, one);
            }
        }
        let of_cancelling = |command: &Command| {
            matches!(
                command,
                Command::CancelFetch { .. } | Command::CancelTimer { .. }
            )
        };
        commands.extend(
            self.commands
                .into_iter()
                .filter(|(_, command)| of_cancelling(command)),
        );
        ids.into_iter()
            .filter_map(|id| Some((id, self.contexts.remove(id)?.exchange)))
            .collect()
    }

    pub(crate) fn exchange(&mut self, id: ContextId) -> Option<&mut (dyn Exchange + 'static)> {
        self.contexts.get_mut(id)?.exchange.as_deref_mut()
    }

    pub(crate) fn fields(&self, id: ContextId, of: Fields) -> Option<&HeaderMap> {
        self.contexts.get(id)?.exchange.as_deref()?.fields(of)
    }

    pub(crate) fn put_header(
        &mut self,
        id: ContextId,
        of: Fields,
        name: &[u8],
        value: &[u8],
        how: Put,
    ) -> Result<(), Refusal> {
        let context = self.contexts.get_mut(id).ok_or(Refusal::Absent)?;
        let exchange = context.exchange.as_deref_mut().ok_or(Refusal::Absent)?;
        let name = headers::name(name)?;
        headers::put(exchange, of, name, value, how, &mut context.written)
    }

    pub(crate) fn drop_header(
        &mut self,
        id: ContextId,
        of: Fields,
        name: &[u8],
    ) -> Result<(), Refusal> {
        let name = headers::name(name)?;
        let exchange = self.exchange(id).ok_or(Refusal::Absent)?;
        headers::remove(exchange, of, &name)
    }

    pub(crate) fn start_fetch(
        &mut self,
        id: ContextId,
        mut request: FetchRequest,
    ) -> Result<u64, FetchError> {
        let limits = &self.env.limits;
        if request.body.len() > limits.fetch_body {
            return Err(FetchError::Invalid(format!(
                "the body has {} bytes, the most is {}",
                request.body.len(),
                limits.fetch_body
            )));
        }
        request.timeout = match request.timeout {
            Duration::ZERO => limits.fetch_timeout,
            timeout => timeout.min(limits.fetch_timeout),
        };
        if !self.may_ask() {
            return Err(FetchError::Overloaded);
        }
        let number = self.wait(id, Wanted::Fetch)?;
        let request = Box::new(request);
        let command = Command::StartFetch {
            id: number,
            request,
        };
        self.commands.push((id, command));
        Ok(number)
    }

    /// None when there are too many.
    pub(crate) fn set_timer(&mut self, id: ContextId, after: Duration) -> Option<u64> {
        match self.may_ask() {
            true => self.arm_timer(id, after),
            false => None,
        }
    }

    /// The same for a timer of which there is one at once: however often a call sets it again, it
    /// is there after.
    pub(crate) fn arm_timer(&mut self, id: ContextId, after: Duration) -> Option<u64> {
        let number = self.wait(id, Wanted::Timer).ok()?;
        self.commands
            .push((id, Command::SetTimer { id: number, after }));
        Some(number)
    }

    pub(crate) fn cancel(&mut self, id: ContextId, number: u64, wanted: Wanted) -> bool {
        let waiting = Waiting {
            id: number,
            fetch: wanted == Wanted::Fetch,
        };
        let Some(context) = self.contexts.get_mut(id) else {
            return false;
        };
        let Some(at) = context.waiting.iter().position(|one| *one == waiting) else {
            return false;
        };
        context.waiting.swap_remove(at);
        self.fetches -= usize::from(waiting.fetch);
        withdraw(&mut self.commands, id, waiting);
        true
    }

    const fn may_ask(&mut self) -> bool {
        self.asked += 1;
        self.asked <= ASKED_PER_CALL
    }

    /// A number to wait for.
    fn wait(&mut self, id: ContextId, wanted: Wanted) -> Result<u64, FetchError> {
        let fetch = wanted == Wanted::Fetch;
        let limits = &self.env.limits;
        let most = match (id, wanted) {
            (ContextId::INSTANCE, _) => OF_INSTANCE,
            (_, Wanted::Fetch) => limits.fetches_per_context,
            (_, Wanted::Timer) => limits.timers_per_context,
        };
        let context = self
            .contexts
            .get_mut(id)
            .ok_or_else(|| FetchError::Invalid("the context is not open".to_owned()))?;
        let same = context.waiting.iter().filter(|one| one.fetch == fetch);
        if same.count() >= most || (fetch && self.fetches >= limits.fetches) {
            return Err(FetchError::Overloaded);
        }
        self.next += 1;
        let number = self.next << 1 | u64::from(context.side == Side::Response);
        context.waiting.push(Waiting { id: number, fetch });
        self.fetches += usize::from(fetch);
        Ok(number)
    }

    pub(crate) fn define_metric(
        &mut self,
        kind: MetricKind,
        name: &str,
        labels: Labels,
    ) -> Result<u32, String> {
        let metric = self.env.metrics.resolve(kind, name, labels)?;
        let same = |one: &Arc<Metric>| Arc::ptr_eq(one, &metric);
        let at = self.metrics.iter().position(same).unwrap_or_else(|| {
            self.metrics.push(metric);
            self.metrics.len() - 1
        });
        u32::try_from(at).map_err(|_many| "too many metrics".to_owned())
    }

    pub(crate) fn metric_of(&self, id: u32) -> Option<&Metric> {
        self.metrics.get(id as usize).map(AsRef::as_ref)
    }

    /// Whether a line would be written.
    pub(crate) fn logs(&self, level: Level) -> bool {
        self.lines < LINES_PER_CALL && self.env.log.enabled(&self.env.name, level)
    }

    pub(crate) fn write_log(
        &mut self,
        id: ContextId,
        level: Level,
        message: &str,
        labels: &Labels,
    ) {
        if !self.logs(level) {
            return;
        }
        self.lines += 1;
        let labels: Labels = labels
            .iter()
            .take(MARKS_PER_CALL)
            .map(|(key, value)| (one_line(key), one_line(value)))
            .collect();
        let context = self.contexts.get(id);
        self.env.log.log(LogRecord {
            filter: &self.env.name,
            level,
            message: &one_line(message),
            labels: &labels,
            exchange: context.and_then(|context| context.exchange.as_deref()),
        });
    }

    /// The exchange, if the filter may say something more about its span in this call.
    pub(crate) fn mark(&mut self, id: ContextId) -> Option<&mut (dyn Exchange + 'static)> {
        self.marks += 1;
        if self.marks > MARKS_PER_CALL {
            return None;
        }
        self.exchange(id)
    }

    /// The call is still running: the ticker must not go to sleep before it is over.
    pub(crate) fn look(&mut self) -> UpdateDeadline {
        self.pulse.beat();
        self.deadline.look()
    }

    /// What an instance that does not start means.
    pub(crate) fn start_fault(&self, error: &Error) -> Fault {
        match error.downcast_ref::<PoolConcurrencyLimitError>() {
            Some(full) => Fault::NoRoom(full.to_string()),
            None => self.fault(error),
        }
    }

    /// What a call that failed means.
    pub(crate) fn fault(&self, error: &Error) -> Fault {
        if let Some(what) = self.limiter.refused() {
            return Fault::Memory { what };
        }
        if self.deadline.exceeded() {
            return Fault::Timeout {
                limit: self.deadline.limit(),
            };
        }
        if let Some(trap) = error.downcast_ref::<Trap>() {
            return Fault::Trap(trap.to_string());
        }
        Fault::Trap(one_line(&format!("{:#}", error.root_cause())))
    }
}

/// The epoch from which on the deadline of a call is looked at.
pub(crate) fn arm<T: 'static>(store: &mut Store<T>) {
    store.set_epoch_deadline(FIRST_LOOK);
}

/// The message during which a fetch or a timer was asked for.
pub(crate) const fn side_of(number: u64) -> Side {
    match number & 1 {
        0 => Side::Request,
        _ => Side::Response,
    }
}

/// Nobody waits for it any more. Where nobody was asked yet either, nobody hears of it.
fn withdraw(commands: &mut Vec<(ContextId, Command)>, of: ContextId, waiting: Waiting) {
    // What is cancelled at once is the last one.
    let asked = commands.iter().rposition(|(_, command)| match command {
        Command::StartFetch { id, .. } => waiting.fetch && *id == waiting.id,
        Command::SetTimer { id, .. } => !waiting.fetch && *id == waiting.id,
        _ => false,
    });
    match asked {
        Some(at) => drop(commands.remove(at)),
        None => commands.push((of, cancel(waiting))),
    }
}

const fn cancel(waiting: Waiting) -> Command {
    match waiting.fetch {
        true => Command::CancelFetch { id: waiting.id },
        false => Command::CancelTimer { id: waiting.id },
    }
}
