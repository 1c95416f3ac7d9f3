//! Rules and identities in, one endpoint's policy out.

mod atoms;
mod entries;
mod l7;
mod touched;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use self::atoms::Atom;
pub use self::touched::Touched;
use super::http::HttpRule;
use super::{IdentityTable, MapEntry, Peer, Rule, RuleRef, RuleTable};
use crate::model::{Direction, EndpointId, Labels, NamedPorts, NumericIdentity};

/// The endpoint that a policy is compiled for.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its number on the node.
    pub id: EndpointId,
    /// Its labels.
    pub labels: &'a Labels,
    /// Its named container ports.
    pub named_ports: &'a NamedPorts,
}

/// Everything that the datapath and the proxy enforce for one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPolicy {
    /// The endpoint.
    pub id: EndpointId,
    /// Whether what no rule allows is denied, towards it.
    pub ingress_default_deny: bool,
    /// Whether what no rule allows is denied, from it.
    pub egress_default_deny: bool,
    /// Whether any policy has a say about it, with or without default deny.
    pub policed: bool,
    /// All its entries, sorted by key. Complete: a packet that finds none is
    /// dropped; without default deny there is an entry that allows all.
    pub entries: Arc<[MapEntry]>,
    /// What the proxy judges, sorted by direction and port.
    pub ports: Vec<PortPolicy>,
}

impl EndpointPolicy {
    /// The same for another endpoint with the same labels and named ports. The
    /// two share their entries and rules.
    #[must_use]
    pub fn for_endpoint(&self, id: EndpointId) -> Self {
        let ports = self.ports.iter().map(|port| PortPolicy {
            endpoint: id,
            ..port.clone()
        });
        Self {
            id,
            ingress_default_deny: self.ingress_default_deny,
            egress_default_deny: self.egress_default_deny,
            policed: self.policed,
            entries: self.entries.clone(),
            ports: ports.collect(),
        }
    }
}

/// L7 policy of an endpoint for one direction and range of TCP ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortPolicy {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Direction.
    pub direction: Direction,
    /// First port of the range.
    pub first: u16,
    /// Last port of the range, inclusive.
    pub last: u16,
    /// All rules that hold on the range, with or without HTTP rules, in the
    /// order of the policies. Never empty.
    pub rules: Arc<[PeerRule]>,
}

/// The other ends that a [`PeerRule`] holds for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PeerSet {
    /// Every other end.
    Any,
    /// These identities, sorted and never empty.
    These(Arc<[NumericIdentity]>),
}

impl PeerSet {
    /// Whether an identity is meant.
    pub fn contains(&self, identity: NumericIdentity) -> bool {
        match self {
            Self::Any => true,
            Self::These(these) => these.binary_search(&identity).is_ok(),
        }
    }
}

/// One rule of a [`PortPolicy`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerRule {
    /// The other ends.
    pub peers: PeerSet,
    /// Whether they are denied, whatever else holds.
    pub deny: bool,
    /// Requests that pass; none listed means all pass.
    pub http: Vec<HttpRule>,
    /// Where it stands; `None` where no policy decided (no default deny, or
    /// the node towards its own pod).
    pub rule: Option<RuleRef>,
}

/// Compiles policies of endpoints against one state of the identities.
///
/// Keep one for all endpoints of a pass: it remembers which identities a peer
/// means, and most rules name the same few peers.
#[derive(Debug)]
pub struct Compiler<'a> {
    identities: &'a IdentityTable,
    selections: HashMap<Peer, Arc<BTreeSet<NumericIdentity>>>,
}

impl<'a> Compiler<'a> {
    /// A compiler for these identities.
    pub fn new(identities: &'a IdentityTable) -> Self {
        Self {
            identities,
            selections: HashMap::new(),
        }
    }

    /// The policy of one endpoint under all rules of the cluster; those that
    /// do not select it are passed over. `rules` should come in a stable
    /// order: where two rules decide alike the first one is named.
    pub fn compile<'r>(
        &mut self,
        subject: &Subject<'_>,
        rules: impl IntoIterator<Item = &'r Rule>,
        table: &mut RuleTable,
    ) -> EndpointPolicy {
        let selected: Vec<&Rule> = rules
            .into_iter()
            .filter(|rule| rule.subject.matches(subject.labels))
            .collect();
        let mut entries = Vec::new();
        let mut ports = Vec::new();
        let mut default_deny = |direction| {
            let denies = selected
                .iter()
                .any(|rule| rule.direction(direction).default_deny);
            let atoms = self.atoms(subject, &selected, direction, denies);
            entries.extend(entries::build(direction, &atoms, table));
            ports.extend(l7::build(subject.id, direction, &atoms));
            denies
        };
        let ingress_default_deny = default_deny(Direction::Ingress);
        let egress_default_deny = default_deny(Direction::Egress);
        entries.sort_unstable_by_key(|entry| entry.key);
        EndpointPolicy {
            id: subject.id,
            ingress_default_deny,
            egress_default_deny,
            policed: selected.iter().any(|rule| has_a_say(rule)),
            entries: entries.into(),
            ports,
        }
    }

    fn atoms(
        &mut self,
        subject: &Subject<'_>,
        rules: &[&Rule],
        direction: Direction,
        default_deny: bool,
    ) -> Vec<Atom> {
        let mut builder = atoms::Builder::new(self, subject, direction);
        for rule in rules {
            builder.add(rule);
        }
        builder.finish(default_deny)
    }

    /// The identities that a peer means, remembered.
    fn select(&mut self, peer: &Peer) -> Arc<BTreeSet<NumericIdentity>> {
        if let Some(known) = self.selections.get(peer) {
            return known.clone();
        }
        let selected = Arc::new(self.identities.select(peer));
        self.selections.insert(peer.clone(), selected.clone());
        selected
    }
}

/// Whether a rule says anything: an object may select pods and name no traffic.
fn has_a_say(rule: &Rule) -> bool {
    Direction::ALL.iter().any(|direction| {
        let rules = rule.direction(*direction);
        rules.default_deny || !rules.allow.is_empty() || !rules.deny.is_empty()
    })
}

#[cfg(test)]
mod tests;
