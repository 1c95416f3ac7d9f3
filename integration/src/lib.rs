//! What the tests and benches of the whole mesh share. They start the real
//! programs and link none of their code.
#![forbid(unsafe_code)]

pub mod agent;
pub mod bench;
#[cfg(test)]
mod examples;
pub mod lab;
pub mod lines;
pub mod pods;
pub mod programs;
pub mod watch;
