//! Rules and identities in, one endpoint's policy out.

mod atoms;
mod bounds;
mod entries;
mod held;
mod intercepts;
mod l7;
mod others;
mod selections;
mod touched;

use std::collections::HashSet;
use std::sync::Arc;

use self::atoms::Atom;
pub use self::bounds::{Bounded, Bounds, Excess};
use self::entries::Limit;
use self::intercepts::Intercepted;
pub use self::l7::{HttpLoad, http_load};
use self::selections::Selections;
pub use self::touched::Touched;
use super::http::HttpRule;
use super::{EntryKey, IdentityTable, MapEntry, Rule, RuleRef, RuleTable};
use crate::filter::Intercept;
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
    /// Ports whose traffic passes the proxy for its filters. Who may reach whom
    /// does not change by that.
    pub intercepts: &'a [Intercept],
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
    /// Whether anything has a say about it: a policy, with or without default
    /// deny, or a filter.
    pub policed: bool,
    /// All its entries, sorted by key. Complete: a packet that finds none is
    /// dropped; without default deny there is an entry that allows all.
    pub entries: Arc<[MapEntry]>,
    /// What the proxy judges, sorted by direction and port.
    pub ports: Vec<PortPolicy>,
    /// Whether redirects must stay closed: what the proxy would have to judge is
    /// more than there may be, and `ports` is empty.
    pub http_closed: bool,
    /// What `ports` come to.
    pub http_load: HttpLoad,
    /// The bounds that it exceeds. What is here is less than the policies say
    /// then, and never more.
    pub excess: Vec<Excess>,
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
            http_closed: self.http_closed,
            http_load: self.http_load,
            excess: self.excess.clone(),
        }
    }

    /// Keeps from the proxy what it should judge; what is redirected to it has
    /// to stay closed.
    pub fn close_http(&mut self) {
        self.http_closed = true;
        self.http_load = HttpLoad::default();
        self.ports = Vec::new();
    }

    /// Denies everything, in both directions.
    pub fn close(&mut self) {
        self.ingress_default_deny = true;
        self.egress_default_deny = true;
        self.policed = true;
        self.entries = Arc::new([]);
        self.close_http();
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
    /// order of the policies. Never empty. On ports that are intercepted none
    /// may have HTTP rules.
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
    pub http: Arc<[HttpRule]>,
    /// Where it stands; `None` where no policy decided (no default deny, or
    /// the node towards its own pod).
    pub rule: Option<RuleRef>,
}

/// What rules say of one direction.
struct Side {
    direction: Direction,
    atoms: Vec<Atom>,
    /// Where plain allows lead to the proxy as well.
    intercepted: Intercepted,
}

impl Side {
    /// The atoms, each with how many entries it makes.
    fn with_keys(&self) -> impl Iterator<Item = (&Atom, usize)> {
        let atoms = self.atoms.iter();
        atoms.map(|atom| (atom, entries::keys_of(atom, &self.intercepted)))
    }
}

/// Compiles policies of endpoints against one state of the identities.
///
/// Keep one for all endpoints of a pass: it remembers which identities a peer
/// means, and most rules name the same few peers.
#[derive(Debug)]
pub struct Compiler<'a> {
    selections: Selections<'a>,
    bounds: Bounds,
}

impl<'a> Compiler<'a> {
    /// A compiler for these identities, within the usual bounds.
    pub fn new(identities: &'a IdentityTable) -> Self {
        Self::bounded(identities, Bounds::default())
    }

    /// A compiler within other bounds.
    pub fn bounded(identities: &'a IdentityTable, bounds: Bounds) -> Self {
        Self {
            selections: Selections::new(identities),
            bounds,
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
        self.compile_over(subject, rules, table, Vec::new)
    }

    /// As [`Self::compile`], for an endpoint that has something already: where
    /// its policy exceeds its bounds, it gets nothing new. Denies and redirects
    /// are complete; when these are too many as well, everything is denied. Of the
    /// plain allows it keeps, as long as there is room, the keys among `held` of
    /// which one rule still allows all, in the same words or in wider ones. A key
    /// that rules allow in parts only is not kept: its parts would be new. But
    /// where it is within them without the ranges of addresses that none of its
    /// own rules names, it is only allowed nothing more of these.
    pub fn compile_over<'r>(
        &mut self,
        subject: &Subject<'_>,
        rules: impl IntoIterator<Item = &'r Rule>,
        table: &mut RuleTable,
        held: impl FnOnce() -> Vec<EntryKey>,
    ) -> EndpointPolicy {
        let selected: Vec<&Rule> = rules
            .into_iter()
            .filter(|rule| rule.subject.matches(subject.labels))
            .collect();
        let [ingress, egress] = Direction::ALL.map(|direction| {
            let mut rules = selected.iter().map(|rule| rule.direction(direction));
            rules.any(|rules| rules.default_deny)
        });
        let mut policy = EndpointPolicy {
            id: subject.id,
            ingress_default_deny: ingress,
            egress_default_deny: egress,
            policed: !subject.intercepts.is_empty() || selected.iter().any(|rule| has_a_say(rule)),
            entries: Arc::new([]),
            ports: Vec::new(),
            http_closed: false,
            http_load: HttpLoad::default(),
            excess: Vec::new(),
        };
        let mut sides = Vec::new();
        for (direction, default_deny) in [Direction::Ingress, Direction::Egress]
            .into_iter()
            .zip([ingress, egress])
        {
            match self.atoms(subject, &selected, direction, default_deny) {
                Ok(atoms) => sides.push(Side {
                    direction,
                    atoms,
                    intercepted: Intercepted::of(subject.intercepts, direction),
                }),
                Err(first) => {
                    let first = first.iter().map(|atom| (atom, 1));
                    let excess = Excess::new(Bounded::Rules, atoms::MAX_ATOMS, first);
                    policy.excess.push(excess);
                    policy.close();
                    return policy;
                }
            }
        }
        let others = || self.selections.others(&selected);
        if self.add_entries(&mut policy, &sides, table, others, held) {
            self.add_ports(&mut policy, &sides);
        }
        policy
    }

    fn atoms(
        &mut self,
        subject: &Subject<'_>,
        rules: &[&Rule],
        direction: Direction,
        default_deny: bool,
    ) -> Result<Vec<Atom>, Vec<Atom>> {
        let mut builder = atoms::Builder::new(self, subject, direction);
        for rule in rules {
            builder.add(rule);
        }
        builder.finish(default_deny)
    }

    /// False when everything is denied.
    fn add_entries(
        &self,
        policy: &mut EndpointPolicy,
        sides: &[Side],
        table: &mut RuleTable,
        others: impl FnOnce() -> HashSet<NumericIdentity>,
        held: impl FnOnce() -> Vec<EntryKey>,
    ) -> bool {
        let entries = self.bounds.entries;
        let limit = Limit {
            entries,
            steps: entries::most_steps(entries),
        };
        let all = within(sides, limit, |side, limit| {
            entries::build(side, limit, table)
        });
        let of = match all {
            Ok(entries) => {
                policy.entries = entries;
                return true;
            }
            Err(of) => of,
        };
        let most = match of {
            Bounded::EntrySteps => limit.steps,
            _ => limit.entries,
        };
        // What others' ranges add is nobody's fault here.
        let others = others();
        let own: Vec<Side> = sides.iter().map(|side| side.without(&others)).collect();
        if !others.is_empty()
            && let Ok(entries) = within(&own, limit, |side, limit| {
                entries::build(side, limit, table)
            })
        {
            policy.entries = entries;
            policy.excess.push(Excess {
                of: Bounded::OthersRanges,
                limit: most,
                most: None,
            });
            return true;
        }
        let atoms = own.iter().flat_map(Side::with_keys);
        let excess = Excess::new(of, most, atoms);
        policy.excess.push(excess);
        let held = held();
        let Ok(kept) = held::build(sides, &held, limit, table) else {
            policy.close();
            return false;
        };
        policy.entries = kept;
        true
    }

    fn add_ports(&self, policy: &mut EndpointPolicy, sides: &[Side]) {
        let mut load = HttpLoad::default();
        for side in sides {
            let built = l7::build(policy.id, side, &self.bounds, &mut load);
            let of = match built {
                Ok(ports) => {
                    policy.ports.extend(ports);
                    continue;
                }
                Err(of) => of,
            };
            let atoms = sides.iter().flat_map(|side| &side.atoms);
            let excess = match of {
                Bounded::HttpSteps => Excess::new(of, l7::MAX_STEPS, l7::with_ranges(side)),
                Bounded::HttpTables => {
                    let costs = atoms.map(|atom| (atom, atom.http.cost()));
                    Excess::new(of, self.bounds.http_tables, costs)
                }
                _ => {
                    let sizes = atoms.map(|atom| (atom, l7::bytes_of(atom)));
                    Excess::new(of, self.bounds.http_bytes, sizes)
                }
            };
            policy.excess.push(excess);
            policy.close_http();
            return;
        }
        policy.http_load = load;
    }
}

/// The entries of all sides, sorted by key; or of what there is too much.
fn within(
    sides: &[Side],
    limit: Limit,
    mut build: impl FnMut(&Side, Limit) -> Result<Vec<MapEntry>, Bounded>,
) -> Result<Arc<[MapEntry]>, Bounded> {
    let mut entries = Vec::new();
    for side in sides {
        let room = limit.entries - entries.len();
        entries.extend(build(
            side,
            Limit {
                entries: room,
                ..limit
            },
        )?);
    }
    Ok(sorted(entries))
}

fn sorted(mut entries: Vec<MapEntry>) -> Arc<[MapEntry]> {
    entries.sort_unstable_by_key(|entry| entry.key);
    entries.into()
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
