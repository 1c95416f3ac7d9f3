//! A cluster of network namespaces on one machine.
//!
//! Nodes and pods are network namespaces, joined by veth pairs, a bridge and,
//! between nodes, a VXLAN device or plain routes. The mesh's own agent, proxy,
//! relay and operator run in it as they are; the Kubernetes API and the kubelet
//! are stand-ins. One daemon per lab holds it together ([`serve`]); everything
//! that must be removed can be found without it ([`teardown`]).
#![forbid(unsafe_code)]

pub mod api;
pub mod apps;
pub mod cgroup;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod control;
pub mod demo;
pub mod dns;
pub mod host;
pub mod kubectl;
pub mod kubelet;
pub mod net;
pub mod process;
pub mod sandbox;
pub mod serve;
pub mod state;
pub mod teardown;
