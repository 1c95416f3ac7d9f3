//! A node's control plane.
//!
//! The agent follows the Kubernetes API, gives pods their identities, compiles
//! policy, and writes the datapath's maps and the proxy's snapshots by
//! difference. Enforcement is in the kernel and in the proxy: while the agent
//! is away nothing changes for live traffic.
#![forbid(unsafe_code)]

pub mod admin;
pub mod app;
pub mod cli;
pub mod control;
pub mod endpoint;
pub mod filter;
pub mod identity;
pub mod kube;
pub mod metrics;
pub mod node;
pub mod observer;
pub mod operator;
pub mod plan;
pub mod policy;
mod private;
pub mod program;
pub mod reconcile;
pub mod relay;
mod socket;
pub mod state;
pub mod status;
pub mod upkeep;
pub mod view;
