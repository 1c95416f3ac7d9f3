//! Filters that are components: our own typed ABI, `wasm-sdk/abi/wit`.

mod bindings;
mod convert;
mod host;
mod in_place;

use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Engine, Store};

use self::bindings::{Filter, FilterPre};
use crate::exchange::Exchange;
use crate::fault::Fault;
use crate::instance::{Env, Guest, Message, State, arm, side_of};
use crate::log::one_line;
use crate::runtime::Runtime;
use crate::types::{Command, ContextId, Event, Interests, Manifest, Side, Step};

/// Functions that the world exports.
const EXPORTS: [&str; 4] = ["describe", "configure", "on-event", "drop-context"];

/// A component that fits the world.
pub(crate) struct Compiled {
    pre: FilterPre<State<()>>,
}

/// Why a component is no filter.
#[derive(Debug)]
pub(crate) enum Unfit {
    MissingExport(&'static str),
    Interface(String),
}

impl Compiled {
    pub(crate) fn new(engine: &Engine, component: &Component) -> Result<Self, Unfit> {
        for name in EXPORTS {
            if component.get_export_index(None, name).is_none() {
                return Err(Unfit::MissingExport(name));
            }
        }
        let unfit = |error: wasmtime::Error| Unfit::Interface(format!("{error:#}"));
        let mut linker = Linker::new(engine);
        Filter::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state).map_err(unfit)?;
        in_place::add_to(&mut linker).map_err(unfit)?;
        let pre = linker.instantiate_pre(component).map_err(unfit)?;
        let pre = FilterPre::new(pre).map_err(unfit)?;
        Ok(Self { pre })
    }

    pub(crate) fn component(&self) -> &Component {
        self.pre.instance_pre().component()
    }

    /// Runs what is to be run once, in an instance that is thrown away.
    pub(crate) fn describe(&self, runtime: &Runtime, env: &Arc<Env>) -> Result<Manifest, Fault> {
        let mut instance = Instance::start(self, runtime, env, env.limits.start_deadline)?;
        instance
            .go_on(|filter, store| filter.call_describe(store))
            .map(convert::manifest)
    }

    /// An instance that has taken its configuration, all of it within `limit`.
    pub(crate) fn instantiate(
        &self,
        runtime: &Runtime,
        env: &Arc<Env>,
        limit: Duration,
    ) -> Result<Instance, Fault> {
        let mut instance = Instance::start(self, runtime, env, limit)?;
        let config = env.config.clone();
        let interests = instance
            .go_on(|filter, store| filter.call_configure(store, &config))?
            .map_err(|why| Fault::Config(one_line(&why)))?;
        instance.interests = convert::interests(interests);
        Ok(instance)
    }
}

/// An instance of one.
pub(crate) struct Instance {
    store: Store<State<()>>,
    filter: Filter,
    /// What it wants to see as it is configured.
    interests: Interests,
}

impl Instance {
    fn start(
        compiled: &Compiled,
        runtime: &Runtime,
        env: &Arc<Env>,
        limit: Duration,
    ) -> Result<Self, Fault> {
        let state = State::new(Arc::clone(env), runtime.pulse());
        let mut store = Store::new(runtime.engine(), state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(env.limits.copied());
        store.epoch_deadline_callback(|mut store| Ok(store.data_mut().look()));
        store.data_mut().begin(limit);
        arm(&mut store);
        match compiled.pre.instantiate(&mut store) {
            Ok(filter) => Ok(Self {
                store,
                filter,
                interests: Interests::default(),
            }),
            Err(error) => Err(store.data().start_fault(&error)),
        }
    }

    fn call<R>(
        &mut self,
        limit: Duration,
        call: impl FnOnce(&Filter, &mut Store<State<()>>) -> wasmtime::Result<R>,
    ) -> Result<R, Fault> {
        self.store.data_mut().begin(limit);
        arm(&mut self.store);
        self.go_on(call)
    }

    /// Another call in the time of the last one.
    fn go_on<R>(
        &mut self,
        call: impl FnOnce(&Filter, &mut Store<State<()>>) -> wasmtime::Result<R>,
    ) -> Result<R, Fault> {
        call(&self.filter, &mut self.store).map_err(|error| self.store.data().fault(&error))
    }
}

impl Guest for Instance {
    fn begins_at(&mut self, now: u64) {
        self.store.data_mut().begins_at(now);
    }

    fn open(&mut self) -> Result<ContextId, Fault> {
        self.store.data_mut().open()
    }

    fn lend(&mut self, context: ContextId, exchange: Box<dyn Exchange>) {
        if let Some(context) = self.store.data_mut().contexts.get_mut(context) {
            context.exchange = Some(exchange);
        }
    }

    fn reclaim(&mut self, context: ContextId) -> Option<Box<dyn Exchange>> {
        self.store
            .data_mut()
            .contexts
            .get_mut(context)?
            .exchange
            .take()
    }

    fn on_event(&mut self, context: ContextId, event: Event) -> Result<Step, Fault> {
        if !self.store.data_mut().accept(context, &event)? {
            return Ok(Step::Pending);
        }
        let limit = self.store.data().env.limits.deadline;
        let step = convert::with_event(&event, |event| {
            self.call(limit, |filter, store| {
                filter.call_on_event(store, context.0, event)
            })
        })?;
        let step = convert::step(step)?;
        let side = match &event {
            Event::FetchDone { id, .. } | Event::Timer { id } => Some(side_of(*id)),
            message => message.side(),
        };
        match side {
            Some(side) if context != ContextId::INSTANCE => {
                self.store.data_mut().answer(context, side, step)
            }
            _ => Ok(Step::Pending),
        }
    }

    fn is_over(&self, context: ContextId) -> bool {
        let Some(context) = self.store.data().contexts.get(context) else {
            return true;
        };
        let passed = |side, message: &Message| message.passed || !self.interests.any(side);
        passed(Side::Request, &context.request)
            && passed(Side::Response, &context.response)
            && context.waiting.is_empty()
    }

    fn close(&mut self, context: ContextId) -> (Option<Box<dyn Exchange>>, Result<(), Fault>) {
        if self.store.data().contexts.get(context).is_none() {
            return (None, Ok(()));
        }
        let limit = self.store.data().env.limits.deadline;
        let closed = if self.is_over(context) {
            Ok(())
        } else {
            self.store.data_mut().running = context;
            self.call(limit, |filter, store| {
                filter.call_drop_context(store, context.0)
            })
        };
        let context = self.store.data_mut().remove(context);
        (context.and_then(|context| context.exchange), closed)
    }

    fn poll(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    fn commands(&mut self, commands: &mut Vec<(ContextId, Command)>) {
        commands.append(&mut self.store.data_mut().commands);
    }

    fn contexts(&self) -> usize {
        self.store.data().contexts.open()
    }

    fn interests(&self) -> Interests {
        self.interests
    }

    fn memory(&self) -> usize {
        self.store.data().limiter.memory()
    }

    fn used(&self, passed: Duration) -> Duration {
        self.store.data().deadline.used(passed)
    }

    fn retire(
        self: Box<Self>,
        commands: &mut Vec<(ContextId, Command)>,
    ) -> Vec<(ContextId, Option<Box<dyn Exchange>>)> {
        self.store.into_data().retire(commands)
    }
}
