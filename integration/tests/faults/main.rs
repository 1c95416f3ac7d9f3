//! Things break, and what is promised holds.

mod agent;
mod broken;
mod proxy;
mod reuse;
mod revoke;
mod stage;
