//! Where a request goes, and from which address.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What is spoken with the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1, one request at a time on a pooled connection.
    Http1,
    /// HTTP/2 with prior knowledge, many requests on one connection.
    Http2,
}

/// One upstream as one source sees it: the key of the pools.
///
/// The source's port is not part of it: keeping ports would mean one upstream
/// connection for each downstream one, and an `EADDRNOTAVAIL` for each port
/// that the pod still holds itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    /// The server.
    pub address: SocketAddr,
    /// Address to bind, which may be a pod's; `None` leaves it to the kernel.
    pub source: Option<IpAddr>,
    /// Identity of who asks. A connection that was opened for one pod, and
    /// admitted as that pod's, must not carry requests of another one that
    /// has its address now.
    pub identity: u32,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Longest wait for the handshake.
    pub connect_timeout: Duration,
}
