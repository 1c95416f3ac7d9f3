//! The whole proxy on loopback: real sockets, an agent that speaks the real
//! protocol, raw clients and servers.
#![forbid(unsafe_code)]
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should say so loudly"
)]

mod adversarial;
mod compiler;
mod control;
mod filters;
mod filters_loading;
mod grpc;
mod headers;
mod http2;
mod http2_floods;
mod limits;
mod memory;
mod policy;
mod process;
mod records;
mod spans;
mod streams;
mod support;
mod upgrades;
mod write_buffers;
