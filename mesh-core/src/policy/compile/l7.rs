//! Atoms to what the proxy judges.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::atoms::{self, Scope};
use super::bounds::{Bounded, Bounds, Excess};
use super::entries::all_ports;
use super::intercepts::Intercepted;
use super::{Atom, Compiler, PeerRule, PeerSet, PortPolicy, Side, Subject};
use crate::model::{Direction, EndpointId, Labels, NamedPorts, Protocol};
use crate::policy::{Decision, IdentityTable, Rule, RuleRef};

/// Most rules that are looked at for all ranges of ports of one direction, each
/// as often as it holds on one.
pub(super) const MAX_STEPS: usize = 1 << 18;

/// Tags, lengths and numbers of a rule, or of a range of ports, in a snapshot.
const AROUND: usize = 40;

/// What the proxy is given to judge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HttpLoad {
    /// As in [`Bounds::http_bytes`].
    pub bytes: usize,
    /// As in [`Bounds::http_tables`].
    pub tables: usize,
}

/// What one object's rules alone are to a pod that all of them select, whoever
/// the peers are.
///
/// # Errors
/// Of what there is so much that it takes too long to tell.
pub fn http_load(rules: &[Rule]) -> Result<HttpLoad, Excess> {
    let identities = IdentityTable::new();
    let mut compiler = Compiler::new(&identities);
    let subject = Subject {
        id: EndpointId(0),
        labels: &Labels::default(),
        named_ports: &NamedPorts::default(),
        intercepts: &[],
    };
    let all = Bounds {
        http_bytes: usize::MAX,
        http_tables: usize::MAX,
        ..Bounds::default()
    };
    let mut load = HttpLoad::default();
    for direction in Direction::ALL {
        let mut builder = atoms::Builder::for_anybody(&mut compiler, &subject, direction);
        rules.iter().for_each(|rule| builder.add(rule));
        let atoms = builder.finish(true).map_err(|first| {
            let first = first.iter().map(|atom| (atom, 1));
            Excess::new(Bounded::Rules, atoms::MAX_ATOMS, first)
        })?;
        let side = Side {
            direction,
            atoms,
            intercepted: Intercepted::default(),
        };
        build(subject.id, &side, &all, &mut load)
            .map_err(|of| Excess::new(of, MAX_STEPS, with_ranges(&side)))?;
    }
    Ok(load)
}

/// The L7 policies of one direction: for every range of TCP ports on which
/// some rule redirects, or filters are attached to what rules allow, all rules
/// that hold there.
///
/// Plain rules count as well: connections may reach the proxy on account of
/// the other direction, and "any rule without HTTP rules passes the request".
pub(super) fn build(
    endpoint: EndpointId,
    side: &Side,
    bounds: &Bounds,
    load: &mut HttpLoad,
) -> Result<Vec<PortPolicy>, Bounded> {
    let Side {
        direction, atoms, ..
    } = side;
    let mut policies: Vec<PortPolicy> = Vec::new();
    let mut held = Held::default();
    let mut steps = 0;
    let borders = borders(side);
    let ends = borders.keys().skip(1).copied().chain([PORTS]);
    for ((first, border), end) in borders.iter().zip(ends) {
        held.cross(border, atoms);
        let (Ok(first), Ok(last)) = (u16::try_from(*first), u16::try_from(end - 1)) else {
            continue;
        };
        if !held.is_judged() {
            continue;
        }
        steps += held.atoms.len();
        if steps > MAX_STEPS {
            return Err(Bounded::HttpSteps);
        }
        let these = held.atoms.iter().filter_map(|index| atoms.get(*index));
        let rules: Arc<[PeerRule]> = these.map(peer_rule).collect();
        match policies.last_mut() {
            // Neighbouring ranges with the same rules are one.
            Some(before) if before.last.checked_add(1) == Some(first) && before.rules == rules => {
                before.last = last;
                continue;
            }
            _ => {}
        }
        load.bytes += AROUND + held.bytes;
        load.tables += held.tables;
        if load.bytes > bounds.http_bytes {
            return Err(Bounded::HttpBytes);
        }
        if load.tables > bounds.http_tables {
            return Err(Bounded::HttpTables);
        }
        policies.push(PortPolicy {
            endpoint,
            direction: *direction,
            first,
            last,
            rules,
        });
    }
    Ok(policies)
}

fn peer_rule(atom: &Atom) -> PeerRule {
    PeerRule {
        peers: atom.peers.clone(),
        deny: atom.decision == Decision::Deny,
        http: atom.http.shared(),
        rule: atom.rule.clone(),
    }
}

/// How many ports there are; also the border after the last one.
const PORTS: u32 = 1 << 16;

/// Where rules, and filters, begin and end to hold.
#[derive(Default)]
struct Border {
    begin: Vec<usize>,
    end: Vec<usize>,
    /// Whether filters are attached from here on; `None`: as before.
    intercepted: Option<bool>,
}

/// The TCP ports cut at every border of a rule's range, and of a filter's:
/// between two borders all ports have the same.
fn borders(side: &Side) -> BTreeMap<u32, Border> {
    let mut borders = BTreeMap::from([(0, Border::default())]);
    for range in side.intercepted.ranges() {
        // They do not meet, so none begins where another one ends.
        let (first, end) = (u32::from(range.first), u32::from(range.last) + 1);
        borders.entry(first).or_default().intercepted = Some(true);
        if end < PORTS {
            borders.entry(end).or_default().intercepted = Some(false);
        }
    }
    for (index, atom) in side.atoms.iter().enumerate() {
        let Some((first, end)) = tcp_ports(atom.scope) else {
            continue;
        };
        borders.entry(first).or_default().begin.push(index);
        if end < PORTS {
            borders.entry(end).or_default().end.push(index);
        }
    }
    borders
}

/// The atoms, each with on how many ranges of ports it holds.
pub(super) fn with_ranges(side: &Side) -> impl Iterator<Item = (&Atom, usize)> {
    let begins: Vec<u32> = borders(side).into_keys().collect();
    side.atoms.iter().map(move |atom| {
        let Some((first, end)) = tcp_ports(atom.scope) else {
            return (atom, 0);
        };
        let at = |port| begins.partition_point(|begin| *begin < port);
        (atom, at(end) - at(first))
    })
}

/// The first TCP port for which something holds, and the one after the last.
fn tcp_ports(scope: Scope) -> Option<(u32, u32)> {
    match scope {
        Scope::Ports(Protocol::Tcp, range) => Some((range.first.into(), u32::from(range.last) + 1)),
        scope if all_ports(scope, Protocol::Tcp) => Some((0, PORTS)),
        _ => None,
    }
}

/// The atoms that hold between two borders, in the order of the policies.
#[derive(Default)]
struct Held {
    atoms: BTreeSet<usize>,
    redirects: usize,
    /// Those that lead to the proxy where filters are attached.
    plain: usize,
    intercepted: bool,
    bytes: usize,
    tables: usize,
}

impl Held {
    /// Whether anything leads to the proxy.
    fn is_judged(&self) -> bool {
        self.redirects > 0 || self.intercepted && self.plain > 0
    }

    fn cross(&mut self, border: &Border, atoms: &[Atom]) {
        self.intercepted = border.intercepted.unwrap_or(self.intercepted);
        for (index, atom) in border.end.iter().filter_map(|i| Some((i, atoms.get(*i)?))) {
            self.atoms.remove(index);
            self.redirects -= usize::from(atom.decision == Decision::Redirect);
            self.plain -= usize::from(atom.is_plain_allow());
            self.bytes -= bytes_of(atom);
            self.tables -= atom.http.cost();
        }
        for (index, atom) in border
            .begin
            .iter()
            .filter_map(|i| Some((i, atoms.get(*i)?)))
        {
            self.atoms.insert(*index);
            self.redirects += usize::from(atom.decision == Decision::Redirect);
            self.plain += usize::from(atom.is_plain_allow());
            self.bytes += bytes_of(atom);
            self.tables += atom.http.cost();
        }
    }
}

/// The size of an atom in a snapshot; rather more than less.
pub(super) fn bytes_of(atom: &Atom) -> usize {
    /// Numbers of identities of the cluster take up to three bytes, those of
    /// prefixes four.
    const IDENTITY: usize = 4;
    let peers = match &atom.peers {
        PeerSet::Any => 0,
        PeerSet::These(these) => these.len() * IDENTITY,
    };
    let place =
        |rule: &RuleRef| rule.kind.len() + rule.namespace.len() + rule.name.len() + rule.rule.len();
    AROUND + peers + atom.rule.as_ref().map_or(0, place) + atom.http.size()
}
