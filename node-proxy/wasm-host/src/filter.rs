//! A filter: a module with its configuration, limits and policies. Made on a thread that has time,
//! then shared by all workers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::fault::{Fault, OnError};
use crate::instance::{Env, Guest, Plugin};
use crate::limits::Limits;
use crate::log::Log;
use crate::module::{Code, Module};
use crate::runtime::Runtime;
use crate::shared::kv::Kv;
use crate::shared::metrics::Metrics;
use crate::shared::queue::Queues;
use crate::types::Manifest;

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
}

impl Shared {
    /// Nothing yet, with room for what `limits` say.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            kv: Arc::new(Kv::new(limits.kv)),
            metrics: Arc::default(),
            queues: Arc::default(),
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
        };
        let start = Instant::now();
        drop(filter.instantiate()?);
        filter.start_cost = start.elapsed();
        Ok(Arc::new(filter))
    }

    /// Another instance that has taken the configuration. It can be sent to the worker that is to
    /// have it.
    ///
    /// # Errors
    /// What its code did, or that there is no room.
    pub fn instantiate(&self) -> Result<Box<dyn Guest>, Fault> {
        Ok(match &self.module.code {
            Code::Component(compiled) => Box::new(compiled.instantiate(&self.runtime, &self.env)?),
            Code::ProxyWasm(compiled) => Box::new(compiled.instantiate(&self.runtime, &self.env)?),
        })
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

    /// What it says of itself.
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

    /// How long it took to make an instance and configure it.
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
    let shared = Shared::new(&limits);
    let env = Arc::new(Env {
        name: String::new(),
        config: Bytes::new(),
        limits,
        kv: shared.kv,
        queues: shared.queues,
        metrics: shared.metrics,
        clock: Arc::clone(runtime.clock()),
        log: Arc::new(crate::log::NoLog),
        plugin: Plugin::default(),
    });
    match &module.code {
        Code::Component(compiled) => compiled.describe(runtime, &env),
        Code::ProxyWasm(compiled) => compiled.describe(runtime, &env),
    }
}
