//! Connections of clients: listeners, workers, protocol detection, and what
//! ends them.

pub mod addr;
pub mod clock;
pub mod connection;
pub mod detect;
pub mod io;
pub mod listener;
pub mod serve;
pub mod socket;
pub mod sources;
pub mod worker;
