//! The engine: one per process, with the thread that moves its epoch on.

mod background;
mod deadline;
mod limiter;
mod ticker;

use std::sync::Arc;

use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Strategy,
};

use crate::clock::{Clock, SystemClock};
use crate::limits::{MAX_MEMORY, MAX_TABLE};

pub use background::giving_way;
pub(crate) use background::step_back;
pub use deadline::thread_time;
pub(crate) use deadline::{Deadline, LOOK_EVERY};
pub(crate) use limiter::{Limiter, MEMORY_OF_ALL};
pub(crate) use ticker::{Pace, Pulse};

/// Deep enough for parsers that recurse; a worker's stack has 2 MiB.
const STACK: usize = 512 * 1024;
/// Core modules that a component may be made of: itself, its adapters.
const MODULES_PER_COMPONENT: u32 = 6;

/// How much room there is for instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuntimeSettings {
    /// Instances at once. Each reserves 4 GiB of addresses, and takes memory only as it is used.
    pub instances: u32,
}

impl Default for RuntimeSettings {
    fn default() -> Self {
        Self { instances: 1024 }
    }
}

/// Why there is no runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// Too little address space, or a processor that it does not know.
    #[error("the WebAssembly engine does not start: {0}")]
    Engine(String),
    /// No thread could be started.
    #[error("a thread of the WebAssembly engine does not start: {0}")]
    Thread(String),
}

/// What runs filters. One per process, shared by all workers.
pub struct Runtime {
    engine: Engine,
    pulse: Pulse,
    clock: Arc<dyn Clock>,
}

impl Runtime {
    /// Starts it, with the machine's clock.
    ///
    /// # Errors
    /// See [`RuntimeError`].
    pub fn new(settings: RuntimeSettings) -> Result<Self, RuntimeError> {
        Self::with_clock(settings, Arc::new(SystemClock))
    }

    /// Starts it, with a clock that filters and values that they share go by. Deadlines go by the
    /// CPU time of the worker all the same.
    ///
    /// # Errors
    /// See [`RuntimeError`].
    pub fn with_clock(
        settings: RuntimeSettings,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, RuntimeError> {
        let engine = Engine::new(&config(settings))
            .map_err(|error| RuntimeError::Engine(format!("{error:#}")))?;
        let pulse = Pulse::start(engine.clone())
            .map_err(|error| RuntimeError::Thread(error.to_string()))?;
        Ok(Self {
            engine,
            pulse,
            clock,
        })
    }

    pub(crate) const fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(crate) fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").finish_non_exhaustive()
    }
}

/// How code is compiled and run. One that differs in what is compiled does not take what another has
/// compiled.
pub(crate) fn config(settings: RuntimeSettings) -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(STACK)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .generate_address_map(false)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool(settings)));
    config
}

fn pool(settings: RuntimeSettings) -> PoolingAllocationConfig {
    let instances = settings.instances.max(1);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(4))
        .total_memories(instances)
        .total_tables(instances.saturating_mul(3))
        .max_core_instances_per_component(MODULES_PER_COMPONENT)
        .max_memories_per_component(1)
        .max_tables_per_component(4)
        .max_memories_per_module(1)
        .max_tables_per_module(2)
        .max_memory_size(MAX_MEMORY)
        .table_elements(MAX_TABLE)
        // What an instance leaves behind is given back at once: nothing of it can be read later,
        // and an idle node keeps no memory.
        .linear_memory_keep_resident(0)
        .table_keep_resident(0)
        .decommit_batch_size(1)
        .pagemap_scan(Enabled::No);
    pool
}
