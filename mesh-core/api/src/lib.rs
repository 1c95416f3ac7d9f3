//! Wire formats: what weft's parts and its users send each other.
//!
//! Nothing here decides anything; the types are read and written as they are.

pub mod hubble;
pub mod k8s;
pub mod node;
