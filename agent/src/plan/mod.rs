//! From what is known to what the kernel and the proxy are to hold: pure
//! functions, no I/O.

mod addresses;
mod gate;
mod policies;
mod room;
mod services;
mod snapshot;

pub use addresses::{Address, MAX_RANGES, Ranges, addresses, ranges};
pub use gate::{Coverage, Gate, Gated};
pub use policies::{Compiled, Held, InForce, Rules, identities, map_entries};
pub use services::{Frontend, ServiceEntry, frontends};
pub use snapshot::{SnapshotParts, TooLarge, room_for_ports, rule_ref, snapshot};
