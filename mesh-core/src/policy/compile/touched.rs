//! Which rules come out differently when identities change.

use crate::model::NumericIdentity;
use crate::policy::identities::KnownIdentity;
use crate::policy::{Entity, IdentityTable, Peer, Peers, PortMatch, Rule, TrafficRule};

/// Changes beyond this are not looked at one by one: compiling everything is
/// cheaper then.
const FEW: usize = 64;

/// The identities in which two states differ, as they were and as they are.
#[derive(Debug)]
pub enum Touched<'a> {
    /// So many that any rule may come out differently.
    Anything,
    /// These.
    These(Vec<(NumericIdentity, &'a KnownIdentity)>),
}

impl<'a> Touched<'a> {
    /// What differs between two states.
    pub fn between(before: &'a IdentityTable, after: &'a IdentityTable) -> Self {
        let mut these = Vec::new();
        for (from, other) in [(before, after), (after, before)] {
            let differ = from
                .iter()
                .filter(|(id, known)| other.get(*id) != Some(*known));
            these.extend(differ.take(FEW + 1));
        }
        if these.len() > FEW {
            Self::Anything
        } else {
            Self::These(these)
        }
    }

    /// Whether a rule may come out differently: never false for one that does.
    pub fn touches(&self, rule: &Rule) -> bool {
        let these = match self {
            Self::Anything => return true,
            Self::These(these) if these.is_empty() => return false,
            Self::These(these) => these,
        };
        let ingress = rule.ingress.allow.iter().chain(&rule.ingress.deny);
        let egress = rule.egress.allow.iter().chain(&rule.egress.deny);
        ingress.chain(egress).any(|traffic| {
            // Everybody is everybody, but a port's name means what the pods
            // among them call by it.
            let everybody = || names_ports(traffic);
            match &traffic.peers {
                Peers::Unnamed => everybody(),
                Peers::Listed(peers) => peers.iter().any(|peer| match peer {
                    Peer::Entity(Entity::All) => everybody(),
                    peer => these.iter().any(|(id, known)| peer.means(*id, known)),
                }),
            }
        })
    }
}

fn names_ports(traffic: &TrafficRule) -> bool {
    let mut specs = traffic.ports.iter().flat_map(|rule| &rule.ports);
    specs.any(|spec| matches!(spec.port, PortMatch::Named(_)))
}
