//! What the programs count, to tell how full their tables are.

/// A place in the map of counters.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Entries that connection tracking got.
    ConntrackAdded = 0,
    /// Entries of connection tracking that the programs removed.
    ConntrackRemoved = 1,
    /// Entries that connection tracking had no room for.
    ConntrackRefused = 2,
    /// Entries that masquerading got.
    NatAdded = 3,
    /// Entries that masquerading had no room or no port for.
    NatRefused = 4,
}

/// Places in the map, a few more than are in use.
pub const COUNTERS: u32 = 16;
