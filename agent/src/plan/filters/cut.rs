//! Ranges of ports cut where the filters differ.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_core::filter::{FilterKey, FilterSpec, Intercept, Phase};
use weft_core::model::Direction;
use weft_core::policy::PortRange;

use super::{Chain, Step, Version};
use crate::filter::Attachment;

/// A filter on a range of ports.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meeting<'f> {
    pub filter: &'f Arc<FilterSpec>,
    /// The version in force, where this one is awaited.
    before: Option<&'f FilterKey>,
    direction: Direction,
    ports: PortRange,
    phase: Phase,
    order: i64,
}

impl<'f> Meeting<'f> {
    pub fn new(version: Version<'f>, attachment: &Attachment, ports: PortRange) -> Self {
        Self {
            filter: version.filter,
            before: version.before,
            direction: attachment.direction,
            ports,
            phase: attachment.phase,
            order: attachment.order,
        }
    }

    pub fn intercept(&self) -> Intercept {
        Intercept {
            direction: self.direction,
            first: self.ports.first,
            last: self.ports.last,
        }
    }

    /// The place among others: by phase, then the lower number, then by name.
    fn place(&self) -> (Phase, i64, &'f str, &'f str, &'f FilterKey) {
        let key = &self.filter.key;
        (self.phase, self.order, &key.namespace, &key.name, key)
    }
}

/// Sorted by place; a filter that is met twice is one.
struct Placed<'m, 'f>(&'m Meeting<'f>);

impl Ord for Placed<'_, '_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.place().cmp(&other.0.place())
    }
}

impl PartialOrd for Placed<'_, '_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Placed<'_, '_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Placed<'_, '_> {}

/// The chains of one endpoint, in the order of directions and ports; none when
/// they come to more than so many steps.
pub(super) fn chains(meetings: &[Meeting<'_>], most: usize) -> Option<Vec<Chain>> {
    let mut chains = Vec::new();
    let mut steps = 0;
    for direction in Direction::ALL {
        let of = meetings.iter().filter(|one| one.direction == direction);
        steps += cut(direction, of, most - steps, &mut chains)?;
    }
    Some(chains)
}

/// Where filters begin and end to be met.
#[derive(Default)]
struct Border<'m, 'f> {
    begin: Vec<&'m Meeting<'f>>,
    end: Vec<&'m Meeting<'f>>,
}

/// Adds the chains of one direction and returns how many steps they have.
fn cut<'m, 'f: 'm>(
    direction: Direction,
    meetings: impl Iterator<Item = &'m Meeting<'f>>,
    most: usize,
    chains: &mut Vec<Chain>,
) -> Option<usize> {
    let mut borders: BTreeMap<u32, Border<'m, 'f>> = BTreeMap::new();
    for one in meetings.filter(|one| one.ports.first <= one.ports.last) {
        let (first, end) = (one.ports.first.into(), u32::from(one.ports.last) + 1);
        borders.entry(first).or_default().begin.push(one);
        borders.entry(end).or_default().end.push(one);
    }
    let before = chains.len();
    let mut steps = 0;
    // How often each is met: ranges of one filter may overlap.
    let mut met: BTreeMap<Placed<'m, 'f>, usize> = BTreeMap::new();
    let ends: Vec<u32> = borders.keys().skip(1).copied().collect();
    // Behind the last border nothing is met.
    for ((first, border), end) in borders.into_iter().zip(ends) {
        for one in border.begin {
            *met.entry(Placed(one)).or_default() += 1;
        }
        for one in border.end {
            if let Some(times) = met.get_mut(&Placed(one)) {
                *times -= 1;
                if *times == 0 {
                    met.remove(&Placed(one));
                }
            }
        }
        let (Ok(first), Ok(last)) = (u16::try_from(first), u16::try_from(end - 1)) else {
            continue;
        };
        let all = steps_of(met.keys());
        match chains.get_mut(before..).and_then(<[Chain]>::last_mut) {
            _ if all.is_empty() => continue,
            Some(left) if left.last.checked_add(1) == Some(first) && *left.steps == *all => {
                left.last = last;
                continue;
            }
            _ => {}
        }
        steps += all.len();
        if steps > most {
            return None;
        }
        chains.push(Chain {
            direction,
            first,
            last,
            steps: all.into(),
        });
    }
    Some(steps)
}

/// The filters in their order. One that is attached in two places runs in the
/// first of them, and one of which another version is awaited as it is.
fn steps_of<'m, 'f: 'm>(met: impl Iterator<Item = &'m Placed<'m, 'f>> + Clone) -> Vec<Step> {
    let in_force: BTreeSet<_> = met.clone().map(|placed| &placed.0.filter.key).collect();
    let serves = |before: &FilterKey| in_force.contains(before);
    let mut known = BTreeSet::new();
    let met = met.filter(|placed| !placed.0.before.is_some_and(serves));
    let first = met.filter(|placed| known.insert(&placed.0.filter.key));
    let steps = first.map(|Placed(one)| Step {
        phase: one.phase,
        filter: Arc::clone(one.filter),
    });
    steps.collect()
}
