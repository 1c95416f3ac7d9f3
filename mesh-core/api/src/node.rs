//! Snapshots and records between a node's agent and its proxy.
//!
//! Generated from `proto/weft/node/v1/node.proto`, which documents every field.
//! The messages also read and write proto3 JSON (snake_case names), which is
//! the format of the proxy's `--snapshot` file.
#![expect(
    missing_docs,
    clippy::all,
    clippy::allow_attributes,
    clippy::too_many_lines,
    reason = "generated code"
)]

/// Largest snapshot that a proxy accepts, in bytes as it is encoded. 5,000 pods
/// with rules stay far below.
pub const MAX_SNAPSHOT: usize = 64 << 20;

tonic::include_proto!("weft.node.v1");
include!(concat!(env!("OUT_DIR"), "/weft.node.v1.serde.rs"));
