//! From digests to modules that can be configured.

use std::collections::HashMap;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use weft_wasm_host::{Digest, LoadError, Loader, Module, Runtime, RuntimeSettings};

use super::Setup;
use crate::filter::failure::Failure;
use crate::filter::modules::{Found, Modules, Source};

/// Instances for each worker.
const INSTANCES: usize = 64;

/// Of the process: it reserves a lot of addresses, and proxies of one process
/// (in tests) share it.
static RUNTIME: Mutex<Weak<Runtime>> = Mutex::new(Weak::new());

/// What loads modules, and what of them is there.
pub(super) struct Engine {
    pub(super) modules: Modules,
    loader: Option<Loader>,
    loaded: HashMap<Digest, Weak<Module>>,
    /// One that came from the agent and is not in force yet.
    fetched: Option<(Digest, Bytes)>,
    from_agent: bool,
    workers: usize,
}

impl Engine {
    pub(super) fn new(setup: &Setup) -> Self {
        Self {
            modules: Modules::new(&setup.source, setup.state.as_deref()),
            loader: None,
            loaded: HashMap::new(),
            fetched: None,
            from_agent: matches!(setup.source, Source::Agent(_)),
            workers: setup.workers,
        }
    }

    /// A module has come from the agent.
    pub(super) fn bring(&mut self, digest: Digest, module: Bytes) {
        if let Err(error) = self.modules.keep(digest, &module) {
            tracing::warn!(%digest, %error, "module not stored: it is asked for again after a restart");
        }
        self.fetched = Some((digest, module));
    }

    /// Nothing is to be loaded now; if there is no filter at all, nothing runs
    /// that only filters need.
    pub(super) fn rest(&mut self, no_filter: bool) {
        self.fetched = None;
        if no_filter {
            self.loader = None;
        }
    }

    /// A module that is ready to be configured; none if the agent is to be
    /// asked for it.
    pub(super) fn module(&mut self, digest: Digest) -> Result<Option<Arc<Module>>, Failure> {
        if let Some(module) = self.loaded.get(&digest).and_then(Weak::upgrade) {
            return Ok(Some(module));
        }
        let fetched = self.fetched.as_ref();
        let fetched = fetched.filter(|(fetched, _module)| *fetched == digest);
        let (bytes, stored) = match fetched {
            Some((_digest, module)) => (module.clone(), false),
            None => match self.modules.find(digest)? {
                Found::Here(module) => (module, true),
                Found::Asked => return Ok(None),
            },
        };
        self.modules.begin(digest)?;
        let loader = self.loader()?;
        let loaded = unless_it_panics(|| loader.load(&bytes, Some(digest)));
        self.modules.end(digest);
        let loaded = loaded?;
        if let (Err(LoadError::Digest { .. }), true, true) = (&loaded, stored, self.from_agent) {
            // The file has rotted.
            self.modules.forget(digest);
            return Ok(None);
        }
        let module = loaded?;
        self.loaded
            .retain(|_digest, module| module.strong_count() > 0);
        self.loaded.insert(digest, Arc::downgrade(&module));
        Ok(Some(module))
    }

    /// What loads modules, started when it is first needed.
    pub(super) fn loader(&mut self) -> Result<&Loader, Failure> {
        let loader = match self.loader.take() {
            Some(loader) => loader,
            None => self.new_loader()?,
        };
        Ok(self.loader.insert(loader))
    }

    fn new_loader(&self) -> Result<Loader, Failure> {
        let runtime = runtime(self.workers)?;
        let Some(folder) = self.modules.compiled() else {
            return Ok(Loader::new(runtime));
        };
        let cached = Loader::with_cache(Arc::clone(&runtime), folder.to_owned());
        Ok(cached.unwrap_or_else(|error| {
            tracing::warn!(%error, "filters are compiled anew at each start");
            Loader::new(runtime)
        }))
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
        ..default
    })?);
    *known = Arc::downgrade(&runtime);
    Ok(runtime)
}

/// A module that the compiler stumbles over is not to end the thread. Where
/// panics end the process there is nothing to be done.
pub(super) fn unless_it_panics<T>(work: impl FnOnce() -> T) -> Result<T, Failure> {
    panic::catch_unwind(AssertUnwindSafe(work)).map_err(|_said_already| {
        Failure::from(LoadError::Compile("the compiler panicked".to_owned()))
    })
}
