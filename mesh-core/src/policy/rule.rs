//! Policy rules in neutral terms: what an accepted object says.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::EndpointSelector;
use super::http::HttpRules;
use crate::model::{Protocol, fnv1a};

/// Kind of the object that holds a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PolicyKind {
    /// Namespaced.
    CiliumNetworkPolicy,
    /// Of the whole cluster.
    CiliumClusterwideNetworkPolicy,
}

impl PolicyKind {
    /// The kind as it stands in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CiliumNetworkPolicy => "CiliumNetworkPolicy",
            Self::CiliumClusterwideNetworkPolicy => "CiliumClusterwideNetworkPolicy",
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The object that holds a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// Its kind.
    pub kind: PolicyKind,
    /// Its namespace; empty for clusterwide objects.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Position in `specs`; `None` for `spec`.
    pub spec: Option<usize>,
}

impl Origin {
    /// The reference to a place inside this object, such as
    /// `ingress[0].toPorts[1]`.
    pub fn rule_ref(&self, place: &str) -> RuleRef {
        let rule = match self.spec {
            Some(index) => format!("specs[{index}].{place}"),
            None => place.to_owned(),
        };
        RuleRef {
            kind: self.kind.as_str().into(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            rule: rule.into(),
        }
    }

    /// The object's name for users: `CiliumNetworkPolicy default/rule1`.
    pub fn object(&self) -> String {
        self.rule_ref("").object()
    }
}

/// Which policy object, and which place in it, made a decision.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleRef {
    /// Kind of the object.
    pub kind: Arc<str>,
    /// Its namespace; empty for clusterwide objects.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Place in the object: `ingress[0].toPorts[0].rules.http[1]`.
    pub rule: Arc<str>,
}

impl RuleRef {
    /// The object that it is in: `CiliumNetworkPolicy default/rule1`.
    pub fn object(&self) -> String {
        match &*self.namespace {
            "" => format!("{} {}", self.kind, self.name),
            namespace => format!("{} {namespace}/{}", self.kind, self.name),
        }
    }
}

impl fmt::Display for RuleRef {
    /// `CiliumNetworkPolicy default/rule1 ingress[0]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.object(), self.rule)
    }
}

/// Number of a [`RuleRef`] in map entries and datapath events.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct RuleId(pub u32);

impl RuleId {
    /// No policy decided: the direction is not in default deny, or the rule is
    /// the implicit one that lets a node reach its own pods.
    pub const NONE: Self = Self(0);
}

/// The numbers of all rules that a node has compiled.
///
/// A number is a hash of the reference, so an agent that restarts gives the
/// same rule the same number and entries that it finds in the maps keep their
/// meaning. A number is another rule's only once its own was given up.
#[derive(Clone, Debug, Default)]
pub struct RuleTable {
    ids: HashMap<RuleRef, RuleId>,
    refs: HashMap<RuleId, RuleRef>,
}

impl RuleTable {
    /// The number of this rule, given now if it has none yet.
    pub fn intern(&mut self, rule: &RuleRef) -> RuleId {
        if let Some(id) = self.ids.get(rule) {
            return *id;
        }
        let hash = fnv1a([&*rule.kind, &*rule.namespace, &*rule.name, &*rule.rule]);
        let mut id = RuleId(u32::try_from(hash & u64::from(u32::MAX)).unwrap_or(1));
        while id == RuleId::NONE || self.refs.contains_key(&id) {
            id = RuleId(id.0.wrapping_add(1));
        }
        self.ids.insert(rule.clone(), id);
        self.refs.insert(id, rule.clone());
        id
    }

    /// The rule of that number.
    pub fn get(&self, id: RuleId) -> Option<&RuleRef> {
        self.refs.get(&id)
    }

    /// Gives up the numbers of other rules.
    pub fn retain(&mut self, keep: impl Fn(&RuleRef) -> bool) {
        self.ids.retain(|rule, _| keep(rule));
        self.refs.retain(|_, rule| keep(rule));
    }

    /// How many rules have a number.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether no rule has one.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// All rules with their numbers, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (RuleId, &RuleRef)> {
        self.refs.iter().map(|(id, rule)| (*id, rule))
    }
}

/// One `spec` of an accepted policy object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The object it comes from.
    pub origin: Origin,
    /// The endpoints it applies to.
    pub subject: EndpointSelector,
    /// Traffic towards them.
    pub ingress: DirectionRules,
    /// Traffic from them.
    pub egress: DirectionRules,
}

impl Rule {
    /// The rules of one direction.
    pub fn direction(&self, direction: crate::model::Direction) -> &DirectionRules {
        match direction {
            crate::model::Direction::Ingress => &self.ingress,
            crate::model::Direction::Egress => &self.egress,
        }
    }
}

/// What a rule says about one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirectionRules {
    /// Whether the endpoints deny what no rule allows. `false` here makes the
    /// allows of this direction pass every request beside their L7 rules.
    pub default_deny: bool,
    /// `ingress` or `egress`.
    pub allow: Vec<TrafficRule>,
    /// `ingressDeny` or `egressDeny`; beats every allow.
    pub deny: Vec<TrafficRule>,
}

/// One element of an `ingress`, `ingressDeny`, `egress` or `egressDeny` list.
/// Its position in the list is its position in the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrafficRule {
    /// The other ends.
    pub peers: Peers,
    /// Ports; none means every port of every protocol.
    pub ports: Vec<PortRule>,
}

/// The other ends of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peers {
    /// No peer was named: any. Without ports such a rule selects nothing.
    Unnamed,
    /// The union of these; an empty list selects nothing.
    Listed(Vec<Peer>),
}

/// One element of a peer list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// `fromEndpoints`, `toEndpoints`, implicit labels already added.
    Endpoints(EndpointSelector),
    /// `fromEntities`, `toEntities`.
    Entity(Entity),
    /// `fromCIDR`, `fromCIDRSet` and their egress twins.
    Cidr(CidrPeer),
}

/// Addresses outside the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CidrPeer {
    /// The prefix, without host bits.
    pub cidr: IpNet,
    /// Prefixes inside it that are not meant.
    pub except: Vec<IpNet>,
}

/// Peers known by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entity {
    /// Any peer at all.
    All,
    /// Everything outside the cluster.
    World,
    /// The same, over IPv4 only.
    WorldIpv4,
    /// The same, over IPv6 only.
    WorldIpv6,
    /// Every pod and node of the cluster.
    Cluster,
    /// The subject's own node.
    Host,
    /// The other nodes.
    RemoteNode,
    /// The Kubernetes API server.
    KubeApiserver,
    /// The ingress proxy.
    Ingress,
    /// Pods whose labels are not known yet.
    Init,
    /// Health checks.
    Health,
    /// Pods that the mesh does not manage.
    Unmanaged,
    /// Nothing.
    None,
}

impl Entity {
    /// Every entity with its name in manifests.
    pub const NAMES: [(&'static str, Self); 13] = [
        ("all", Self::All),
        ("world", Self::World),
        ("world-ipv4", Self::WorldIpv4),
        ("world-ipv6", Self::WorldIpv6),
        ("cluster", Self::Cluster),
        ("host", Self::Host),
        ("remote-node", Self::RemoteNode),
        ("kube-apiserver", Self::KubeApiserver),
        ("ingress", Self::Ingress),
        ("init", Self::Init),
        ("health", Self::Health),
        ("unmanaged", Self::Unmanaged),
        ("none", Self::None),
    ];

    /// The entity of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, entity)| *entity)
    }
}

/// One element of `toPorts`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRule {
    /// At least one port.
    pub ports: Vec<PortSpec>,
    /// What the proxy has to judge there.
    pub l7: L7Rules,
}

/// Ports and protocol of one element of `ports`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortSpec {
    /// Which ports.
    pub port: PortMatch,
    /// `None` is `ANY`: TCP, UDP and SCTP.
    pub protocol: Option<Protocol>,
}

impl PortSpec {
    /// The protocols that are meant.
    pub fn protocols(&self) -> impl Iterator<Item = Protocol> + '_ {
        let meant = |one: &Protocol| self.protocol.is_none_or(|only| only == *one);
        Protocol::ALL.into_iter().filter(meant)
    }
}

/// Ports of one element of `ports`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortMatch {
    /// Port 0 in a manifest: every port of the protocol.
    All,
    /// `port` to `endPort`, both at least 1.
    Range(PortRange),
    /// The name of a container port of the pod that receives the traffic.
    Named(Box<str>),
}

/// First and last port, inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port, at least the first.
    pub last: u16,
}

/// What the proxy has to judge on a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum L7Rules {
    /// Nothing: the traffic does not need the proxy.
    #[default]
    None,
    /// HTTP requests; an empty list passes all of them (through the proxy).
    Http(HttpRules),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(spec: Option<usize>) -> Origin {
        Origin {
            kind: PolicyKind::CiliumNetworkPolicy,
            namespace: "default".into(),
            name: "rule1".into(),
            spec,
        }
    }

    #[test]
    fn references_name_object_and_place() {
        let plain = origin(None).rule_ref("ingress[0]");
        assert_eq!(
            plain.to_string(),
            "CiliumNetworkPolicy default/rule1 ingress[0]"
        );
        let listed = origin(Some(2)).rule_ref("egress[1].toPorts[0]");
        assert_eq!(&*listed.rule, "specs[2].egress[1].toPorts[0]");
    }

    #[test]
    fn rule_numbers_are_stable_and_unique() {
        let rules: Vec<_> = (0..2000)
            .map(|index| origin(None).rule_ref(&format!("ingress[{index}]")))
            .collect();
        let mut table = RuleTable::default();
        let ids: Vec<_> = rules.iter().map(|rule| table.intern(rule)).collect();
        let mut again = RuleTable::default();
        for (rule, id) in rules.iter().zip(&ids).rev() {
            assert_eq!(table.get(*id), Some(rule));
            assert_eq!(table.intern(rule), *id);
            assert_eq!(
                again.intern(rule),
                *id,
                "order of interning must not matter"
            );
            assert_ne!(*id, RuleId::NONE);
        }
        table.retain(|rule| &*rule.rule == "ingress[7]");
        assert_eq!((table.len(), table.is_empty()), (1, false));
        assert_eq!(
            (table.get(ids[7]), table.get(ids[8])),
            (Some(&rules[7]), None)
        );
    }
}
