//! The same header changes as `header-transform` makes, for any proxy that knows proxy-wasm 0.2.1:
//! the one module runs here, in Envoy and in Istio.
//!
//! Its configuration is that of `header-transform` without variables.

mod changes;
#[cfg(target_arch = "wasm32")]
mod filter;

pub use changes::{Changes, Config, Headers};
