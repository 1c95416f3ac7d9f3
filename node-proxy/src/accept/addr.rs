//! The addresses of an accepted connection, each its own type, so that two
//! ends that were swapped do not compile.

use std::net::{IpAddr, SocketAddr};

/// Who opened the connection: the pod's own address when it was redirected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source(pub SocketAddr);

/// Where the client wanted to go: the address it dialled, not the proxy's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OriginalDst(pub SocketAddr);

/// The address that the proxy listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local(pub SocketAddr);

impl Source {
    /// The source's IP; its port is never kept towards the upstream.
    #[must_use]
    pub fn ip(self) -> IpAddr {
        canonical(self.0.ip())
    }
}

impl OriginalDst {
    /// The IP that was dialled.
    #[must_use]
    pub fn ip(self) -> IpAddr {
        canonical(self.0.ip())
    }
}

/// IPv4 written as IPv6 (`::ffff:a.b.c.d`) is the same host: policy must not
/// see two addresses for it.
fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}
