//! The datapath between real namespaces, with real sockets. Needs root and
//! iproute2.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, and so do its helpers"
)]

mod closed;
mod cluster;
mod crash;
mod datagrams;
mod events;
mod lifecycle;
mod loader;
mod policy;
mod proxy;
mod redirect;
mod service;
mod support;
