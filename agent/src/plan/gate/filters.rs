//! Whether a snapshot has the filters for what the kernel redirects.

use weft_datapath::PolicyEntry;

use super::coverage::{Coverage, ports};
use crate::plan::filters::{Chain, Step};

/// Whether filters that must not be left out are wanted on a port of an entry.
pub(super) fn fails_closed(wanted: &[Chain], entry: &PolicyEntry) -> bool {
    let (first, last) = ports(entry);
    let mut met = wanted
        .iter()
        .filter(|chain| is_of(chain, entry) && chain.first <= last && first <= chain.last);
    met.any(Chain::fails_closed)
}

impl Coverage {
    /// Whether requests meet the same filters as `wanted`, on every port of an
    /// entry.
    pub(super) fn filters_alike(
        &self,
        endpoint: u32,
        entry: &PolicyEntry,
        wanted: &[Chain],
    ) -> bool {
        self.everywhere(endpoint, entry, wanted, |there, here| there == here)
    }

    /// Whether requests meet those of the filters in `wanted` that must not be
    /// left out, on every port of an entry.
    pub(super) fn has_filters(&self, endpoint: u32, entry: &PolicyEntry, wanted: &[Chain]) -> bool {
        self.everywhere(endpoint, entry, wanted, |there, here| {
            let mut needed = here.iter().filter(|step| step.fails_closed());
            needed.all(|step| there.contains(step))
        })
    }

    fn everywhere(
        &self,
        endpoint: u32,
        entry: &PolicyEntry,
        wanted: &[Chain],
        right: impl Fn(&[Step], &[Step]) -> bool,
    ) -> bool {
        let held = self.chains.get(&endpoint).map_or(&[][..], Vec::as_slice);
        if held.is_empty() && wanted.is_empty() {
            return true;
        }
        let (first, last) = ports(entry);
        let mut open = u32::from(first);
        while open <= u32::from(last) {
            let (there, there_until) = steps_at(held, entry, open);
            let (here, here_until) = steps_at(wanted, entry, open);
            if !right(there, here) {
                return false;
            }
            open = there_until.min(here_until) + 1;
        }
        true
    }
}

/// The filters on a port in the direction of an entry, and up to which port they
/// are the same. The chains are in the order of directions and ports.
fn steps_at<'c>(chains: &'c [Chain], entry: &PolicyEntry, port: u32) -> (&'c [Step], u32) {
    let before = |chain: &Chain| {
        let place = (chain.direction.number(), u32::from(chain.last));
        place < (entry.direction as u8, port)
    };
    let next = chains
        .get(chains.partition_point(before)..)
        .unwrap_or_default();
    match next.first().filter(|chain| is_of(chain, entry)) {
        Some(chain) if u32::from(chain.first) <= port => (&chain.steps, chain.last.into()),
        Some(later) => (&[], u32::from(later.first) - 1),
        None => (&[], u16::MAX.into()),
    }
}

fn is_of(chain: &Chain, entry: &PolicyEntry) -> bool {
    // Both kinds of direction have the numbers of the policy map's keys.
    chain.direction.number() == entry.direction as u8
}

#[cfg(test)]
mod tests;
