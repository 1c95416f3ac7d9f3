//! Write filters for the node proxy in Rust.
//!
//! A filter is a type that is made of its configuration once, and is then shown requests and
//! responses. What it waits for (the next part of a body, an answer from another service, a timer)
//! it awaits; meanwhile other requests go through the same instance.
//!
//! ```
//! use std::rc::Rc;
//! use weft_sdk::prelude::*;
//!
//! #[derive(Deserialize, JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! struct Config {
//!     /// The header that requests have to carry.
//!     header: String,
//! }
//!
//! struct RequireHeader {
//!     header: String,
//!     refused: Counter,
//! }
//!
//! #[filter]
//! impl Filter for RequireHeader {
//!     type Config = Config;
//!
//!     fn new(config: Config, plugin: &Plugin) -> Result<Self> {
//!         let refused = plugin.counter("refused", &[])?;
//!         Ok(Self { header: config.header, refused })
//!     }
//!
//!     async fn on_request(self: Rc<Self>, request: Request) -> Result<Flow> {
//!         if request.headers().contains(&self.header) {
//!             return Ok(Flow::Continue);
//!         }
//!         self.refused.increment();
//!         Ok(Reply::new(400).body("a header is missing").reason("no header").into())
//!     }
//! }
//!
//! # #[cfg(feature = "testing")]
//! # fn main() {
//! use weft_sdk::testing::{TestHost, TestRequest};
//!
//! let host = TestHost::<RequireHeader>::new(r#"{"header": "x-team"}"#).unwrap();
//! let exchange = host.send(TestRequest::get("/"));
//! assert_eq!(exchange.reply().unwrap().status, 400);
//! let exchange = host.send(TestRequest::get("/").header("x-team", "blue"));
//! assert!(exchange.request().passed());
//! # }
//! # #[cfg(not(feature = "testing"))]
//! # fn main() {}
//! ```
//!
//! # What a filter may rely on
//!
//! - Events of one exchange come in order; exchanges interleave. There are no threads: `Rc`,
//!   `Cell` and `RefCell` are enough, as long as no borrow is held across an `.await`.
//! - An `Err` is the same as not deciding: what the filter's owner wants then happens (`onError`),
//!   503 unless said otherwise. The instance and all other requests go on.
//! - A panic ends the instance: all requests that are under way in it are decided by `onError`.
//! - Clocks of the standard library do not work in a module; [`time`] has some that do.
#![deny(unsafe_code)]
#![expect(
    async_fn_in_trait,
    reason = "a filter runs on one thread: its futures need not be Send"
)]

// The macros name this crate by its name, also in its own tests.
extern crate self as weft_sdk;

mod body;
mod error;
mod export;
mod fetch;
mod filter;
mod grpc;
mod headers;
mod kv;
mod message;
mod metrics;
mod observe;
mod plugin;
mod reply;
mod runtime;
mod sys;
#[cfg(all(feature = "testing", not(target_arch = "wasm32")))]
pub mod testing;
pub mod text;
pub mod time;

pub use body::{Body, BodyTooLarge};
pub use error::{Context, Error, Result};
pub use fetch::{Fetch, FetchBuilder, FetchError, FetchReply};
pub use filter::{Filter, Flow, NoConfig};
pub use grpc::{GrpcBuilder, GrpcError};
pub use headers::{HeaderValue, Headers, Refused};
pub use kv::{Kv, KvError};
pub use message::{Request, Response};
pub use metrics::{Counter, Gauge, Histogram};
pub use observe::{Fields, Log, Span};
pub use plugin::Plugin;
pub use reply::Reply;
pub use sys::types::{Attributes, Direction, Interests, KvEntry, Label, Level, Peer};
/// The contract that filters of this SDK are made for.
///
/// ```
/// assert!(weft_sdk::ABI.starts_with("weft:filter@"));
/// ```
pub use weft_abi::PACKAGE as ABI;
/// Makes a filter of an `impl Filter for X`: fills in `NAME` and `VERSION` (the crate's) and
/// `INTERESTS` (all of the messages whose method is implemented) where they are missing, and exports
/// the filter from the module that is built. See [`Filter`] for an example.
pub use weft_sdk_macros::filter;

pub use schemars;
pub use serde;
pub use serde_json;

/// What nearly every filter uses.
///
/// ```
/// use weft_sdk::prelude::*;
/// let _: Flow = Reply::new(204).into();
/// ```
pub mod prelude {
    pub use std::rc::Rc;
    pub use std::time::Duration;

    pub use schemars::JsonSchema;
    pub use serde::Deserialize;

    pub use crate::{
        Context as _, Counter, Error, Filter, Flow, Gauge, Histogram, Interests, Kv, NoConfig,
        Plugin, Reply, Request, Response, Result, filter,
    };
}

/// The guide's own examples compile, too.
#[cfg(doctest)]
#[doc = include_str!("../../docs/FILTERS.md")]
struct Guide;

/// For the macros of this crate.
#[doc(hidden)]
pub mod __private {
    #[cfg(target_arch = "wasm32")]
    pub use crate::export::report_panics;
    pub use crate::runtime::Runtime;
    #[cfg(target_arch = "wasm32")]
    pub use crate::sys::{bindings, types};
}
