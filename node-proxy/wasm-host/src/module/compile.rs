//! From a module's bytes to native code, for an engine that may be another process's.

use std::io;

use rayon::{ThreadPool, ThreadPoolBuilder};
use wasmtime::{Engine, RegallocAlgorithm};

use super::Form;
use super::refusal::Refusal;
use super::weigh::{Effort, weigh};
use crate::log::one_line;
use crate::runtime::{RuntimeSettings, config};

/// A compiler recurses as deep as what it compiles.
const STACK: usize = 8 << 20;

/// So many threads that compile.
pub(super) fn threads(count: usize) -> io::Result<ThreadPool> {
    ThreadPoolBuilder::new()
        .num_threads(count.max(1))
        .thread_name(|number| format!("wasm-compile-{number}"))
        .stack_size(STACK)
        .build()
        .map_err(io::Error::other)
}

/// What an engine of this version takes as this module.
pub(super) fn compile(bytes: &[u8], threads: &ThreadPool) -> Result<Vec<u8>, Refusal> {
    let form = Form::of(bytes).map_err(|error| Refusal::Invalid(error.to_string()))?;
    threads.install(|| {
        let engine = engine(weigh(bytes)?).map_err(invalid)?;
        match form {
            Form::Component => engine.precompile_component(bytes),
            Form::Core => engine.precompile_module(bytes),
        }
        .map_err(invalid)
    })
}

/// One that runs nothing.
fn engine(effort: Effort) -> wasmtime::Result<Engine> {
    let mut config = config(RuntimeSettings { instances: 1 });
    if effort == Effort::Little {
        config.cranelift_regalloc_algorithm(RegallocAlgorithm::SinglePass);
    }
    Engine::new(&config)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn invalid(error: wasmtime::Error) -> Refusal {
    Refusal::Invalid(one_line(&format!("{error:#}")))
}
