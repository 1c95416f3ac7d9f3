//! Wire formats: what weft's parts and its users send each other.
//!
//! Nothing here decides anything about traffic; the types are read and written
//! as they are, and what a flow filter means is part of its protocol.
#![forbid(unsafe_code)]

pub mod hubble;
#[cfg(feature = "k8s")]
pub mod k8s;
pub mod node;
pub mod records;
