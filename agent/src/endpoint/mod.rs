//! The pods of this node and the interfaces behind which they are.

mod interfaces;
mod numbers;
mod table;

pub use interfaces::{Interface, Interfaces, InterfacesError, Monitor};
pub(crate) use numbers::hash_bytes;
pub use table::{Found, LocalEndpoint, Table, Update, Waiting};
