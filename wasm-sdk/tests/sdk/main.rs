//! What the SDK promises, seen through its own testing host.
#![expect(clippy::expect_used, reason = "helpers of tests fail as the tests do")]

mod bodies;
mod config;
mod fetches;
mod heads;
mod limits;
mod reuse;
mod shared;
mod waits;
