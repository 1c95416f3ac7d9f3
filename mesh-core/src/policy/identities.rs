//! The identities that rules are compiled against.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::{CidrPeer, Entity, Peer, Peers, Rule};
use crate::model::{
    Direction, Label, LabelSource, Labels, NAMESPACE_LABEL, NamedPorts, NumericIdentity,
};

/// What is known of one identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownIdentity {
    /// The labels it stands for.
    pub labels: Labels,
    /// Named container ports of all pods that carry it; what an egress rule's
    /// port names mean towards them.
    pub named_ports: NamedPorts,
    /// The prefix, for identities that stand for one.
    pub cidr: Option<IpNet>,
}

/// All identities that a peer may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityTable {
    known: BTreeMap<NumericIdentity, KnownIdentity>,
}

impl Default for IdentityTable {
    fn default() -> Self {
        Self::new()
    }
}

impl IdentityTable {
    /// The reserved identities.
    pub fn new() -> Self {
        let mut table = Self {
            known: BTreeMap::new(),
        };
        for (identity, name) in NumericIdentity::RESERVED {
            // 0 is "any peer" as a key: never a peer itself.
            if identity != NumericIdentity::UNKNOWN {
                let label = Label::new(LabelSource::Reserved, name, "");
                table.insert(identity, [label].into_iter().collect());
            }
        }
        table
    }

    /// Adds or replaces an identity with labels.
    pub fn insert(&mut self, identity: NumericIdentity, labels: Labels) {
        self.known.entry(identity).or_default().labels = labels;
    }

    /// Adds the named container ports of a pod of that identity.
    pub fn add_named_ports(&mut self, identity: NumericIdentity, ports: &NamedPorts) {
        if let Some(known) = self.known.get_mut(&identity) {
            known.named_ports.merge(ports);
        }
    }

    /// Adds the identity of a prefix. Its labels say that it is part of the
    /// world and which prefix it is.
    pub fn insert_cidr(&mut self, identity: NumericIdentity, cidr: IpNet) {
        let cidr = cidr.trunc();
        let labels = [
            Label::new(LabelSource::Cidr, cidr.to_string(), ""),
            Label::new(LabelSource::Reserved, "world", ""),
        ];
        let known = KnownIdentity {
            labels: labels.into_iter().collect(),
            named_ports: NamedPorts::default(),
            cidr: Some(cidr),
        };
        self.known.insert(identity, known);
    }

    /// What is known of an identity.
    pub fn get(&self, identity: NumericIdentity) -> Option<&KnownIdentity> {
        self.known.get(&identity)
    }

    /// All identities by number.
    pub fn iter(&self) -> impl Iterator<Item = (NumericIdentity, &KnownIdentity)> {
        self.known
            .iter()
            .map(|(identity, known)| (*identity, known))
    }

    /// The identities that a peer means; [`Entity::All`] is any peer and not
    /// answered here.
    pub(super) fn select(&self, peer: &Peer) -> BTreeSet<NumericIdentity> {
        self.iter()
            .filter(|(identity, known)| peer.means(*identity, known))
            .map(|(identity, _)| identity)
            .collect()
    }
}

impl Peer {
    /// Whether an identity is among those that it means.
    pub(super) fn means(&self, identity: NumericIdentity, known: &KnownIdentity) -> bool {
        match self {
            Self::Endpoints(selector) => selector.matches(&known.labels),
            Self::Entity(entity) => entity_holds(*entity, identity, known),
            Self::Cidr(cidr) => cidr_holds(cidr, identity, known),
        }
    }
}

fn entity_holds(entity: Entity, identity: NumericIdentity, known: &KnownIdentity) -> bool {
    let v4 = matches!(known.cidr, Some(IpNet::V4(_)));
    let v6 = matches!(known.cidr, Some(IpNet::V6(_)));
    match entity {
        Entity::All => true,
        Entity::World => is_world(identity) || known.cidr.is_some(),
        // What has no narrower identity is `world`. It is IPv4: the datapath
        // forwards no other IPv6 than neighbour discovery.
        Entity::WorldIpv4 => {
            v4 || [NumericIdentity::WORLD, NumericIdentity::WORLD_IPV4].contains(&identity)
        }
        Entity::WorldIpv6 => v6 || identity == NumericIdentity::WORLD_IPV6,
        Entity::Cluster => is_pod(known) || is_part_of_cluster(identity),
        Entity::Host => identity == NumericIdentity::HOST,
        Entity::RemoteNode => identity == NumericIdentity::REMOTE_NODE,
        Entity::KubeApiserver => identity == NumericIdentity::KUBE_APISERVER,
        Entity::Ingress => identity == NumericIdentity::INGRESS,
        Entity::Init => identity == NumericIdentity::INIT,
        Entity::Health => identity == NumericIdentity::HEALTH,
        Entity::Unmanaged => identity == NumericIdentity::UNMANAGED,
        Entity::None => false,
    }
}

fn is_world(identity: NumericIdentity) -> bool {
    [
        NumericIdentity::WORLD,
        NumericIdentity::WORLD_IPV4,
        NumericIdentity::WORLD_IPV6,
    ]
    .contains(&identity)
}

fn is_part_of_cluster(identity: NumericIdentity) -> bool {
    [
        NumericIdentity::HOST,
        NumericIdentity::REMOTE_NODE,
        NumericIdentity::INIT,
        NumericIdentity::INGRESS,
        NumericIdentity::HEALTH,
        NumericIdentity::UNMANAGED,
        NumericIdentity::KUBE_APISERVER,
    ]
    .contains(&identity)
}

fn is_pod(known: &KnownIdentity) -> bool {
    known
        .labels
        .get(LabelSource::K8s, NAMESPACE_LABEL)
        .is_some()
}

/// An identity of a prefix is inside every prefix that encloses it; the world
/// at large is inside the prefixes of length 0, which get no identity.
fn cidr_holds(peer: &CidrPeer, identity: NumericIdentity, known: &KnownIdentity) -> bool {
    let Some(own) = known.cidr else {
        let of_family = match peer.cidr {
            IpNet::V4(_) => {
                [NumericIdentity::WORLD, NumericIdentity::WORLD_IPV4].contains(&identity)
            }
            IpNet::V6(_) => identity == NumericIdentity::WORLD_IPV6,
        };
        let excepted = peer.except.iter().any(|except| except.prefix_len() == 0);
        return of_family && peer.cidr.prefix_len() == 0 && !excepted;
    };
    peer.cidr.contains(&own) && !peer.except.iter().any(|except| except.contains(&own))
}

/// The prefixes that need an identity of their own so that these rules can be
/// told apart by identity: every prefix and every exception, less those of
/// length 0 (the world).
///
/// An address has the identity of the longest of them that holds it, unless a
/// pod or a node has the address: CIDR rules never mean those.
pub fn cidrs_of<'a>(rules: impl IntoIterator<Item = &'a Rule>) -> BTreeSet<IpNet> {
    let traffic = rules.into_iter().flat_map(|rule| {
        Direction::ALL.into_iter().flat_map(|direction| {
            let section = rule.direction(direction);
            section.allow.iter().chain(&section.deny)
        })
    });
    let peers = traffic.flat_map(|rule| match &rule.peers {
        Peers::Listed(peers) => peers.as_slice(),
        Peers::Unnamed => &[],
    });
    peers
        .filter_map(|peer| match peer {
            Peer::Cidr(cidr) => Some(cidr),
            Peer::Endpoints(_) | Peer::Entity(_) => None,
        })
        .flat_map(|peer| peer.except.iter().chain([&peer.cidr]))
        .filter(|cidr| cidr.prefix_len() > 0)
        .map(IpNet::trunc)
        .collect()
}
