//! Services and what stands behind them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::Protocol;

/// Namespace and name of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceRef {
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
}

impl fmt::Display for ServiceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A virtual address that clients dial: cluster IP and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceAddr(pub SocketAddr);

/// Where a backend really listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendAddr(pub SocketAddr);

/// One pod (or other address) behind a service's port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    /// Address and target port.
    pub address: BackendAddr,
    /// Node that runs it, where it is known.
    pub node: Option<Box<str>>,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Name of the port; empty when the service has one unnamed port.
    pub name: Box<str>,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port of the frontend.
    pub port: u16,
    /// Ready backends, sorted. Each port has its own: ports of one service may
    /// go to different pods.
    pub backends: Vec<Backend>,
}

/// A service with cluster IPs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub service: ServiceRef,
    /// Virtual addresses, one per IP family.
    pub cluster_ips: Vec<IpAddr>,
    /// Ports.
    pub ports: Vec<ServicePort>,
}

impl Service {
    /// Every virtual address with the port that it stands for.
    pub fn frontends(&self) -> impl Iterator<Item = (ServiceAddr, &ServicePort)> {
        self.cluster_ips.iter().flat_map(|ip| {
            let at = |port: &ServicePort| ServiceAddr(SocketAddr::new(*ip, port.port));
            self.ports.iter().map(move |port| (at(port), port))
        })
    }
}
