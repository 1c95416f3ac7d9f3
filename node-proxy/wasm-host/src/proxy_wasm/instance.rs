//! An instance of a module, and the order in which its callbacks come.

mod answers;

use std::sync::Arc;
use std::time::Duration;

use wasmtime::{InstancePre, Store};

use super::callbacks::{Callbacks, find};
use super::vm::{ROOT, Stream, Vm, guest_number};
use crate::exchange::Exchange;
use crate::fault::Fault;
use crate::instance::{Context, Env, Guest, State, arm};
use crate::runtime::{Runtime, thread_time};
use crate::types::{Command, ContextId, Event, Fields, Interests, Side, Step};

/// Exchanges that are over and that the filter is not ready to let go.
const MAX_CLOSING: usize = 1024;
/// How long it may say so.
const LONGEST_CLOSING: Duration = Duration::from_secs(30);
/// A callback may decide about others, and they in turn; after so many rounds it waits for the
/// next event.
const ROUNDS: usize = 8;

/// What a callback returns for a message that may go on.
const CONTINUE: u32 = 0;

pub(crate) struct Instance {
    store: Store<Vm>,
    callbacks: Callbacks,
    /// Exchanges that are over and that the filter does not let go, and since when.
    closing: Vec<(u64, ContextId)>,
    /// Time that the running event has; none once it runs, with its first callback.
    time: Option<Duration>,
}

impl Instance {
    /// Makes one, up to where the module's own initialisation is done.
    pub(super) fn load(
        pre: &InstancePre<Vm>,
        runtime: &Runtime,
        env: &Arc<Env>,
        limit: Duration,
    ) -> Result<Self, Fault> {
        let vm = Vm::new(State::new(Arc::clone(env), runtime.pulse()));
        let mut store = Store::new(runtime.engine(), vm);
        store.limiter(|vm| &mut vm.state.limiter);
        store.epoch_deadline_callback(|mut store| Ok(store.data_mut().state.look()));
        store.data_mut().state.begin(limit);
        arm(&mut store);
        let instance = match pre.instantiate(&mut store) {
            Ok(instance) => instance,
            Err(error) => return Err(store.data().state.start_fault(&error)),
        };
        let memory = instance.get_memory(&mut store, "memory");
        let mut allocate = find(&mut store, &instance, "malloc")?;
        if allocate.is_none() {
            allocate = find(&mut store, &instance, "proxy_on_memory_allocate")?;
        }
        let vm = store.data_mut();
        vm.memory = memory;
        vm.allocate = allocate;
        let callbacks = Callbacks::find(&mut store, &instance)?;
        let initialize = find::<(), ()>(&mut store, &instance, "_initialize")?;
        let start = find::<(), ()>(&mut store, &instance, "_start")?;
        let main = match initialize {
            Some(_) => find::<(u32, u32), u32>(&mut store, &instance, "main")?,
            None => None,
        };
        let mut this = Self {
            store,
            callbacks,
            closing: Vec::new(),
            // It runs already: what initialises the module is a part of its start.
            time: None,
        };
        match (initialize, start) {
            (Some(initialize), _) => this.call(ContextId::INSTANCE, |_, store| {
                initialize.call(&mut *store, ())?;
                match main {
                    Some(main) => main.call(store, (0, 0)).map(drop),
                    None => Ok(()),
                }
            })?,
            (None, Some(start)) => {
                this.call(ContextId::INSTANCE, |_, store| start.call(store, ()))?
            }
            (None, None) => {}
        }
        Ok(this)
    }

    /// Gives it its configuration, in the time that is left of its start.
    pub(super) fn start(&mut self) -> Result<(), Fault> {
        let env = Arc::clone(&self.vm().state.env);
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let vm_length = length(&env.plugin.vm_config);
        let config_length = length(&env.config);
        self.vm_mut().state.last_words = Some(String::new());
        let (started, configured) = self.call(ContextId::INSTANCE, |callbacks, store| {
            if let Some(create) = &callbacks.context_create {
                create.call(&mut *store, (ROOT, 0))?;
            }
            let started = match &callbacks.vm_start {
                Some(start) => start.call(&mut *store, (ROOT, vm_length))? != 0,
                None => true,
            };
            if !started {
                return Ok((false, false));
            }
            let configured = match &callbacks.configure {
                Some(configure) => configure.call(store, (ROOT, config_length))? != 0,
                None => true,
            };
            Ok((true, configured))
        })?;
        let said = self.vm_mut().state.last_words.take();
        let said = said.filter(|said| !said.is_empty());
        let said = said.map_or_else(String::new, |said| format!("; it said: {said}"));
        let refused = |which: &str| Err(Fault::Config(format!("{which} returned false{said}")));
        match (started, configured) {
            (true, true) => self.settle(None).map(drop),
            (true, false) => refused("proxy_on_configure"),
            (false, _) => refused("proxy_on_vm_start"),
        }
    }

    fn vm(&self) -> &Vm {
        self.store.data()
    }

    fn vm_mut(&mut self) -> &mut Vm {
        self.store.data_mut()
    }

    /// An event of a context begins. All callbacks that it leads to share the time of one.
    fn begin(&mut self, context: ContextId) {
        let vm = self.store.data_mut();
        vm.state.running = context;
        self.time = Some(vm.state.env.limits.deadline);
    }

    fn call<R>(
        &mut self,
        context: ContextId,
        call: impl FnOnce(&Callbacks, &mut Store<Vm>) -> wasmtime::Result<R>,
    ) -> Result<R, Fault> {
        let vm = self.store.data_mut();
        vm.effective = context;
        if let Some(time) = self.time.take() {
            vm.state.begin(time);
            arm(&mut self.store);
        }
        let result = call(&self.callbacks, &mut self.store);
        let vm = self.store.data_mut();
        vm.effective = ContextId::INSTANCE;
        result.map_err(|error| vm.state.fault(&error))
    }

    /// A part of a message: what does the filter say to it?
    fn message(&mut self, context: ContextId, event: Event, side: Side) -> Result<Step, Fault> {
        let number = guest_number(context);
        let found = self.context_mut(context)?;
        if found.replied && side == Side::Request {
            return Ok(Step::Pass);
        }
        let follows = !found.message(side).ended;
        let stream = &mut found.extra;
        let headers = |vm: &Vm, of| {
            let count = vm.count_of(context, of);
            u32::try_from(count).unwrap_or(u32::MAX)
        };
        let is_body = matches!(
            event,
            Event::RequestBody { .. } | Event::ResponseBody { .. }
        );
        let argument = match event {
            Event::RequestHeaders { end } => {
                (headers(self.vm(), Fields::RequestHeaders), u32::from(end))
            }
            Event::ResponseHeaders { end } => {
                (headers(self.vm(), Fields::ResponseHeaders), u32::from(end))
            }
            Event::RequestTrailers => (headers(self.vm(), Fields::RequestTrailers), 2),
            Event::ResponseTrailers => (headers(self.vm(), Fields::ResponseTrailers), 2),
            Event::RequestBody { data, end } | Event::ResponseBody { data, end } => {
                let message = stream.message(side);
                message.push(data);
                let length = u32::try_from(message.length()).unwrap_or(u32::MAX);
                (length, u32::from(end))
            }
            Event::FetchDone { .. } | Event::Timer { .. } => return Ok(Step::Pending),
        };
        let action = self.call(context, |callbacks, store| {
            let of_three = match (side, is_body) {
                (Side::Request, false) => &callbacks.request_headers,
                (Side::Request, true) => &callbacks.request_body,
                (Side::Response, false) => &callbacks.response_headers,
                (Side::Response, true) => &callbacks.response_body,
            };
            let trailers = match side {
                Side::Request => &callbacks.request_trailers,
                Side::Response => &callbacks.response_trailers,
            };
            match (argument.1, of_three, trailers) {
                (2, _, Some(trailers)) => trailers.call(store, (number, argument.0)),
                (0 | 1, Some(call), _) => call.call(store, (number, argument.0, argument.1)),
                _ => Ok(CONTINUE),
            }
        })?;
        let message = self.context_mut(context)?.extra.message(side);
        if action == CONTINUE {
            message.resumed = true;
        }
        message.paused = true;
        self.vm_mut().touch_context(context);
        if let Some(step) = self.settle(Some((context, side)))? {
            return Ok(step);
        }
        let step = match is_body && follows {
            true => Step::More,
            false => Step::Pending,
        };
        let held = self.vm_mut().state.decided(context, side, step);
        if held.is_err() {
            self.context_mut(context)?.extra.message(side).release();
        }
        held
    }

    /// What was said about messages becomes steps: the one that is asked for is returned, the
    /// others become commands.
    fn settle(&mut self, asked: Option<(ContextId, Side)>) -> Result<Option<Step>, Fault> {
        let mut answer = None;
        for _round in 0..ROUNDS {
            self.tell_queues()?;
            let touched = self.vm_mut().take_touched();
            if touched.is_empty() {
                break;
            }
            for context in touched {
                for (side, step) in self.decisions(context, asked) {
                    let step = self.vm_mut().state.decided(context, side, step)?;
                    if asked == Some((context, side)) && answer.is_none() {
                        answer = Some(step);
                    } else {
                        let command = Command::Decide { side, step };
                        self.vm_mut().state.commands.push((context, command));
                    }
                }
                let done = self.vm().state.contexts.get(context);
                if done.is_some_and(|context| context.extra.closing && context.extra.done) {
                    self.finish(context)?;
                }
            }
        }
        Ok(answer)
    }

    fn decisions(
        &mut self,
        context: ContextId,
        asked: Option<(ContextId, Side)>,
    ) -> Vec<(Side, Step)> {
        let mut decisions = Vec::new();
        let Some(found) = self.vm_mut().state.contexts.get_mut(context) else {
            return decisions;
        };
        let stream = &mut found.extra;
        if let Some(reply) = stream.reply.take() {
            let side = match asked {
                Some((asked, side)) if asked == context => side,
                _ if stream.response.paused && !stream.request.paused => Side::Response,
                _ => Side::Request,
            };
            stream.request.release();
            stream.response.release();
            decisions.push((side, Step::Reply(reply)));
            return decisions;
        }
        for side in [Side::Request, Side::Response] {
            let message = stream.message(side);
            if std::mem::take(&mut message.resumed) && message.paused {
                decisions.push((side, message.release()));
            }
        }
        decisions
    }

    /// The last callbacks of an exchange.
    fn finish(&mut self, context: ContextId) -> Result<(), Fault> {
        let number = guest_number(context);
        let finished = self.call(context, |callbacks, store| {
            if let Some(log) = &callbacks.log {
                log.call(&mut *store, number)?;
            }
            match &callbacks.delete {
                Some(delete) => delete.call(store, number),
                None => Ok(()),
            }
        });
        self.remove(context);
        finished
    }

    fn remove(&mut self, context: ContextId) -> Option<Box<dyn Exchange>> {
        let vm = self.store.data_mut();
        let removed = vm.state.remove(context)?;
        vm.calls.retain(|_token, call| call.context != context);
        if removed.extra.closing {
            self.closing.retain(|(_since, closing)| *closing != context);
        }
        removed.exchange
    }

    fn context_mut(&mut self, context: ContextId) -> Result<&mut Context<Stream>, Fault> {
        let found = self.vm_mut().state.contexts.get_mut(context);
        found.ok_or(Fault::Misuse("an event of a context that is not open"))
    }
}

impl Guest for Instance {
    fn begins_at(&mut self, now: u64) {
        self.vm_mut().state.begins_at(now);
    }

    fn open(&mut self) -> Result<ContextId, Fault> {
        self.begin(ContextId::INSTANCE);
        let context = self.vm_mut().state.open()?;
        let number = guest_number(context);
        let created = self.call(context, |callbacks, store| {
            match &callbacks.context_create {
                Some(create) => create.call(store, (number, ROOT)),
                None => Ok(()),
            }
        });
        if created.is_err() {
            // Nobody hears of it under this number.
            self.remove(context);
        }
        created.map(|()| context)
    }

    fn lend(&mut self, context: ContextId, exchange: Box<dyn Exchange>) {
        if let Some(context) = self.vm_mut().state.contexts.get_mut(context) {
            context.exchange = Some(exchange);
        }
    }

    fn reclaim(&mut self, context: ContextId) -> Option<Box<dyn Exchange>> {
        self.vm_mut()
            .state
            .contexts
            .get_mut(context)?
            .exchange
            .take()
    }

    fn on_event(&mut self, context: ContextId, event: Event) -> Result<Step, Fault> {
        if !self.vm_mut().state.accept(context, &event)? {
            return Ok(Step::Pending);
        }
        self.begin(context);
        match event {
            Event::FetchDone { id, result } => self.fetched(context, id, result),
            Event::Timer { id } => self.timer(id),
            message => match message.side() {
                Some(side) => self.message(context, message, side),
                None => Ok(Step::Pending),
            },
        }
    }

    fn close(&mut self, context: ContextId) -> (Option<Box<dyn Exchange>>, Result<(), Fault>) {
        match self.vm().state.contexts.get(context) {
            Some(found) if !found.extra.closing && context != ContextId::INSTANCE => {}
            _ => return (None, Ok(())),
        }
        self.begin(context);
        let number = guest_number(context);
        let must_end = self.closing.len() >= MAX_CLOSING;
        let ready = self.call(context, |callbacks, store| {
            let ready = match &callbacks.done {
                Some(done) => done.call(&mut *store, number)? != 0,
                None => true,
            };
            if !ready && !must_end {
                return Ok(false);
            }
            if let Some(log) = &callbacks.log {
                log.call(&mut *store, number)?;
            }
            if let Some(delete) = &callbacks.delete {
                delete.call(store, number)?;
            }
            Ok(true)
        });
        let (exchange, closed) = match ready {
            Ok(true) => (self.remove(context), Ok(())),
            Err(fault) => (self.remove(context), Err(fault)),
            Ok(false) => {
                let since = self.vm().state.env.clock.monotonic();
                self.closing.push((since, context));
                let found = self.vm_mut().state.contexts.get_mut(context);
                let exchange = found.and_then(|found| {
                    found.extra.closing = true;
                    found.exchange.take()
                });
                (exchange, Ok(()))
            }
        };
        let closed = closed.and_then(|()| self.settle(None).map(drop));
        (exchange, closed)
    }

    fn poll(&mut self) -> Result<(), Fault> {
        self.begin(ContextId::INSTANCE);
        self.settle(None).map(drop)
    }

    fn commands(&mut self, commands: &mut Vec<(ContextId, Command)>) {
        commands.append(&mut self.vm_mut().state.commands);
    }

    fn contexts(&self) -> usize {
        self.vm().state.contexts.open()
    }

    fn lingering(&self) -> usize {
        self.closing.len()
    }

    fn sweep(&mut self) -> Result<(), Fault> {
        let env = Arc::clone(&self.vm().state.env);
        let (now, start) = (env.clock.monotonic(), thread_time());
        let is_old =
            |since: u64| u128::from(now.saturating_sub(since)) >= LONGEST_CLOSING.as_nanos();
        let mut ended = false;
        // They are in the order in which they came. What there is no time for is for the next time.
        while let Some((since, context)) = self.closing.first().copied()
            && is_old(since)
            && thread_time().saturating_sub(start) < env.limits.deadline
        {
            self.begin(context);
            self.finish(context)?;
            ended = true;
        }
        match ended {
            true => self.poll(),
            false => Ok(()),
        }
    }

    fn interests(&self) -> Interests {
        self.callbacks.interests()
    }

    fn memory(&self) -> usize {
        self.vm().state.limiter.memory()
    }

    fn used(&self, passed: Duration) -> Duration {
        self.vm().state.deadline.used(passed)
    }

    fn retire(
        self: Box<Self>,
        commands: &mut Vec<(ContextId, Command)>,
    ) -> Vec<(ContextId, Option<Box<dyn Exchange>>)> {
        let mut state = self.store.into_data().state;
        let closing: Vec<ContextId> = state
            .contexts
            .ids()
            .filter(|id| state.contexts.get(*id).is_some_and(|one| one.extra.closing))
            .collect();
        for context in closing {
            // Whoever was in it has gone.
            state.remove(context);
        }
        state.retire(commands)
    }
}
