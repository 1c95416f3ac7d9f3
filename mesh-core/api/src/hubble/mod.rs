//! The observer protocol: flows, their filters, and the services that serve
//! them (`observer.Observer`, `peer.Peer`).
//!
//! Generated from `proto/{flow,observer,peer,relay}`. The messages also read
//! and write the protocol's JSON: original field names, 64-bit numbers as
//! strings, enums by name, times in UTC; unknown fields are ignored on reading.

pub mod filter;
pub mod json;
pub mod names;
pub mod wkt;

/// Flows, endpoints, layers, filters.
#[expect(
    missing_docs,
    clippy::all,
    clippy::allow_attributes,
    clippy::too_many_lines,
    reason = "generated code"
)]
pub mod flow {
    include!(concat!(env!("OUT_DIR"), "/flow.rs"));
    include!(concat!(env!("OUT_DIR"), "/flow.serde.rs"));
}

/// The observer service.
#[expect(
    missing_docs,
    clippy::all,
    clippy::allow_attributes,
    clippy::too_many_lines,
    reason = "generated code"
)]
pub mod observer {
    include!(concat!(env!("OUT_DIR"), "/observer.rs"));
    include!(concat!(env!("OUT_DIR"), "/observer.serde.rs"));
}

/// Who else observes.
#[expect(
    missing_docs,
    clippy::all,
    clippy::allow_attributes,
    clippy::too_many_lines,
    reason = "generated code"
)]
pub mod peer {
    include!(concat!(env!("OUT_DIR"), "/peer.rs"));
    include!(concat!(env!("OUT_DIR"), "/peer.serde.rs"));
}

/// States of the nodes behind a relay.
#[expect(
    missing_docs,
    clippy::all,
    clippy::allow_attributes,
    clippy::too_many_lines,
    reason = "generated code"
)]
pub mod relay {
    include!(concat!(env!("OUT_DIR"), "/relay.rs"));
    include!(concat!(env!("OUT_DIR"), "/relay.serde.rs"));
}
