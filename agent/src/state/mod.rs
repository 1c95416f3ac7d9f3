//! What the agent knows of the cluster: plain data, no I/O.
//!
//! The watch feeds [`Change`]s in; everything that the agent programs is a
//! function of this state and of what the node looks like.

mod objects;

use std::collections::{BTreeMap, BTreeSet};

pub use objects::{
    Backend, EndpointSlice, IdentityObject, NamedPort, Namespace, Node, Pod, PolicyObject, Service,
    ServicePort, SlicePort, Workload,
};
pub use weft_core::policy::PolicyKind;

/// Namespace and name of an object; the namespace is empty for cluster-scoped
/// kinds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Namespace, empty for cluster-scoped kinds.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
}

impl ObjectKey {
    /// Key of a namespaced object.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl std::fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}", self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// An object that is kept by its key.
pub trait Keyed {
    /// The key under which the object is kept.
    fn key(&self) -> ObjectKey;
}

/// What happened to the objects of one kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Delta<T> {
    /// A complete listing: what is not in it no longer exists.
    Replace(Vec<T>),
    /// Created or changed.
    Apply(T),
    /// Deleted.
    Delete(ObjectKey),
}

/// A change of the cluster.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Pods of every node.
    Pods(Delta<Pod>),
    /// Namespaces.
    Namespaces(Delta<Namespace>),
    /// Nodes.
    Nodes(Delta<Node>),
    /// Services.
    Services(Delta<Service>),
    /// Endpoint slices.
    Slices(Delta<EndpointSlice>),
    /// Policies of one kind.
    Policies(PolicyKind, Delta<PolicyObject>),
    /// Identity objects.
    Identities(Delta<IdentityObject>),
}

/// The kinds that are watched, to know when all have been listed once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Pods.
    Pod,
    /// Namespaces.
    Namespace,
    /// Nodes.
    Node,
    /// Services.
    Service,
    /// Endpoint slices.
    EndpointSlice,
    /// Policies.
    Policy(PolicyKind),
    /// Identity objects.
    Identity,
}

impl Kind {
    /// Every kind whose listing the agent waits for before it programs
    /// anything.
    pub const ALL: [Kind; 8] = [
        Kind::Pod,
        Kind::Namespace,
        Kind::Node,
        Kind::Service,
        Kind::EndpointSlice,
        Kind::Policy(PolicyKind::CiliumNetworkPolicy),
        Kind::Policy(PolicyKind::CiliumClusterwideNetworkPolicy),
        Kind::Identity,
    ];
}

/// Everything known of the cluster.
#[derive(Debug, Default, Clone)]
pub struct ClusterState {
    /// Pods of every node.
    pub pods: BTreeMap<ObjectKey, Pod>,
    /// Namespaces by name.
    pub namespaces: BTreeMap<ObjectKey, Namespace>,
    /// Nodes by name.
    pub nodes: BTreeMap<ObjectKey, Node>,
    /// Services.
    pub services: BTreeMap<ObjectKey, Service>,
    /// Endpoint slices.
    pub slices: BTreeMap<ObjectKey, EndpointSlice>,
    /// Policy objects as they are in the API, valid or not.
    pub policies: BTreeMap<(PolicyKind, ObjectKey), PolicyObject>,
    /// Identity objects by number.
    pub identities: BTreeMap<ObjectKey, IdentityObject>,
    listed: BTreeSet<Kind>,
}

impl ClusterState {
    /// Takes a change in; true when something is different afterwards.
    pub fn apply(&mut self, change: Change) -> bool {
        let kind = match &change {
            Change::Pods(_) => Kind::Pod,
            Change::Namespaces(_) => Kind::Namespace,
            Change::Nodes(_) => Kind::Node,
            Change::Services(_) => Kind::Service,
            Change::Slices(_) => Kind::EndpointSlice,
            Change::Policies(kind, _) => Kind::Policy(*kind),
            Change::Identities(_) => Kind::Identity,
        };
        let (replaced, changed) = match change {
            Change::Pods(delta) => merge(&mut self.pods, delta),
            Change::Namespaces(delta) => merge(&mut self.namespaces, delta),
            Change::Nodes(delta) => merge(&mut self.nodes, delta),
            Change::Services(delta) => merge(&mut self.services, delta),
            Change::Slices(delta) => merge(&mut self.slices, delta),
            Change::Policies(kind, delta) => merge_policies(&mut self.policies, kind, delta),
            Change::Identities(delta) => merge(&mut self.identities, delta),
        };
        let first = replaced && self.listed.insert(kind);
        changed || first
    }

    /// The kinds that have not been listed yet; empty once in sync.
    pub fn missing(&self) -> Vec<Kind> {
        Kind::ALL
            .into_iter()
            .filter(|kind| !self.listed.contains(kind))
            .collect()
    }

    /// The labels of a namespace; none when it is unknown.
    pub fn namespace_labels(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        self.namespaces
            .get(&ObjectKey::new("", name))
            .map(|namespace| &namespace.labels)
    }
}

fn merge<T: Keyed + PartialEq>(map: &mut BTreeMap<ObjectKey, T>, delta: Delta<T>) -> (bool, bool) {
    match delta {
        Delta::Replace(list) => {
            let new: BTreeMap<_, _> = list.into_iter().map(|item| (item.key(), item)).collect();
            let changed = *map != new;
            *map = new;
            (true, changed)
        }
        Delta::Apply(item) => {
            let key = item.key();
            let changed = map.get(&key) != Some(&item);
            map.insert(key, item);
            (false, changed)
        }
        Delta::Delete(key) => (false, map.remove(&key).is_some()),
    }
}

fn merge_policies(
    map: &mut BTreeMap<(PolicyKind, ObjectKey), PolicyObject>,
    kind: PolicyKind,
    delta: Delta<PolicyObject>,
) -> (bool, bool) {
    match delta {
        Delta::Replace(list) => {
            let before: BTreeMap<_, _> = std::mem::take(map);
            let (same, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
                before.into_iter().partition(|((k, _), _)| *k == kind);
            let new: BTreeMap<_, _> = list
                .into_iter()
                .map(|item| ((kind, item.key()), item))
                .collect();
            let changed = same != new;
            *map = others;
            map.extend(new);
            (true, changed)
        }
        Delta::Apply(item) => {
            let key = (kind, item.key());
            let changed = map.get(&key) != Some(&item);
            map.insert(key, item);
            (false, changed)
        }
        Delta::Delete(key) => (false, map.remove(&(kind, key)).is_some()),
    }
}

#[cfg(test)]
mod tests;
