//! Pods as the mesh enforces them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{NumericIdentity, Protocol};

/// Number of a pod on its node; the one in the datapath's maps. 0 is no pod.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct EndpointId(pub u32);

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The address of a pod, never that of a node, a service or the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodAddr(pub IpAddr);

impl fmt::Display for PodAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its number on this node.
    pub id: EndpointId,
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its name.
    pub pod: Box<str>,
    /// Its address.
    pub address: PodAddr,
    /// Its identity.
    pub identity: NumericIdentity,
}

/// Names of container ports, compared without case. Containers may give one
/// name to several numbers; a rule then means all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct NamedPorts(BTreeMap<String, BTreeSet<(Protocol, u16)>>);

impl NamedPorts {
    /// Adds a container port.
    pub fn insert(&mut self, name: &str, protocol: Protocol, port: u16) {
        let ports = self.0.entry(name.to_ascii_lowercase()).or_default();
        ports.insert((protocol, port));
    }

    /// Adds all ports of another pod.
    pub fn merge(&mut self, other: &Self) {
        for (name, ports) in &other.0 {
            self.0.entry(name.clone()).or_default().extend(ports);
        }
    }

    /// The ports of that name.
    pub fn get(&self, name: &str) -> impl Iterator<Item = (Protocol, u16)> + '_ {
        let ports = self.0.get(&name.to_ascii_lowercase());
        ports.into_iter().flatten().copied()
    }

    /// Whether there is no named port.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
