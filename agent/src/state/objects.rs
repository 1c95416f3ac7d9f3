//! The parts of Kubernetes objects that the agent works with.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;
use serde_json::Value;
use weft_core::model::{Labels, NumericIdentity, Protocol};

use super::{Keyed, ObjectKey};

/// A container port that has a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NamedPort {
    /// Name as written in the pod.
    pub name: String,
    /// Port number, host order.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

/// What owns a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Workload {
    /// Name of the owner.
    pub name: String,
    /// Kind of the owner, for example `Deployment`.
    pub kind: String,
}

/// A pod of any node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Changes when the pod is deleted and made again under its name.
    pub uid: String,
    /// Node on which it runs, empty while unscheduled.
    pub node: String,
    /// Its address; none while it has none, or when it is not IPv4.
    pub ip: Option<Ipv4Addr>,
    /// Shares the node's network: it has no interface of its own, its traffic
    /// is the node's.
    pub host_network: bool,
    /// Succeeded or failed: its address may already belong to another.
    pub finished: bool,
    /// The pod's own labels.
    pub labels: BTreeMap<String, String>,
    /// Name of the service account, `default` when unset.
    pub service_account: String,
    /// Named container ports.
    pub ports: Vec<NamedPort>,
    /// When it was made, as the API writes times; empty when it does not say.
    pub created: String,
    /// It is being deleted.
    pub deleting: bool,
    /// Its owner, as flows name it.
    pub workload: Option<Workload>,
}

impl Pod {
    /// The address when the pod really has an interface with it.
    pub fn own_ip(&self) -> Option<Ipv4Addr> {
        if self.host_network || self.finished {
            None
        } else {
            self.ip
        }
    }
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Internal and external IPv4 addresses, internal ones first.
    pub addresses: Vec<Ipv4Addr>,
    /// Pod ranges as written, IPv4 only.
    pub pod_cidrs: Vec<String>,
}

impl Node {
    /// The ranges of its pods' addresses.
    pub fn pod_ranges(&self) -> impl Iterator<Item = Ipv4Net> {
        self.pod_cidrs.iter().filter_map(|cidr| cidr.parse().ok())
    }
}

/// One port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Name, empty when the service has one unnamed port.
    pub name: String,
    /// Port on the service's address.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

/// A service that has an address of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Cluster addresses, IPv4 only; empty for headless services.
    pub cluster_ips: Vec<Ipv4Addr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// A port of an endpoint slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicePort {
    /// Name of the service port that it backs.
    pub name: String,
    /// Port of the backends.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

/// One address of an endpoint slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Its address.
    pub ip: Ipv4Addr,
    /// May take new connections.
    pub ready: bool,
}

/// Backends of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name of the slice.
    pub key: ObjectKey,
    /// Name of the service, from the label `kubernetes.io/service-name`.
    pub service: String,
    /// Its ports.
    pub ports: Vec<SlicePort>,
    /// Its addresses.
    pub backends: Vec<Backend>,
}

/// A policy object as it is in the API; whether it is valid is decided by the
/// policy repository.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyObject {
    /// Namespace and name.
    pub key: ObjectKey,
    /// Identifies this very object across delete and create.
    pub uid: String,
    /// Counts changes of the specification.
    pub generation: i64,
    /// The whole object without status and managed fields.
    pub raw: Arc<Value>,
}

/// An identity as it is in the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityObject {
    /// Its number, the object's name.
    pub id: NumericIdentity,
    /// The labels that it stands for.
    pub labels: Labels,
}

impl Keyed for Pod {
    fn key(&self) -> ObjectKey {
        self.key.clone()
    }
}
impl Keyed for Namespace {
    fn key(&self) -> ObjectKey {
        ObjectKey::new("", &self.name)
    }
}
impl Keyed for Node {
    fn key(&self) -> ObjectKey {
        ObjectKey::new("", &self.name)
    }
}
impl Keyed for Service {
    fn key(&self) -> ObjectKey {
        self.key.clone()
    }
}
impl Keyed for EndpointSlice {
    fn key(&self) -> ObjectKey {
        self.key.clone()
    }
}
impl Keyed for PolicyObject {
    fn key(&self) -> ObjectKey {
        self.key.clone()
    }
}
impl Keyed for IdentityObject {
    fn key(&self) -> ObjectKey {
        ObjectKey::new("", self.id.to_string())
    }
}
