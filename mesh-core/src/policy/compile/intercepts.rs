//! Ports whose traffic passes the proxy although no rule asks for it.

use super::Atom;
use super::atoms::Scope;
use crate::filter::Intercept;
use crate::model::{Direction, Protocol};
use crate::policy::{Decision, PortRange, Priority};

/// Those of one direction: sorted, and none meets the next one.
#[derive(Clone, Debug, Default)]
pub(super) struct Intercepted(Vec<PortRange>);

impl Intercepted {
    pub(super) fn of(intercepts: &[Intercept], direction: Direction) -> Self {
        let of = intercepts.iter().filter(|one| one.direction == direction);
        let ranges = of.filter(|one| one.first <= one.last).map(|one| PortRange {
            first: one.first,
            last: one.last,
        });
        let mut ranges: Vec<_> = ranges.collect();
        ranges.sort_unstable();
        let mut merged: Vec<PortRange> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                Some(before) if range.first <= before.last.saturating_add(1) => {
                    before.last = before.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        Self(merged)
    }

    /// The ranges.
    pub(super) fn ranges(&self) -> &[PortRange] {
        &self.0
    }

    /// What an atom says once more of the ports that are meant: that the proxy
    /// gets what it plainly allows. Who is allowed what stays the same so.
    pub(super) fn copies<'a>(&'a self, atom: &'a Atom) -> impl Iterator<Item = Atom> + 'a {
        self.scopes(atom).map(|scope| Atom {
            scope,
            decision: Decision::Redirect,
            priority: Priority::INTERCEPT,
            ..atom.clone()
        })
    }

    /// The scopes of these.
    pub(super) fn scopes(&self, atom: &Atom) -> impl Iterator<Item = Scope> + '_ {
        let scope = atom.is_plain_allow().then_some(atom.scope);
        let of = scope.map(|scope| self.0.iter().filter_map(move |range| meet(scope, *range)));
        of.into_iter().flatten()
    }
}

/// The TCP ports of a scope that are in a range.
fn meet(scope: Scope, range: PortRange) -> Option<Scope> {
    let Scope::Ports(protocol, own) = scope else {
        let tcp = matches!(scope, Scope::Everything | Scope::Protocol(Protocol::Tcp));
        return tcp.then_some(match range {
            PortRange {
                first: 0,
                last: u16::MAX,
            } => Scope::Protocol(Protocol::Tcp),
            range => Scope::Ports(Protocol::Tcp, range),
        });
    };
    let first = own.first.max(range.first);
    let last = own.last.min(range.last);
    let meets = protocol == Protocol::Tcp && first <= last;
    meets.then_some(Scope::Ports(protocol, PortRange { first, last }))
}
