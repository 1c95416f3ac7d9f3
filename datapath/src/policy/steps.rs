//! In which order one endpoint's entries become others.
//!
//! The map is written entry by entry while packets are judged by it. At no time
//! may it let through what neither the old entries nor the new ones do, nor
//! deny what both let through. The longest entry counts, so an entry comes
//! before the shorter ones that it is an exception to, and goes after them:
//! whoever is asked for, the old entry answers or the new one. Of the two
//! answers for one packet - for its peer, and for any - one may be old and the
//! other new: what denies therefore comes first and goes last.

use std::cmp::Reverse;

use super::{Entries, PolicyValue, RawKey};
use weft_datapath_common::policy_flags;

/// One write of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A new entry, or another value.
    Put(RawKey, PolicyValue),
    /// An entry that is no more.
    Remove(RawKey),
}

impl Step {
    /// Whether it may only be taken once all before it were: it lets something
    /// through, unless an entry that denies says otherwise, or takes a denial
    /// away.
    pub(super) fn loosens(self, held: &Entries) -> bool {
        match self {
            Self::Put(key, value) => denied(held, &key) || !is_strict(&value),
            Self::Remove(key) => denied(held, &key),
        }
    }
}

/// The steps from one state to the other.
pub(super) fn steps(held: &Entries, wanted: &Entries) -> Vec<Step> {
    let puts = wanted
        .iter()
        .filter(|(key, value)| held.get(*key) != Some(*value));
    let mut puts: Vec<_> = puts.map(|(key, value)| (*key, *value)).collect();
    puts.sort_by_key(|(key, value)| Reverse((denies(value), key.prefix_len)));
    let gone = held.keys().filter(|key| !wanted.contains_key(*key));
    let mut gone: Vec<RawKey> = gone.copied().collect();
    gone.sort_by_key(|key| key.prefix_len);

    let (undenied, puts): (Vec<_>, Vec<_>) = puts
        .into_iter()
        .partition(|(key, value)| denied(held, key) && !denies(value));
    let (denials, gone): (Vec<_>, Vec<_>) = gone.into_iter().partition(|key| denied(held, key));
    let put = |(key, value)| Step::Put(key, value);
    puts.into_iter()
        .map(put)
        .chain(gone.into_iter().map(Step::Remove))
        .chain(undenied.into_iter().map(put))
        .chain(denials.into_iter().map(Step::Remove))
        .collect()
}

pub(super) fn denies(value: &PolicyValue) -> bool {
    value.flags & policy_flags::DENY != 0
}

/// Whether what is held for a key denies.
fn denied(held: &Entries, key: &RawKey) -> bool {
    held.get(key).is_some_and(denies)
}

fn redirects(value: &PolicyValue) -> bool {
    value.proxy_port != 0
}

/// Whether an entry takes something away from what shorter ones allow.
pub(super) fn is_strict(value: &PolicyValue) -> bool {
    denies(value) || redirects(value)
}

#[cfg(test)]
mod tests;
