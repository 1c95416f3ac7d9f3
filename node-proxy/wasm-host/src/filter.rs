//! A filter: a module with its configuration, limits and policies. Made on a thread that has time,
//! then shared by all workers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::budget::Memory;
use crate::fault::{Fault, OnError};
use crate::instance::{Env, Guest, Plugin};
use crate::limits::Limits;
use crate::log::Log;
use crate::module::{Code, Module};
use crate::runtime::{Runtime, thread_time};
use crate::shared::instances::{Instances, Permit};
use crate::shared::kv::Kv;
use crate::shared::metrics::Metrics;
use crate::shared::queue::Queues;
use crate::types::Manifest;

/// An instance that takes longer than this to start is not made on a worker.
pub const INLINE_START: Duration = Duration::from_millis(2);
/// One that was quicker once and takes longer than this the next time is stopped: it is made
/// elsewhere.
pub(crate) const INLINE_LIMIT: Duration = Duration::from_millis(8);
/// How often the time that an instance takes to start is taken, while it seems too long.
const MEASURED: usize = 3;

/// Who shares an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Isolation {
    /// All requests of a worker.
    #[default]
    Worker,
    /// Nobody: each request has one of its own.
    Request,
}

/// What outlives a reload: the same for all versions of a filter.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Values with a time to live.
    pub kv: Arc<Kv>,
    /// Metrics that it defined.
    pub metrics: Arc<Metrics>,
    /// Queues, which filters of one `vm_id` have in common.
    pub queues: Arc<Queues>,
    /// Instances that are there, where each request has one of its own.
    pub instances: Arc<Instances>,
    /// Memory, which the filters of a namespace have in common.
    pub memory: Arc<Memory>,
}

impl Shared {
    /// Nothing yet, with room for what `limits` say, and with this memory.
    #[must_use]
    pub fn new(limits: &Limits, memory: Arc<Memory>) -> Self {
        Self {
            kv: Arc::new(Kv::new(limits.kv)),
            metrics: Arc::default(),
            queues: Arc::default(),
            instances: Arc::default(),
            memory,
        }
    }
}

/// What a module is to become.
#[derive(Clone)]
pub struct FilterSpec {
    /// Namespace and name of the object that it comes from.
    pub name: String,
    /// Its configuration: JSON, for our own ABI.
    pub config: Bytes,
    /// What it may take.
    pub limits: Limits,
    /// What becomes of requests when it fails.
    pub on_error: OnError,
    /// Who shares an instance.
    pub isolation: Isolation,
    /// Of a proxy-wasm filter.
    pub plugin: Plugin,
    /// What outlives it.
    pub shared: Shared,
    /// Where its lines go.
    pub log: Arc<dyn Log>,
}

/// Why a module does not become a filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigureError {
    /// A limit is beyond what a node allows.
    #[error("{0}")]
    Limits(String),
    /// Each request is to have an instance of its own, which is made on the worker while the others
    /// wait.
    #[error(
        "isolation: an instance of this filter takes {} ms to start, and for each request to have one of its own it may take {} ms at most; use isolation: worker, or do less when it starts",
        .cost.as_millis(),
        INLINE_START.as_millis()
    )]
    TooSlow {
        /// What it takes.
        cost: Duration,
    },
    /// It refused its configuration, or did not start.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// A filter that has taken its configuration once.
pub struct Filter {
    runtime: Arc<Runtime>,
    module: Arc<Module>,
    env: Arc<Env>,
    manifest: Manifest,
    on_error: OnError,
    isolation: Isolation,
    start_cost: Duration,
    instances: Arc<Instances>,
    /// Instances that were made before a worker wants them.
    ready: Mutex<Vec<Box<dyn Guest>>>,
}

impl Filter {
    /// Configures a module, by making an instance and throwing it away: what fails fails here, and
    /// whatever serves now goes on serving.
    ///
    /// # Errors
    /// See [`ConfigureError`].
    pub fn configure(
        runtime: Arc<Runtime>,
        module: Arc<Module>,
        spec: FilterSpec,
    ) -> Result<Arc<Self>, ConfigureError> {
        spec.limits.check().map_err(ConfigureError::Limits)?;
        let env = Arc::new(Env {
            name: spec.name,
            config: spec.config,
            limits: spec.limits,
            kv: spec.shared.kv,
            queues: spec.shared.queues,
            metrics: spec.shared.metrics,
            memory: spec.shared.memory,
            clock: Arc::clone(runtime.clock()),
            log: spec.log,
            plugin: spec.plugin,
        });
        let manifest = match &module.code {
            Code::Component(compiled) => compiled.describe(&runtime, &env)?,
            Code::ProxyWasm(compiled) => compiled.describe(&runtime, &env)?,
        };
        let mut filter = Self {
            runtime,
            module,
            env,
            manifest,
            on_error: spec.on_error,
            isolation: spec.isolation,
            start_cost: Duration::ZERO,
            instances: spec.shared.instances,
            ready: Mutex::default(),
        };
        filter.start_cost = filter.measure()?;
        if filter.isolation == Isolation::Request && filter.start_cost > INLINE_START {
            let cost = filter.start_cost;
            return Err(ConfigureError::TooSlow { cost });
        }
        Ok(Arc::new(filter))
    }

    /// CPU time that it takes to make an instance, which says what it wants to see. The first one may find code that nothing has
    /// read yet, so one that seems too slow is looked at again.
    fn measure(&mut self) -> Result<Duration, Fault> {
        let mut best = Duration::MAX;
        for _time in 0..MEASURED {
            let start = thread_time();
            let instance = self.instantiate()?;
            let cost = thread_time().saturating_sub(start);
            self.manifest.interests = self.manifest.interests.and(instance.interests());
            drop(instance);
            best = best.min(cost);
            if best <= INLINE_START || best > INLINE_LIMIT {
                break;
            }
        }
        Ok(best)
    }

    /// Another instance that has taken the configuration. It can be sent to the worker that is to
    /// have it.
    ///
    /// # Errors
    /// What its code did, or that there is no room.
    pub fn instantiate(&self) -> Result<Box<dyn Guest>, Fault> {
        self.instantiate_within(self.env.limits.start_deadline)
    }

    /// The same on a worker, which has no more time for it than this.
    pub(crate) fn instantiate_within(&self, limit: Duration) -> Result<Box<dyn Guest>, Fault> {
        let (runtime, env) = (&self.runtime, &self.env);
        Ok(match &self.module.code {
            Code::Component(compiled) => Box::new(compiled.instantiate(runtime, env, limit)?),
            Code::ProxyWasm(compiled) => Box::new(compiled.instantiate(runtime, env, limit)?),
        })
    }

    /// Makes an instance for each of so many workers, for them to find when it comes into force:
    /// to make it there would hold up all that the worker serves. One that takes longer than a
    /// worker has for it is made elsewhere in any case, and one that fails is left to the worker,
    /// which says so.
    pub fn make_ready(&self, workers: usize) {
        if self.isolation == Isolation::Request || self.start_cost > INLINE_START {
            return;
        }
        let limit = INLINE_LIMIT.min(self.env.limits.start_deadline);
        let made = (0..workers).map_while(|_| self.instantiate_within(limit).ok());
        let made: Vec<_> = made.collect();
        self.ready().extend(made);
    }

    /// One of those that were made before.
    pub(crate) fn take_ready(&self) -> Option<Box<dyn Guest>> {
        self.ready().pop()
    }

    fn ready(&self) -> MutexGuard<'_, Vec<Box<dyn Guest>>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for an instance that one request is to have.
    pub(crate) fn permit(&self) -> Result<Permit, Fault> {
        let most = self.env.limits.instances;
        let full = || Fault::NoRoom(format!("{most} instances of the filter are there already"));
        self.instances.take(most).ok_or_else(full)
    }

    /// Namespace and name of the object that it comes from.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.env.name
    }

    /// The module that it is made of.
    #[must_use]
    pub const fn module(&self) -> &Arc<Module> {
        &self.module
    }

    /// What it says of itself, and wants to see as it is configured.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What it may take.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.env.limits
    }

    /// What becomes of requests when it fails.
    #[must_use]
    pub const fn on_error(&self) -> &OnError {
        &self.on_error
    }

    /// Who shares an instance.
    #[must_use]
    pub const fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// CPU time that it took to make an instance and configure it.
    #[must_use]
    pub const fn start_cost(&self) -> Duration {
        self.start_cost
    }

    pub(crate) fn now(&self) -> u64 {
        self.env.clock.monotonic()
    }
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filter")
            .field("name", &self.env.name)
            .field("module", &self.module)
            .finish_non_exhaustive()
    }
}

/// What a module says of itself, without a configuration.
///
/// # Errors
/// What its code did.
pub fn describe(runtime: &Runtime, module: &Module) -> Result<Manifest, Fault> {
    let limits = Limits::default();
    let memory = Arc::new(Memory::new(limits.memory));
    let shared = Shared::new(&limits, memory);
    let env = Arc::new(Env {
        name: String::new(),
        config: Bytes::new(),
        limits,
        kv: shared.kv,
        queues: shared.queues,
        metrics: shared.metrics,
        memory: shared.memory,
        clock: Arc::clone(runtime.clock()),
        log: Arc::new(crate::log::NoLog),
        plugin: Plugin::default(),
    });
    match &module.code {
        Code::Component(compiled) => compiled.describe(runtime, &env),
        Code::ProxyWasm(compiled) => compiled.describe(runtime, &env),
    }
}
