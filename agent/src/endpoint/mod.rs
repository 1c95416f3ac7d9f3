//! The pods of this node and the interfaces behind which they are.
//!
//! A pod that shares the node's network (`hostNetwork: true`) is no endpoint:
//! it has no interface of its own, its traffic carries the node's address and
//! the node's identity (`host` here, `remote-node` elsewhere), and policies do
//! not select it. What it sends to a pod is judged by that pod's ingress policy
//! as the node's, at layers 3 and 4 only.

mod interfaces;
mod numbers;
mod table;

pub use interfaces::{Interface, Interfaces, InterfacesError, Monitor};
pub use table::{Found, LocalEndpoint, Table, Update, Waiting};
