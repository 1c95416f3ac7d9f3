//! The programs on crafted packets. Needs root.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, and so do its helpers"
)]

mod addresses;
mod conntrack;
mod headers;
mod judged;
mod masquerade;
mod policy;
mod service;
mod spoofing;
mod support;
mod tables;
