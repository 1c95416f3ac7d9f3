//! Where the configuration comes from: the agent, a file, or what was stored
//! of either.

pub mod apply;
pub mod client;
pub mod config;
pub mod convert;
pub mod publish;
pub mod store;
