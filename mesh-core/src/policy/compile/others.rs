//! Ranges of addresses that only rules for other pods name.
//!
//! Each has an identity of its own on the node. So whoever is allowed the world,
//! or a range around them, has an entry for each of them on every port: what one
//! tenant names multiplies what another one's pods need.

use std::collections::{HashMap, HashSet};

use super::selections::Selections;
use super::{Atom, PeerSet, Side};
use crate::model::NumericIdentity;
use crate::policy::{Decision, Rule, cidrs_of};

impl Selections<'_> {
    /// The identities of ranges that none of these rules names.
    pub(super) fn others(&self, rules: &[&Rule]) -> HashSet<NumericIdentity> {
        let own = cidrs_of(rules.iter().copied());
        let ranges = self.ranges().filter(|(range, _)| !own.contains(range));
        ranges.map(|(_, identity)| identity).collect()
    }
}

impl Side {
    /// The same without what it plainly allows these. What is denied or goes
    /// through the proxy stays: that much passes, and no more.
    pub(super) fn without(&self, others: &HashSet<NumericIdentity>) -> Self {
        // By the address of the list: the same one stays the same one.
        let mut known: HashMap<usize, Option<PeerSet>> = HashMap::new();
        let mut left = |atom: &Atom| match &atom.peers {
            PeerSet::These(these) if atom.decision == Decision::Allow => {
                let left = known.entry(these.as_ptr().addr()).or_insert_with(|| {
                    let left = these.iter().filter(|peer| !others.contains(peer));
                    let left: Vec<_> = left.copied().collect();
                    (!left.is_empty()).then(|| PeerSet::These(left.into()))
                });
                left.clone()
            }
            peers => Some(peers.clone()),
        };
        let atoms = self.atoms.iter().filter_map(|atom| {
            let peers = left(atom)?;
            Some(Atom {
                peers,
                ..atom.clone()
            })
        });
        Self {
            direction: self.direction,
            atoms: atoms.collect(),
            intercepted: self.intercepted.clone(),
        }
    }
}
