//! The host with modules written by hand, driven as the proxy drives it: good ones, and every bad
//! one that we could think of.
#![forbid(unsafe_code)]
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should say so loudly"
)]

mod bad;
mod bounds;
mod component;
mod hostile;
mod interests;
mod loading;
mod marks;
mod proxy_wasm;
mod slots;
mod starts;
mod support;
