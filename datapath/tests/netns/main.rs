//! The datapath between real namespaces, with real sockets. Needs root and iproute2.

mod cluster;
mod events;
mod lifecycle;
mod policy;
mod proxy;
mod redirect;
mod service;
mod support;
