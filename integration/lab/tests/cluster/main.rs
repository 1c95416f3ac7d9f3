//! A lab without the mesh, from outside: its command line, real namespaces,
//! real processes. What every other test of the mesh stands on.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod faults;
mod pods;
mod support;
mod topology;
