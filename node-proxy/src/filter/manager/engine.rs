//! From digests to modules that can be configured.

use std::collections::HashMap;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};

use bytes::Bytes;
use weft_wasm_host::{Compiler, Digest, LoadError, Loader, Module, Runtime, RuntimeSettings};

use super::compiling::{Compiled, Compiling};
use super::{Message, Setup};
use crate::filter::failure::Failure;
use crate::filter::modules::{Found, Modules, Source};

/// Instances for each worker.
const INSTANCES: usize = 64;

/// Of the process: it reserves a lot of addresses, and proxies of one process
/// (in tests) share it.
static RUNTIME: Mutex<Weak<Runtime>> = Mutex::new(Weak::new());

/// How far a module has come.
pub(super) enum Lookup {
    /// It can be configured.
    Ready(Arc<Module>),
    /// The agent is to be asked for it.
    Missing,
    /// It is being compiled, or waits for that: one is at a time.
    Compiling,
}

/// What loads modules, and what of them is there.
pub(super) struct Engine {
    pub(super) modules: Modules,
    loader: Option<Arc<Loader>>,
    compiler: Compiler,
    loaded: HashMap<Digest, Weak<Module>>,
    /// One that came from the agent and is not in force yet.
    fetched: Option<(Digest, Bytes)>,
    /// The last one that came could be stored.
    stores: bool,
    pub(super) compiling: Compiling,
    from_agent: bool,
    workers: usize,
}

impl Engine {
    /// What it compiles is told to `own`.
    pub(super) fn new(setup: &Setup, own: mpsc::Sender<Message>) -> Self {
        Self {
            modules: Modules::new(&setup.source, setup.state.as_deref()),
            loader: None,
            compiler: setup.compiler.clone(),
            loaded: HashMap::new(),
            fetched: None,
            stores: true,
            compiling: Compiling::new(own),
            from_agent: matches!(setup.source, Source::Agent(_)),
            workers: setup.workers,
        }
    }

    /// A module has come from the agent.
    pub(super) fn bring(&mut self, digest: Digest, module: Bytes) {
        let stored = self.modules.keep(digest, &module);
        self.stores = stored.is_ok() && self.modules.keeps();
        if let Err(error) = stored {
            tracing::warn!(%digest, %error, "module not stored: it is asked for again after a restart");
        }
        self.fetched = Some((digest, module));
    }

    /// Nothing is to be loaded now; if there is no filter at all, nothing runs
    /// that only filters need.
    pub(super) fn rest(&mut self, no_filter: bool) {
        if self.compiling.is_free() {
            self.fetched = None;
        }
        self.compiling.rest();
        // What is under way is for the engine of this one.
        if no_filter && self.compiling.module().is_none() {
            self.loader = None;
        }
    }

    /// How far a module has come. It goes on from there by itself, unless the
    /// agent is to be asked for it.
    pub(super) fn module(&mut self, digest: Digest) -> Result<Lookup, Failure> {
        if let Some(module) = self.loaded.get(&digest).and_then(Weak::upgrade) {
            return Ok(Lookup::Ready(module));
        }
        if let Some(compiled) = self.compiling.result(digest) {
            return compiled.clone().map(Lookup::Ready);
        }
        let loader = Arc::clone(self.loader()?);
        let fetched = self.fetched.as_ref().filter(|it| it.0 == digest);
        let there = fetched.is_some() || self.modules.has(digest);
        if !self.compiling.is_free() && there && !loader.remembers(digest) {
            return Ok(Lookup::Compiling);
        }
        let (bytes, stored) = match fetched {
            Some((_digest, module)) => (module.clone(), false),
            None => match self.modules.find(digest)? {
                Found::Here(module) => (module, true),
                Found::Asked => return Ok(Lookup::Missing),
            },
        };
        // Also before what was compiled is read: that may end the process as well.
        self.modules.attempts.begin(digest)?;
        let recalled = unless_it_panics(|| loader.recall(&bytes, Some(digest)));
        if let Ok(Ok(None)) = recalled
            && self.compiling.is_free()
        {
            let started = self.compiling.start(loader, digest, bytes);
            return match started {
                Ok(()) => Ok(Lookup::Compiling),
                Err(error) => {
                    self.modules.attempts.end(digest);
                    Err(error.into())
                }
            };
        }
        self.modules.attempts.end(digest);
        match recalled? {
            Ok(Some(module)) => {
                self.remember(&module);
                Ok(Lookup::Ready(module))
            }
            Ok(None) => Ok(Lookup::Compiling),
            // The file has rotted.
            Err(LoadError::Digest { .. }) if stored && self.from_agent => {
                self.modules.forget(digest);
                Ok(Lookup::Missing)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn remember(&mut self, module: &Arc<Module>) {
        self.loaded
            .retain(|_digest, module| module.strong_count() > 0);
        self.loaded.insert(module.digest(), Arc::downgrade(module));
    }

    /// Whether a filter that waits for the compiler can go on: what it waits for
    /// is there, or it is next.
    pub(super) fn has_turn(&self, digest: Digest) -> bool {
        self.compiling.is_free() || self.compiling.result(digest).is_some()
    }

    /// A module is compiled, or refused.
    pub(super) fn bring_compiled(&mut self, digest: Digest, result: Compiled) {
        self.modules.attempts.end(digest);
        if let Ok(module) = &result {
            self.remember(module);
        }
        self.compiling.end(digest, result);
    }

    /// From here on nothing is compiled, and nothing of what was is blamed for
    /// the end of the process.
    pub(super) fn stop_compiling(&mut self) {
        self.compiling.stop();
        if let Some(digest) = self.compiling.module() {
            self.modules.attempts.end(digest);
        }
    }

    /// Whether a module that comes from the agent is of use now: where it is not
    /// stored, it is not before its turn to be compiled.
    pub(super) fn takes_modules(&self) -> bool {
        self.stores || self.compiling.is_free()
    }

    /// What loads modules, started when it is first needed.
    pub(super) fn loader(&mut self) -> Result<&Arc<Loader>, Failure> {
        let loader = match self.loader.take() {
            Some(loader) => loader,
            None => Arc::new(self.new_loader()?),
        };
        Ok(self.loader.insert(loader))
    }

    fn new_loader(&self) -> Result<Loader, Failure> {
        let runtime = runtime(self.workers)?;
        let compiler = self.compiler.clone();
        let Some(folder) = self.modules.compiled() else {
            return Ok(Loader::new(runtime).with_compiler(compiler));
        };
        let cached = Loader::with_cache(Arc::clone(&runtime), folder.to_owned());
        let loader = cached.unwrap_or_else(|error| {
            tracing::warn!(%error, "filters are compiled anew at each start");
            Loader::new(runtime)
        });
        Ok(loader.with_compiler(compiler))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop_compiling();
    }
}

/// The engine of this process, which is started if it does not run.
fn runtime(workers: usize) -> Result<Arc<Runtime>, Failure> {
    let mut known = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = known.upgrade() {
        return Ok(runtime);
    }
    let default = RuntimeSettings::default();
    let instances = u32::try_from(workers.saturating_mul(INSTANCES)).unwrap_or(u32::MAX);
    let runtime = Arc::new(Runtime::new(RuntimeSettings {
        instances: instances.clamp(default.instances, 8 * default.instances),
    })?);
    *known = Arc::downgrade(&runtime);
    Ok(runtime)
}

/// A module that the host stumbles over is not to end the thread. Where panics
/// end the process there is nothing to be done.
pub(super) fn unless_it_panics<T>(work: impl FnOnce() -> T) -> Result<T, Failure> {
    panic::catch_unwind(AssertUnwindSafe(work))
        .map_err(|_said_already| Failure::from(LoadError::Compile("the host panicked".to_owned())))
}
