//! The node proxy: a data plane that enforces HTTP policy for the pods of one
//! node, without a sidecar.
//!
//! Read [`app`] to see how everything is wired, and [`pipeline`] for a
//! request's way. The folders follow the direction of a request: `accept`,
//! `identity`, `pipeline`, `http`, `upstream`; beside them `control` brings
//! snapshots in, `telemetry` takes records out and `admin` is for humans.

pub mod accept;
pub mod admin;
pub mod app;
pub mod cli;
pub mod control;
pub mod failure;
pub mod filter;
pub mod http;
pub mod identity;
pub mod memory;
pub mod pipeline;
pub mod settings;
pub mod telemetry;
pub mod upstream;
