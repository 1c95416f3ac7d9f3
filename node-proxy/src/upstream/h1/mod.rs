//! HTTP/1.1 towards upstreams: a small codec of our own.
//!
//! A request and its response are driven by the task that serves the request:
//! no task for the connection, no channel between them, no lock. That is worth
//! a fifth of the proxy's own time against a general client, see
//! `docs/PERFORMANCE.md`. The way of a request:
//!
//! ```text
//! client.rs    takes a connection from the pool, or dials
//! encode.rs    writes the head into the connection's output buffer
//! outgoing.rs  sends head and body, as the body has bytes
//! head.rs      reads the response's head and decides how its body ends
//! response.rs  hands the body on; at its end the connection goes home
//! tunnel.rs    after a 101: bytes both ways
//! ```

mod client;
mod connection;
mod encode;
mod exchange;
mod head;
mod outgoing;
mod response;
#[cfg(test)]
mod tests;
mod tunnel;

pub use client::{Client, Options, PoolStats};
pub use response::ResponseBody;
pub use tunnel::Tunnel;
