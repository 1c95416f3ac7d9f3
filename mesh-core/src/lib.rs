//! The pure logic of the mesh: what an identity is, what a policy means, what
//! the proxy runs from.
//!
//! Nothing here opens a socket, reads a clock, spawns a task or draws a random
//! number; what a function needs is handed to it. That keeps every decision
//! testable as a plain call.
#![forbid(unsafe_code)]

pub mod filter;
pub mod model;
pub mod policy;
pub mod snapshot;
