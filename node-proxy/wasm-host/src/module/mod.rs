//! Modules: from bytes to code that can be instantiated, once for each node.

mod cache;
mod digest;
mod precompiled;
mod weigh;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::component::Component;

pub use cache::CacheError;
pub use digest::{Digest, DigestError};

use self::cache::{Artifact, Cache};
use self::weigh::{Effort, weigh};
use crate::log::one_line;
use crate::runtime::Runtime;
use crate::{component, proxy_wasm};

/// Largest module, unless a loader is told otherwise.
pub const MAX_MODULE: usize = 64 << 20;

/// How a module and the host talk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Abi {
    /// Our own, of `wasm-sdk/abi/wit`.
    Weft,
    /// proxy-wasm 0.2.0.
    ProxyWasm020,
    /// proxy-wasm 0.2.1.
    ProxyWasm021,
}

impl std::fmt::Display for Abi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Weft => "weft:filter@0.1.0",
            Self::ProxyWasm020 => "proxy-wasm 0.2.0",
            Self::ProxyWasm021 => "proxy-wasm 0.2.1",
        })
    }
}

/// Why a module is not loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// It is not the one that was meant.
    #[error("the module has the digest {found}, expected was {expected}")]
    Digest {
        /// What was asked for.
        expected: Digest,
        /// What is there.
        found: Digest,
    },
    /// It is larger than allowed.
    #[error("the module has {size} bytes, the most is {most}")]
    TooLarge {
        /// What it has.
        size: usize,
        /// What it may have.
        most: usize,
    },
    /// It is something else.
    #[error("it is no WebAssembly module or component{hint}")]
    NotWasm {
        /// What it looks like.
        hint: &'static str,
    },
    /// It is for another host, or an older one.
    #[error(
        "the module is for {found}; supported are components of weft:filter@0.1.0 and modules for proxy-wasm 0.2.0 and 0.2.1"
    )]
    UnsupportedAbi {
        /// What it is for.
        found: String,
    },
    /// A function that every filter has is not there.
    #[error("the module has no export {name:?}")]
    MissingExport {
        /// Its name.
        name: &'static str,
    },
    /// It wants something that the host does not have, or in another form.
    #[error("the module does not fit the host: {0}")]
    Unfit(String),
    /// It would keep the compiler busy for too long.
    #[error(
        "the module would take too long to compile: {found} {what}, the most is {most}; build it with less inlining (opt-level = \"s\"), or leave out what it does not need"
    )]
    TooComplex {
        /// Of what there is too much.
        what: &'static str,
        /// How much there is.
        found: usize,
        /// How much there may be.
        most: usize,
    },
    /// It is not valid.
    #[error("the module does not compile: {0}")]
    Compile(String),
}

/// A module that is ready to be configured. It can be sent to any thread.
pub struct Module {
    digest: Digest,
    abi: Abi,
    size: usize,
    took: Duration,
    cached: bool,
    pub(crate) code: Code,
}

pub(crate) enum Code {
    Component(component::Compiled),
    ProxyWasm(proxy_wasm::Compiled),
}

impl Module {
    /// Of the bytes that it was loaded from.
    #[must_use]
    pub const fn digest(&self) -> Digest {
        self.digest
    }

    /// How it talks.
    #[must_use]
    pub const fn abi(&self) -> Abi {
        self.abi
    }

    /// Bytes that it was loaded from.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.size
    }

    /// How long compiling took, or loading what was compiled before.
    #[must_use]
    pub const fn took(&self) -> Duration {
        self.took
    }

    /// Whether this node had compiled it before.
    #[must_use]
    pub const fn cached(&self) -> bool {
        self.cached
    }

    /// Functions that it imports and that the host does not know; a call of one of them is a trap.
    #[must_use]
    pub fn unknown_imports(&self) -> &[String] {
        match &self.code {
            Code::Component(_) => &[],
            Code::ProxyWasm(compiled) => compiled.unknown_imports(),
        }
    }

    /// Names of what it imports, for whoever inspects it.
    #[must_use]
    pub fn imports(&self) -> Vec<String> {
        match &self.code {
            Code::Component(compiled) => {
                let component = compiled.component();
                let of_type = component.component_type();
                let imports = of_type.imports(component.engine());
                imports.map(|(name, _item)| name.to_owned()).collect()
            }
            Code::ProxyWasm(compiled) => compiled
                .module()
                .imports()
                .map(|import| format!("{}.{}", import.module(), import.name()))
                .collect(),
        }
    }
}

impl std::fmt::Debug for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Module")
            .field("digest", &self.digest)
            .field("abi", &self.abi)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// Loads modules. It waits for the compiler: call it on a thread that has time.
#[derive(Debug)]
pub struct Loader {
    runtime: Arc<Runtime>,
    cache: Option<Cache>,
    max_size: usize,
}

impl Loader {
    /// One that compiles each time.
    #[must_use]
    pub const fn new(runtime: Arc<Runtime>) -> Self {
        Self {
            runtime,
            cache: None,
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

    /// Loads one.
    ///
    /// # Errors
    /// See [`LoadError`]. Nothing of it is kept.
    pub fn load(&self, bytes: &[u8], expected: Option<Digest>) -> Result<Arc<Module>, LoadError> {
        if bytes.len() > self.max_size {
            return Err(LoadError::TooLarge {
                size: bytes.len(),
                most: self.max_size,
            });
        }
        let form = Form::of(bytes)?;
        let found = Digest::of(bytes);
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(LoadError::Digest { expected, found });
        }
        let start = Instant::now();
        let key = self.cache.as_ref().map(|_cache| self.key(found));
        let kept = self.cached(form, key.as_deref());
        let cached = kept.is_some();
        let native = match kept {
            Some(native) => native,
            None => self.compile(form, bytes, key.as_deref())?,
        };
        let (abi, code) = self.fit(native)?;
        Ok(Arc::new(Module {
            digest: found,
            abi,
            size: bytes.len(),
            took: start.elapsed(),
            cached,
            code,
        }))
    }

    fn key(&self, digest: Digest) -> String {
        let compatible = cache::hash(self.runtime.engine().precompile_compatibility_hash());
        format!("{}-{compatible:016x}", digest.hex())
    }

    fn cached(&self, form: Form, key: Option<&str>) -> Option<Native> {
        let (cache, key) = (self.cache.as_ref()?, key?);
        let artifact = cache.get(key)?;
        let native = self.revive(form, &artifact);
        if native.is_none() {
            cache.forget(key);
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

    fn compile(&self, form: Form, bytes: &[u8], key: Option<&str>) -> Result<Native, LoadError> {
        let native = self.runtime.compile(|| match weigh(bytes)? {
            Effort::Usual => self.compile_well(form, bytes).map_err(does_not_compile),
            Effort::Little => self.compile_quickly(form, bytes),
        })?;
        if let (Some(cache), Some(key)) = (&self.cache, key) {
            let artifact = match &native {
                Native::Component(component) => component.serialize(),
                Native::Core(module) => module.serialize(),
            };
            // A node whose disk is full compiles anew each time.
            if let Ok(artifact) = artifact {
                let _kept = cache.put(key, &artifact);
            }
        }
        Ok(native)
    }

    fn compile_well(&self, form: Form, bytes: &[u8]) -> wasmtime::Result<Native> {
        let engine = self.runtime.engine();
        Ok(match form {
            Form::Component => Native::Component(Component::from_binary(engine, bytes)?),
            Form::Core => Native::Core(wasmtime::Module::from_binary(engine, bytes)?),
        })
    }

    /// By another engine, for the one that runs it.
    fn compile_quickly(&self, form: Form, bytes: &[u8]) -> Result<Native, LoadError> {
        let engine = self.runtime.quick().map_err(does_not_compile)?;
        let artifact = match form {
            Form::Component => engine.precompile_component(bytes),
            Form::Core => engine.precompile_module(bytes),
        };
        let artifact = Artifact::compiled(artifact.map_err(does_not_compile)?);
        let other = || LoadError::Compile("the two engines of the host differ".to_owned());
        self.revive(form, &artifact).ok_or_else(other)
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

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn does_not_compile(error: wasmtime::Error) -> LoadError {
    LoadError::Compile(one_line(&format!("{error:#}")))
}

enum Native {
    Component(Component),
    Core(wasmtime::Module),
}

/// What the first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Component,
    Core,
}

impl Form {
    fn of(bytes: &[u8]) -> Result<Self, LoadError> {
        let hint = match bytes {
            [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => return Ok(Self::Core),
            [0, b'a', b's', b'm', _, 0, 1, 0, ..] => return Ok(Self::Component),
            [0x1f, 0x8b, ..] => ", but something packed with gzip",
            [b'(', ..] => ", but its text form",
            [0x7f, b'E', b'L', b'F', ..] => ", but a native program",
            _ => "",
        };
        Err(LoadError::NotWasm { hint })
    }
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

impl From<component::Unfit> for LoadError {
    fn from(unfit: component::Unfit) -> Self {
        match unfit {
            component::Unfit::MissingExport(name) => Self::MissingExport { name },
            component::Unfit::Interface(why) => Self::Unfit(why),
        }
    }
}

impl From<proxy_wasm::Unfit> for LoadError {
    fn from(unfit: proxy_wasm::Unfit) -> Self {
        match unfit {
            proxy_wasm::Unfit::MissingExport(name) => Self::MissingExport { name },
            proxy_wasm::Unfit::Import(name) => {
                Self::Unfit(format!("it imports {name}, which is no function"))
            }
            proxy_wasm::Unfit::Other(why) => Self::Unfit(why),
        }
    }
}
