//! The host's functions and types as the WIT text has them. In a module they are the ones that
//! wit-bindgen makes of that text; natively they are written here a second time, with the same
//! names, before a host that tests put there. All else in this crate is compiled against both.

#[cfg(target_arch = "wasm32")]
mod wasm;
#[cfg(target_arch = "wasm32")]
pub use wasm::{bindings, host, types};

#[cfg(not(target_arch = "wasm32"))]
pub mod host;
#[cfg(not(target_arch = "wasm32"))]
pub mod types;
