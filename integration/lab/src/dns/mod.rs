//! The cluster's DNS: answers from what the API holds at that moment.
//!
//! It serves on sockets of the pods that run the `coredns` image, so queries
//! travel the datapath like any other traffic and policies apply to them.

mod names;
mod server;
mod wire;

pub use names::{Answer, Cluster, WORLD_HOSTS, Zone, resolve, world_hosts};
pub use server::Server;
