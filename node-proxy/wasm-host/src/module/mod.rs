//! Modules: from bytes to code that can be instantiated, once for each node.

mod cache;
mod compile;
mod compiler;
mod digest;
mod loader;
mod precompiled;
mod refusal;
mod weigh;

use std::borrow::Cow;
use std::time::Duration;

pub use cache::CacheError;
pub use compiler::{COMPILE, Compiler, Order, main as compile_module};
pub use digest::{Digest, DigestError};
pub use loader::Loader;

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
        what: Cow<'static, str>,
        /// How much there is.
        found: usize,
        /// How much there may be.
        most: usize,
    },
    /// It is not valid.
    #[error("the module does not compile: {0}")]
    Compile(String),
    /// It was not tried: there is nothing that compiles.
    #[error("the module is not compiled yet, the compiler does not work: {0}")]
    NoCompiler(String),
    /// What compiled it was ended by somebody else.
    #[error(
        "the module is not compiled yet, the compiler was killed, most likely for lack of memory"
    )]
    CompilerKilled,
    /// Nobody wants it any more.
    #[error("the module is not compiled: nobody wants it any more")]
    GivenUp,
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

    /// How long compiling took, with what time requests were let by, or loading what was compiled
    /// before.
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
