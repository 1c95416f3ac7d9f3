//! Filters for proxy-wasm 0.2.0 and 0.2.1, as Envoy, Istio and Kong run them.
//!
//! Two things differ from our own ABI. A filter says what becomes of a message by the action that a
//! callback returns and by functions that it calls, from any callback and about any exchange: what
//! it says is collected and turned into steps when the callback is over. And it reads held bodies
//! whenever it likes, so they are kept here until they go on.

mod abi;
mod callbacks;
mod grpc;
mod host;
mod instance;
mod property;
mod upstream;
mod vm;
mod wasi;

use std::sync::Arc;
use std::time::Duration;

use wasmtime::{Engine, ExternType, InstancePre, Linker, Module};

pub(crate) use self::instance::Instance;
use self::vm::Vm;
use crate::fault::Fault;
use crate::instance::{Env, Guest};
use crate::runtime::Runtime;
use crate::types::Manifest;

/// What a module must export to be called at all; one of each line.
const NEEDED: [&[&str]; 2] = [&["memory"], &["malloc", "proxy_on_memory_allocate"]];

/// A module that fits.
pub(crate) struct Compiled {
    pre: InstancePre<Vm>,
    /// Functions that it imports and that nobody knows. They trap when they are called, which most
    /// are not.
    unknown: Vec<String>,
}

/// Why a module is no filter.
#[derive(Debug)]
pub(crate) enum Unfit {
    MissingExport(&'static str),
    Import(String),
    Other(String),
}

impl Compiled {
    pub(crate) fn new(engine: &Engine, module: &Module) -> Result<Self, Unfit> {
        for names in NEEDED {
            if !names.iter().any(|name| module.get_export(name).is_some()) {
                return Err(Unfit::MissingExport(names[0]));
            }
        }
        let other = |error: wasmtime::Error| Unfit::Other(format!("{error:#}"));
        let mut linker = Linker::new(engine);
        host::link(&mut linker).map_err(other)?;
        wasi::link(&mut linker).map_err(other)?;
        let mut unknown = Vec::new();
        for import in module.imports() {
            let name = format!("{}.{}", import.module(), import.name());
            if !matches!(import.ty(), ExternType::Func(_)) {
                return Err(Unfit::Import(name));
            }
            if !host::knows(import.module(), import.name())
                && !wasi::knows(import.module(), import.name())
            {
                unknown.push(name);
            }
        }
        linker
            .define_unknown_imports_as_traps(module)
            .map_err(other)?;
        let pre = linker.instantiate_pre(module).map_err(other)?;
        Ok(Self { pre, unknown })
    }

    pub(crate) fn module(&self) -> &Module {
        self.pre.module()
    }

    pub(crate) fn unknown_imports(&self) -> &[String] {
        &self.unknown
    }

    /// What can be said of it: it does not say anything itself.
    pub(crate) fn describe(&self, runtime: &Runtime, env: &Arc<Env>) -> Result<Manifest, Fault> {
        let instance = Instance::load(&self.pre, runtime, env, env.limits.start_deadline)?;
        Ok(Manifest {
            name: env.name.clone(),
            interests: instance.interests(),
            ..Manifest::default()
        })
    }

    /// An instance that has taken its configuration, all of it within `limit`.
    pub(crate) fn instantiate(
        &self,
        runtime: &Runtime,
        env: &Arc<Env>,
        limit: Duration,
    ) -> Result<Instance, Fault> {
        let mut instance = Instance::load(&self.pre, runtime, env, limit)?;
        instance.start()?;
        Ok(instance)
    }
}
