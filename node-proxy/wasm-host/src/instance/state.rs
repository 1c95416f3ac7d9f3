//! What an instance's store holds, and what both ABIs do with it.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use wasmtime::{Error, PoolConcurrencyLimitError, Store, Trap, UpdateDeadline};

use super::contexts::Waiting;
use super::flow::withdraw;
use super::names::Names;
use super::{Context, Contexts, Env};
use crate::exchange::Exchange;
use crate::fault::Fault;
use crate::headers::{self, Put, Refusal};
use crate::log::{LogRecord, one_line, one_line_of};
use crate::runtime::{Deadline, LOOK_EVERY, Limiter, MEMORY_OF_ALL, Pace, Pulse};
use crate::shared::metrics::{Metric, MetricKind};
use crate::types::{Command, ContextId, FetchError, FetchRequest, Fields, Labels, Level, Side};

/// Lines that one call may log.
const LINES_PER_CALL: usize = 64;
/// Labels that a line may have.
const LABELS_PER_LINE: usize = 16;
/// Longest key or value of one.
const MAX_LABEL: usize = 1024;
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
    names: Names,
    pace: Pace,
    /// When the next call begins, by the filter's clock.
    now: Option<u64>,
    next: u64,
    /// The context that the running event is of.
    pub(crate) running: ContextId,
    pub(super) fetches: usize,
    lines: usize,
    /// The last line, while the instance starts: why it does not, for those that can say it in no
    /// other way.
    pub(crate) last_words: Option<String>,
    marks: usize,
    asked: usize,
    /// Bytes that the running event has given out.
    pub(super) given: usize,
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
            limiter: Limiter::new(&env.limits, Arc::clone(&env.memory)),
            contexts: Contexts::new(),
            commands: Vec::new(),
            deadline: Deadline::default(),
            metrics: Vec::new(),
            names: Names::default(),
            pace: Pace::new(pulse, env.limits.deadline.min(env.limits.start_deadline)),
            now: None,
            next: 0,
            running: ContextId::INSTANCE,
            fetches: 0,
            lines: 0,
            last_words: None,
            marks: 0,
            asked: 0,
            given: 0,
            env,
        }
    }

    /// The next call begins then, by the filter's clock. Nothing runs until it does.
    pub(crate) const fn begins_at(&mut self, now: u64) {
        self.now = Some(now);
        self.deadline.rest();
    }

    /// A call of the filter's code begins.
    pub(crate) fn begin(&mut self, limit: Duration) {
        self.deadline.start(limit, self.now.take());
        self.lines = 0;
        self.marks = 0;
        self.asked = 0;
        self.given = 0;
        self.pace.beat();
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

    /// Closes a context, and cancels what it waits for.
    pub(crate) fn remove(&mut self, id: ContextId) -> Option<Context<X>> {
        let context = self.contexts.remove(id)?;
        for waiting in &context.waiting {
            self.fetches -= usize::from(waiting.fetch);
            withdraw(&mut self.commands, id, *waiting);
        }
        Some(context)
    }

    pub(crate) fn exchange(&mut self, id: ContextId) -> Option<&mut (dyn Exchange + 'static)> {
        self.contexts.get_mut(id)?.exchange.as_deref_mut()
    }

    pub(crate) fn fields(&self, id: ContextId, of: Fields) -> Option<&HeaderMap> {
        self.contexts.get(id)?.exchange.as_deref()?.fields(of)
    }

    /// A header as a filter wrote it.
    pub(crate) fn header(
        &self,
        name: &[u8],
        value: &[u8],
    ) -> Result<(HeaderName, HeaderValue), Refusal> {
        Ok((self.names.name(name)?, headers::value(value)?))
    }

    pub(crate) fn put_header(
        &mut self,
        id: ContextId,
        of: Fields,
        (name, value): (HeaderName, HeaderValue),
        how: Put,
    ) -> Result<(), Refusal> {
        let context = self.contexts.get_mut(id).ok_or(Refusal::Absent)?;
        let exchange = context.exchange.as_deref_mut().ok_or(Refusal::Absent)?;
        headers::put(exchange, of, name, value, how, &mut context.written)
    }

    pub(crate) fn drop_header(
        &mut self,
        id: ContextId,
        of: Fields,
        name: &[u8],
    ) -> Result<(), Refusal> {
        let name = self.names.name(name)?;
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
        let size = request.body.len() + size_of_fields(&request.headers);
        let size = size + size_of_fields(&request.trailers);
        if !self.may_ask() || !self.may_give(size) {
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
        // What is asked for in another one's event is about what is held.
        let side = match (
            id == self.running,
            context.request.waits,
            context.response.waits,
        ) {
            (true, _, _) | (false, false, false) => context.side,
            (false, true, _) => Side::Request,
            (false, false, true) => Side::Response,
        };
        let number = self.next << 1 | u64::from(side == Side::Response);
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
        if let Some(words) = &mut self.last_words {
            *words = one_line(message);
        }
        let labels: Labels = labels
            .iter()
            .take(LABELS_PER_LINE)
            .map(|(key, value)| (one_line_of(key, MAX_LABEL), one_line_of(value, MAX_LABEL)))
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

    /// The call is still running after a tick.
    pub(crate) fn look(&mut self) -> UpdateDeadline {
        self.pace.watch();
        self.deadline.look()
    }

    /// What an instance that does not start means.
    pub(crate) fn start_fault(&self, error: &Error) -> Fault {
        match error.downcast_ref::<PoolConcurrencyLimitError>() {
            Some(full) => Fault::NoRoom(full.to_string()),
            None => match self.fault(error) {
                Fault::Memory {
                    what: MEMORY_OF_ALL,
                } => Fault::NoRoom(format!("{MEMORY_OF_ALL} is used up")),
                fault => fault,
            },
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
    store.set_epoch_deadline(LOOK_EVERY);
}

fn size_of_fields(fields: &HeaderMap) -> usize {
    let sizes = fields
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len());
    sizes.sum()
}
