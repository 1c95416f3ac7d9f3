//! Atoms to what the proxy judges.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Atom, PeerRule, PortPolicy, atoms::Scope, entries::all_ports};
use crate::model::{Direction, EndpointId, Protocol};
use crate::policy::{Decision, PortRange};

/// The L7 policies of one direction: for every range of TCP ports on which
/// some rule redirects, all rules that hold there.
///
/// Plain rules count as well: connections may reach the proxy on account of
/// the other direction, and "any rule without HTTP rules passes the request".
pub(super) fn build(endpoint: EndpointId, direction: Direction, atoms: &[Atom]) -> Vec<PortPolicy> {
    let mut policies: Vec<PortPolicy> = Vec::new();
    for range in segments(atoms) {
        let held: Vec<&Atom> = atoms.iter().filter(|atom| holds(atom, range)).collect();
        if held.iter().all(|atom| atom.decision != Decision::Redirect) {
            continue;
        }
        let rules: Arc<[PeerRule]> = held.into_iter().map(peer_rule).collect();
        match policies.last_mut() {
            // Neighbouring ranges with the same rules are one.
            Some(last) if last.last.checked_add(1) == Some(range.first) && last.rules == rules => {
                last.last = range.last;
            }
            _ => policies.push(PortPolicy {
                endpoint,
                direction,
                first: range.first,
                last: range.last,
                rules,
            }),
        }
    }
    policies
}

fn peer_rule(atom: &Atom) -> PeerRule {
    PeerRule {
        peers: atom.peers.clone(),
        deny: atom.decision == Decision::Deny,
        http: atom.http.clone(),
        rule: atom.rule.clone(),
    }
}

fn holds(atom: &Atom, range: PortRange) -> bool {
    match atom.scope {
        Scope::Ports(Protocol::Tcp, ports) => {
            ports.first <= range.first && range.last <= ports.last
        }
        scope => all_ports(scope, Protocol::Tcp),
    }
}

/// The TCP ports cut at every border of a rule's range: within a segment all
/// ports have the same rules.
fn segments(atoms: &[Atom]) -> Vec<PortRange> {
    let mut starts: BTreeSet<u32> = BTreeSet::from([0]);
    for atom in atoms {
        if let Scope::Ports(Protocol::Tcp, range) = atom.scope {
            starts.insert(range.first.into());
            starts.insert(u32::from(range.last) + 1);
        }
    }
    let end = u32::from(u16::MAX) + 1;
    let ends = starts.iter().copied().skip(1).chain([end]);
    starts
        .iter()
        .zip(ends)
        .filter_map(|(start, next)| {
            Some(PortRange {
                first: u16::try_from(*start).ok()?,
                last: u16::try_from(next.checked_sub(1)?).ok()?,
            })
        })
        .filter(|range| range.first <= range.last)
        .collect()
}
