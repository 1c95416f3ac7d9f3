//! Rules broken into the smallest things that match: peers, protocol, ports,
//! effect.

use std::sync::Arc;

use super::selections::NamedPorts;
use super::{Compiler, PeerSet, Subject};
use crate::model::{Direction, NumericIdentity, Protocol};
use crate::policy::http::HttpRules;
use crate::policy::{
    Decision, L7Rules, Peers, PortMatch, PortRange, PortRule, PortSpec, Priority, Rule, RuleRef,
    TrafficRule,
};

/// The traffic that an [`Atom`] holds for, apart from its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Scope {
    /// Every protocol.
    Everything,
    /// Every port of a protocol.
    Protocol(Protocol),
    /// A range of ports.
    Ports(Protocol, PortRange),
}

/// One thing that a rule says.
#[derive(Clone, Debug)]
pub(super) struct Atom {
    pub peers: PeerSet,
    pub scope: Scope,
    pub decision: Decision,
    pub priority: Priority,
    /// Requests that pass in the proxy; none listed: all.
    pub http: HttpRules,
    pub rule: Option<RuleRef>,
}

impl Atom {
    /// Whether it lets traffic through without the proxy, which a filter may
    /// change. A node towards its own pod is never asked for more.
    pub(super) fn is_plain_allow(&self) -> bool {
        self.decision == Decision::Allow && self.priority == Priority::PLAIN
    }
}

/// Most atoms of one endpoint and direction. Nothing real comes near; a number
/// of large objects that select the same pods must not take all memory.
pub(super) const MAX_ATOMS: usize = 1 << 16;

/// Collects the atoms of one direction.
pub(super) struct Builder<'c, 'i, 's> {
    compiler: &'c mut Compiler<'i>,
    subject: &'s Subject<'s>,
    direction: Direction,
    atoms: Vec<Atom>,
    /// There were more than [`MAX_ATOMS`].
    full: bool,
    /// Whoever the peers are is left open.
    anybody: bool,
}

impl<'c, 'i, 's> Builder<'c, 'i, 's> {
    pub(super) fn new(
        compiler: &'c mut Compiler<'i>,
        subject: &'s Subject<'s>,
        direction: Direction,
    ) -> Self {
        Self {
            compiler,
            subject,
            direction,
            atoms: Vec::new(),
            full: false,
            anybody: false,
        }
    }

    /// For what rules come to whoever their peers are.
    pub(super) fn for_anybody(
        compiler: &'c mut Compiler<'i>,
        subject: &'s Subject<'s>,
        direction: Direction,
    ) -> Self {
        Self {
            anybody: true,
            ..Self::new(compiler, subject, direction)
        }
    }

    /// Adds what a rule says about the direction.
    pub(super) fn add(&mut self, rule: &Rule) {
        let section = rule.direction(self.direction);
        let name = self.direction.as_str();
        for (index, traffic) in section.deny.iter().enumerate() {
            if self.full {
                return;
            }
            let place = Place(rule, format!("{name}Deny[{index}]"));
            self.add_traffic(traffic, &place, Effect::Deny);
        }
        for (index, traffic) in section.allow.iter().enumerate() {
            if self.full {
                return;
            }
            let place = Place(rule, format!("{name}[{index}]"));
            let enforces = section.default_deny;
            self.add_traffic(traffic, &place, Effect::Allow { enforces });
        }
    }

    /// Adds what holds without any policy and returns all atoms.
    ///
    /// # Errors
    /// The first [`MAX_ATOMS`] when there were more.
    pub(super) fn finish(mut self, default_deny: bool) -> Result<Vec<Atom>, Vec<Atom>> {
        if self.full {
            return Err(self.atoms);
        }
        let implicit = |peers, priority| Atom {
            peers,
            scope: Scope::Everything,
            decision: Decision::Allow,
            priority,
            http: HttpRules::default(),
            rule: None,
        };
        if self.direction == Direction::Ingress {
            let host = PeerSet::These(Arc::new([NumericIdentity::HOST]));
            self.atoms.push(implicit(host, Priority::HOST));
        }
        if !default_deny {
            self.atoms.push(implicit(PeerSet::Any, Priority::PLAIN));
        }
        Ok(self.atoms)
    }

    fn add_traffic(&mut self, traffic: &TrafficRule, place: &Place<'_>, effect: Effect) {
        let peers = match &traffic.peers {
            Peers::Unnamed if traffic.ports.is_empty() => return,
            Peers::Unnamed => Some(PeerSet::Any),
            Peers::Listed(_) if self.anybody => Some(PeerSet::Any),
            Peers::Listed(peers) => self.compiler.selections.peers(peers),
        };
        let Some(peers) = peers else { return };
        if traffic.ports.is_empty() {
            self.push(
                peers,
                Scope::Everything,
                effect,
                &L7Rules::None,
                place.reference(None),
            );
            return;
        }
        for (index, ports) in traffic.ports.iter().enumerate() {
            let reference = place.reference(Some(index));
            self.add_ports(&peers, ports, effect, &reference);
        }
    }

    fn add_ports(&mut self, peers: &PeerSet, rule: &PortRule, effect: Effect, reference: &RuleRef) {
        for spec in &rule.ports {
            match &spec.port {
                PortMatch::All => {
                    for protocol in spec.protocols() {
                        let scope = Scope::Protocol(protocol);
                        self.push(peers.clone(), scope, effect, &rule.l7, reference.clone());
                    }
                }
                PortMatch::Range(range) => {
                    for protocol in spec.protocols() {
                        let scope = Scope::Ports(protocol, *range);
                        self.push(peers.clone(), scope, effect, &rule.l7, reference.clone());
                    }
                }
                PortMatch::Named(name) => {
                    for ((protocol, port), peers) in self.named(name, spec, peers).iter() {
                        let range = PortRange {
                            first: *port,
                            last: *port,
                        };
                        let scope = Scope::Ports(*protocol, range);
                        self.push(peers.clone(), scope, effect, &rule.l7, reference.clone());
                    }
                }
            }
        }
    }

    /// The ports that a name means: those of the pod that receives the
    /// traffic, which in egress differ from peer to peer.
    fn named(&mut self, name: &str, spec: &PortSpec, peers: &PeerSet) -> NamedPorts {
        if self.direction == Direction::Egress {
            return self.compiler.selections.named(name, spec.protocol, peers);
        }
        let meant =
            |(protocol, _): &(Protocol, u16)| spec.protocol.is_none_or(|only| only == *protocol);
        let ports = self.subject.named_ports.get(name).filter(meant);
        ports.map(|port| (port, peers.clone())).collect()
    }

    fn push(&mut self, peers: PeerSet, scope: Scope, effect: Effect, l7: &L7Rules, rule: RuleRef) {
        let (decision, priority, http) = match (effect, l7) {
            (Effect::Deny, _) => (Decision::Deny, Priority::PLAIN, HttpRules::default()),
            (Effect::Allow { .. }, L7Rules::None) => {
                (Decision::Allow, Priority::PLAIN, HttpRules::default())
            }
            // Where the rule does not enforce, an empty rule stands beside its
            // HTTP rules: the proxy sees the requests and passes them all.
            (Effect::Allow { enforces: false }, L7Rules::Http(_)) => {
                (Decision::Redirect, Priority::HTTP, HttpRules::default())
            }
            (Effect::Allow { enforces: true }, L7Rules::Http(http)) => {
                (Decision::Redirect, Priority::HTTP, http.clone())
            }
        };
        if self.atoms.len() >= MAX_ATOMS {
            self.full = true;
            return;
        }
        self.atoms.push(Atom {
            peers,
            scope,
            decision,
            priority,
            http,
            rule: Some(rule),
        });
    }
}

#[derive(Clone, Copy)]
enum Effect {
    Deny,
    Allow { enforces: bool },
}

/// A rule and the place of a traffic rule in it.
struct Place<'a>(&'a Rule, String);

impl Place<'_> {
    fn reference(&self, ports: Option<usize>) -> RuleRef {
        let Self(rule, place) = self;
        match ports {
            Some(index) => rule.origin.rule_ref(&format!("{place}.toPorts[{index}]")),
            None => rule.origin.rule_ref(place),
        }
    }
}
