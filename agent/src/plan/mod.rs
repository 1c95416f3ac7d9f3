//! From what is known to what the kernel and the proxy are to hold: pure
//! functions, no I/O.

mod addresses;
pub mod filters;
mod gate;
mod names;
mod policies;
pub(crate) mod room;
mod services;
mod snapshot;

pub use addresses::{Address, MAX_RANGES, Ranges, Unnumbered, addresses, ranges};
#[cfg(test)]
pub(crate) use gate::PATIENCE;
pub use gate::{Coverage, Gate, Gated, Judged};
pub use names::{UnknownName, unknown_names};
pub use policies::{Compiled, Intercepts, KernelEntries, Rules, identities, map_entries};
pub(crate) use room::HTTP_TABLES;
pub use room::PortsByEndpoint;
pub use services::{Frontend, ServiceEntry, frontends};
pub use snapshot::{FilterParts, SnapshotParts, TooLarge, room_for_ports, rule_ref, snapshot};
