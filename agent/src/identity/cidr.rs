//! Numbers of the address ranges that policies name. They mean something on
//! this node only.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::Ipv4Net;
use weft_core::model::NumericIdentity;

const FIRST_LOCAL: u32 = NumericIdentity::LOCAL_FIRST.0;

/// The ranges and their numbers.
///
/// A number is kept as long as its range is in use, and across restarts: the
/// numbers are read back from the address map ([`CidrIdentities::restore`]), so
/// that pinned policy entries go on meaning the same ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CidrIdentities {
    by_range: BTreeMap<Ipv4Net, u32>,
}

impl CidrIdentities {
    /// Takes over what a former run left in the kernel.
    pub fn restore(entries: impl IntoIterator<Item = (Ipv4Net, u32)>) -> Self {
        let mut taken = BTreeSet::new();
        Self {
            by_range: entries
                .into_iter()
                .filter(|(_, id)| *id >= FIRST_LOCAL && taken.insert(*id))
                .collect(),
        }
    }

    /// Makes the set of ranges exactly `wanted`; ranges that stay keep their
    /// numbers, and a number that is given up is not given out again in the
    /// same step.
    pub fn update(&mut self, wanted: &BTreeSet<Ipv4Net>) {
        let used: BTreeSet<u32> = self.by_range.values().copied().collect();
        let mut free = (FIRST_LOCAL..).filter(|id| !used.contains(id));
        self.by_range.retain(|range, _| wanted.contains(range));
        for range in wanted {
            if self.by_range.contains_key(range) {
                continue;
            }
            if let Some(id) = free.next() {
                self.by_range.insert(*range, id);
            }
        }
    }

    /// The number of exactly this range.
    pub fn get(&self, range: &Ipv4Net) -> Option<u32> {
        self.by_range.get(range).copied()
    }

    /// All ranges with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (Ipv4Net, u32)> + '_ {
        self.by_range.iter().map(|(range, id)| (*range, *id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(list: &[&str]) -> BTreeSet<Ipv4Net> {
        list.iter().map(|r| r.parse().expect("a range")).collect()
    }

    #[test]
    fn numbers_stay_with_their_ranges() {
        let mut ids = CidrIdentities::default();
        ids.update(&ranges(&["10.0.0.0/8", "192.0.2.0/24"]));
        let kept = ids.get(&"192.0.2.0/24".parse().expect("a range"));
        ids.update(&ranges(&["192.0.2.0/24", "203.0.113.0/24"]));
        assert_eq!(ids.get(&"192.0.2.0/24".parse().expect("a range")), kept);
        // The number that 10/8 had must not mean another range at once.
        assert_eq!(
            ids.get(&"203.0.113.0/24".parse().expect("a range")),
            Some(FIRST_LOCAL + 2)
        );
    }

    #[test]
    fn a_restart_keeps_the_numbers() {
        let range: Ipv4Net = "192.0.2.0/24".parse().expect("a range");
        let mut ids = CidrIdentities::restore([
            (range, FIRST_LOCAL + 7),
            ("10.244.1.10/32".parse().expect("a range"), 4711),
        ]);
        ids.update(&ranges(&["192.0.2.0/24"]));
        assert_eq!(ids.get(&range), Some(FIRST_LOCAL + 7));
        assert_eq!(ids.iter().count(), 1);
    }
}
