//! Numbers that stand for sets of labels.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Labels, fnv1a};

/// The number that stands for one set of labels, on every node.
///
/// 0 to 255 are reserved, 256 to 65535 belong to the cluster (objects in the
/// Kubernetes API), from [`NumericIdentity::LOCAL_FIRST`] they are local to a
/// node and stand for CIDR prefixes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct NumericIdentity(pub u32);

impl NumericIdentity {
    /// Unknown as a peer; "any peer" as a key of the policy map.
    pub const UNKNOWN: Self = Self(0);
    /// The node itself and its host-network pods.
    pub const HOST: Self = Self(1);
    /// Everything outside the cluster.
    pub const WORLD: Self = Self(2);
    /// A pod of the cluster that the mesh does not manage.
    pub const UNMANAGED: Self = Self(3);
    /// The mesh's own health checks.
    pub const HEALTH: Self = Self(4);
    /// A pod whose labels are not known yet.
    pub const INIT: Self = Self(5);
    /// Another node of the cluster.
    pub const REMOTE_NODE: Self = Self(6);
    /// The Kubernetes API server.
    pub const KUBE_APISERVER: Self = Self(7);
    /// The ingress proxy.
    pub const INGRESS: Self = Self(8);
    /// Everything outside the cluster, over IPv4.
    pub const WORLD_IPV4: Self = Self(9);
    /// Everything outside the cluster, over IPv6.
    pub const WORLD_IPV6: Self = Self(10);

    /// First number of identities that the cluster allocates.
    pub const CLUSTER_FIRST: Self = Self(256);
    /// Last number of identities that the cluster allocates.
    pub const CLUSTER_LAST: Self = Self(65535);
    /// First number of identities that only this node knows (CIDR prefixes).
    pub const LOCAL_FIRST: Self = Self(1 << 24);

    /// The reserved identities, by number, with the names that flows print.
    pub const RESERVED: [(Self, &'static str); 11] = [
        (Self::UNKNOWN, "unknown"),
        (Self::HOST, "host"),
        (Self::WORLD, "world"),
        (Self::UNMANAGED, "unmanaged"),
        (Self::HEALTH, "health"),
        (Self::INIT, "init"),
        (Self::REMOTE_NODE, "remote-node"),
        (Self::KUBE_APISERVER, "kube-apiserver"),
        (Self::INGRESS, "ingress"),
        (Self::WORLD_IPV4, "world-ipv4"),
        (Self::WORLD_IPV6, "world-ipv6"),
    ];

    /// The name of a reserved identity, `None` for all others.
    pub fn reserved_name(self) -> Option<&'static str> {
        let index = usize::try_from(self.0).ok()?;
        Self::RESERVED.get(index).map(|(_, name)| *name)
    }

    /// Whether the number belongs to a pod's labels.
    pub fn is_cluster(self) -> bool {
        (Self::CLUSTER_FIRST..=Self::CLUSTER_LAST).contains(&self)
    }

    /// Whether the number is this node's own (a CIDR prefix).
    pub fn is_local(self) -> bool {
        self >= Self::LOCAL_FIRST
    }

    /// The numbers to try for these labels, in order: a hash of the sorted
    /// labels first, then the numbers after it, each number of the cluster's
    /// range once.
    ///
    /// Every node tries the same numbers in the same order, so
    /// create-or-conflict in the API gives the same labels the same number.
    pub fn candidates(labels: &Labels) -> Candidates {
        let texts: Vec<String> = labels.iter().map(ToString::to_string).collect();
        let hash = fnv1a(texts.iter().map(String::as_str));
        let span = u64::from(Candidates::SPAN);
        Candidates {
            start: u32::try_from(hash % span).unwrap_or(0),
            tried: 0,
        }
    }
}

impl fmt::Display for NumericIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// See [`NumericIdentity::candidates`].
#[derive(Clone, Debug)]
pub struct Candidates {
    start: u32,
    tried: u32,
}

impl Candidates {
    const SPAN: u32 = NumericIdentity::CLUSTER_LAST.0 - NumericIdentity::CLUSTER_FIRST.0 + 1;
}

impl Iterator for Candidates {
    type Item = NumericIdentity;

    fn next(&mut self) -> Option<NumericIdentity> {
        if self.tried == Self::SPAN {
            return None;
        }
        let offset = (self.start + self.tried) % Self::SPAN;
        self.tried += 1;
        Some(NumericIdentity(NumericIdentity::CLUSTER_FIRST.0 + offset))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn labels(texts: &[&str]) -> Labels {
        Labels::parse_all(texts.iter().copied()).unwrap()
    }

    #[test]
    fn reserved_names_sit_at_their_numbers() {
        for (index, (identity, name)) in NumericIdentity::RESERVED.iter().enumerate() {
            assert_eq!(usize::try_from(identity.0).unwrap(), index);
            assert_eq!(identity.reserved_name(), Some(*name));
        }
        assert_eq!(NumericIdentity(256).reserved_name(), None);
    }

    #[test]
    fn candidates_cover_the_cluster_range_once() {
        let all: Vec<_> = NumericIdentity::candidates(&labels(&["k8s:a=1"])).collect();
        assert_eq!(all.len(), 65280);
        assert!(all.iter().all(|identity| identity.is_cluster()));
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
    }

    #[test]
    fn candidates_depend_on_labels_not_on_their_order() {
        let one = NumericIdentity::candidates(&labels(&["k8s:a=1", "k8s:b=2"])).next();
        let same = NumericIdentity::candidates(&labels(&["k8s:b=2", "k8s:a=1"])).next();
        let other = NumericIdentity::candidates(&labels(&["k8s:a=12", "k8s:b="])).next();
        assert_eq!(one, same);
        assert_ne!(one, other);
    }

    #[test]
    fn numbers_never_change_between_versions() {
        // A node that runs an older version must reach the same number.
        let first = NumericIdentity::candidates(&labels(&["k8s:org=empire"])).next();
        assert_eq!(first, Some(NumericIdentity(PINNED)));
    }

    const PINNED: u32 = 22323;
}
