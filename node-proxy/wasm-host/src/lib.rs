//! Runs users' filters: WebAssembly components with our own typed ABI, and modules for proxy-wasm,
//! behind one trait.
//!
//! Nothing in here does network I/O, waits, or knows a request of the proxy's: whoever drives an
//! instance lends it an [`exchange::Exchange`], tells it of an [`Event`], and gets back a [`Step`]
//! and [`Command`]s, which it fulfils and answers with further events. So the proxy's pipeline, an
//! offline run of one request, and tests all drive the same thing.
//!
//! From bytes to a request: a [`Loader`] makes a [`Module`], [`Filter::configure`] a [`Filter`] of
//! it (both on a thread that has time), [`Published`] shows it to the workers, and each worker's
//! [`Slot`] has its instance.

mod component;
mod fault;
mod filter;
mod headers;
mod instance;
mod limits;
mod log;
mod module;
mod proxy_wasm;
mod random;
mod reload;
mod runtime;
mod slot;
mod types;

pub mod budget;
pub mod clock;
pub mod exchange;
pub mod shared;

pub use fault::{FailPolicy, Fault, FaultKind, OnError};
pub use filter::{ConfigureError, Filter, FilterSpec, INLINE_START, Isolation, Shared, describe};
pub use instance::{Guest, Plugin, side_of};
pub use limits::{Limits, MAX_DEADLINE, MAX_MEMORY, MAX_TABLE};
pub use log::{Log, LogRecord, NoLog};
pub use module::{
    Abi, COMPILE, CacheError, Compiler, Digest, DigestError, LoadError, Loader, MAX_MODULE, Module,
    Order, compile_module,
};
pub use reload::{Condition, Published, ReloadError};
pub use runtime::{Runtime, RuntimeError, RuntimeSettings, giving_way, thread_time};
pub use slot::{Effect, Outcome, Slot, Ticket};
pub use types::{
    Command, ContextId, Event, FetchError, FetchRequest, FetchResponse, FetchResult, Fields,
    Interests, Labels, Level, Manifest, Reply, Side, Step,
};
