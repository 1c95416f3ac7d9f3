//! What makes modules: compiles them, or takes what was compiled before.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::component::Component;

use super::cache::{self, Artifact, Cache, CacheError};
use super::{Abi, Code, Compiler, Digest, Form, LoadError, MAX_MODULE, Module, Order, precompiled};
use crate::runtime::{Runtime, giving_way};
use crate::{component, proxy_wasm};

/// How long what comes after compiling gives way to requests.
const PATIENCE: Duration = Duration::from_millis(500);

/// Loads modules. It waits for the compiler: call it on a thread that has time.
#[derive(Debug)]
pub struct Loader {
    runtime: Arc<Runtime>,
    cache: Option<Cache>,
    compiler: Compiler,
    max_size: usize,
}

impl Loader {
    /// One that compiles each time, in this process.
    #[must_use]
    pub const fn new(runtime: Arc<Runtime>) -> Self {
        Self {
            runtime,
            cache: None,
            compiler: Compiler::Here,
            max_size: MAX_MODULE,
        }
    }

    /// One that keeps what it compiled in a folder of its own, which is made if it is not there.
    ///
    /// # Errors
    /// The folder is not this user's alone: what is in it runs as native code.
    pub fn with_cache(runtime: Arc<Runtime>, folder: PathBuf) -> Result<Self, CacheError> {
        let cache = Cache::open(folder)?;
        Ok(Self {
            cache: Some(cache),
            ..Self::new(runtime)
        })
    }

    /// The same with another compiler.
    #[must_use]
    pub fn with_compiler(self, compiler: Compiler) -> Self {
        Self { compiler, ..self }
    }

    /// The same with another limit of size.
    #[must_use]
    pub const fn with_max_size(mut self, max_size: usize) -> Self {
        self.max_size = max_size;
        self
    }

    /// What runs the modules.
    #[must_use]
    pub const fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    /// Loads one, whatever it takes.
    ///
    /// # Errors
    /// See [`LoadError`]. Nothing of it is kept.
    pub fn load(&self, bytes: &[u8], expected: Option<Digest>) -> Result<Arc<Module>, LoadError> {
        self.load_ordered(bytes, expected, &Order::now())
    }

    /// Loads one, unless it is given up meanwhile.
    ///
    /// # Errors
    /// See [`LoadError`]. Nothing of it is kept.
    pub fn load_ordered(
        &self,
        bytes: &[u8],
        expected: Option<Digest>,
        order: &Order,
    ) -> Result<Arc<Module>, LoadError> {
        let loading = self.begin(bytes, expected)?;
        match self.kept(&loading) {
            Some(native) => self.finish(&loading, native, true),
            None => {
                let native = self.compile(&loading, order)?;
                self.finish(&loading, native, false)
            }
        }
    }

    /// Loads one that was compiled before; it takes a few milliseconds. None if it was not.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn recall(
        &self,
        bytes: &[u8],
        expected: Option<Digest>,
    ) -> Result<Option<Arc<Module>>, LoadError> {
        let loading = self.begin(bytes, expected)?;
        let native = self.kept(&loading);
        native
            .map(|native| self.finish(&loading, native, true))
            .transpose()
    }

    /// Whether there is something to recall.
    #[must_use]
    pub fn remembers(&self, digest: Digest) -> bool {
        let cache = self.cache.as_ref();
        cache.is_some_and(|cache| cache.has(&self.key(digest)))
    }

    fn begin<'a>(
        &self,
        bytes: &'a [u8],
        expected: Option<Digest>,
    ) -> Result<Loading<'a>, LoadError> {
        if bytes.len() > self.max_size {
            return Err(LoadError::TooLarge {
                size: bytes.len(),
                most: self.max_size,
            });
        }
        let form = Form::of(bytes)?;
        let digest = Digest::of(bytes);
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            let found = digest;
            return Err(LoadError::Digest { expected, found });
        }
        Ok(Loading {
            bytes,
            form,
            digest,
            start: Instant::now(),
        })
    }

    fn finish(
        &self,
        loading: &Loading<'_>,
        native: Native,
        cached: bool,
    ) -> Result<Arc<Module>, LoadError> {
        let (abi, code) = self.fit(native)?;
        Ok(Arc::new(Module {
            digest: loading.digest,
            abi,
            size: loading.bytes.len(),
            took: loading.start.elapsed(),
            cached,
            code,
        }))
    }

    fn key(&self, digest: Digest) -> String {
        let compatible = cache::hash(self.runtime.engine().precompile_compatibility_hash());
        format!("{}-{compatible:016x}", digest.hex())
    }

    fn kept(&self, loading: &Loading<'_>) -> Option<Native> {
        let cache = self.cache.as_ref()?;
        let key = self.key(loading.digest);
        let artifact = cache.get(&key)?;
        let native = self.revive(loading.form, &artifact);
        if native.is_none() {
            cache.forget(&key);
        }
        native
    }

    fn revive(&self, form: Form, artifact: &Artifact) -> Option<Native> {
        let engine = self.runtime.engine();
        match form {
            Form::Component => precompiled::component(engine, artifact).map(Native::Component),
            Form::Core => precompiled::module(engine, artifact).map(Native::Core),
        }
    }

    fn compile(&self, loading: &Loading<'_>, order: &Order) -> Result<Native, LoadError> {
        let native = self.compiler.compile(loading.bytes, order)?;
        let artifact = Artifact::compiled(native);
        let take = || {
            if let Some(cache) = &self.cache {
                // A node whose disk is full compiles anew each time.
                let _kept = cache.put(&self.key(loading.digest), artifact.bytes());
            }
            self.revive(loading.form, &artifact)
        };
        let native = match self.compiler {
            Compiler::Here => take(),
            Compiler::Apart(_) => giving_way(PATIENCE, take),
        };
        let other = "the compiler is of another version than what runs filters";
        native.ok_or_else(|| LoadError::Compile(other.to_owned()))
    }

    fn fit(&self, native: Native) -> Result<(Abi, Code), LoadError> {
        let engine = self.runtime.engine();
        match native {
            Native::Component(component) => {
                let compiled = component::Compiled::new(engine, &component)?;
                Ok((Abi::Weft, Code::Component(compiled)))
            }
            Native::Core(module) => {
                let abi = abi_of(&module)?;
                let compiled = proxy_wasm::Compiled::new(engine, &module)?;
                Ok((abi, Code::ProxyWasm(compiled)))
            }
        }
    }
}

/// A module on its way.
struct Loading<'a> {
    bytes: &'a [u8],
    form: Form,
    digest: Digest,
    start: Instant,
}

enum Native {
    Component(Component),
    Core(wasmtime::Module),
}

fn abi_of(module: &wasmtime::Module) -> Result<Abi, LoadError> {
    const VERSION: &str = "proxy_abi_version_";
    if module.get_export("proxy_abi_version_0_2_1").is_some() {
        return Ok(Abi::ProxyWasm021);
    }
    if module.get_export("proxy_abi_version_0_2_0").is_some() {
        return Ok(Abi::ProxyWasm020);
    }
    let other = module
        .exports()
        .find_map(|export| Some(export.name().strip_prefix(VERSION)?.replace('_', ".")));
    Err(LoadError::UnsupportedAbi {
        found: match other {
            Some(version) => format!("proxy-wasm {version}"),
            None => "no host that is known (it exports no proxy_abi_version_0_2_1)".to_owned(),
        },
    })
}
