//! The datapath between real namespaces, with real sockets. Needs root and iproute2.

mod cluster;
mod policy;
mod support;
