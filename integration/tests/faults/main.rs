//! Things break, and what is promised holds.
#![forbid(unsafe_code)]
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and so do its helpers"
)]

mod agent;
mod broken;
mod directions;
mod operators;
mod parts;
mod proxy;
mod reuse;
mod revoke;
mod stage;
