//! What an endpoint keeps where its policies say more than it may have.

use std::collections::{HashMap, HashSet};
use std::iter::once;
use std::sync::Arc;

use super::bounds::{Bounded, Bounds};
use super::entries::{Limit, Plain, Prefix, covering, keys_of, likeness, most_steps, prefixes};
use super::{Atom, PeerSet, Side, sorted};
use crate::model::{Direction, NumericIdentity};
use crate::policy::{Decision, EntryKey, MapEntry, RuleTable};

/// The entries without what plain allows would add to what is `held`: keys that
/// the endpoint has as allows now. Denies, redirects and what holds without any
/// policy are complete, so nothing is let through that the whole policy would
/// not; these alone may be too many. What is held has the room that they leave.
pub(super) fn build(
    sides: &[Side],
    held: &[EntryKey],
    limit: Limit,
    table: &mut RuleTable,
) -> Result<Arc<[MapEntry]>, Bounded> {
    let mut room = limit.entries;
    let mut built = Vec::new();
    for side in sides {
        let limit = Limit {
            entries: room,
            ..limit
        };
        let plain = complete(side, limit, table)?;
        room -= plain.len();
        built.push((side, plain));
    }
    for (side, plain) in &mut built {
        let before = plain.len();
        plain.limit = before + room;
        keep(plain, side, held, limit, table)?;
        room -= plain.len() - before;
    }
    let entries = built.iter().flat_map(|(_, plain)| plain.finish());
    Ok(sorted(entries.collect()))
}

/// What a rule plainly allows: of this only what is held stays.
fn adds(atom: &Atom) -> bool {
    atom.decision == Decision::Allow && atom.rule.is_some()
}

/// Everything else.
fn complete<'s>(side: &'s Side, limit: Limit, table: &mut RuleTable) -> Result<Plain<'s>, Bounded> {
    let atoms = || side.atoms.iter().filter(|atom| !adds(atom));
    let steps = atoms().map(|atom| keys_of(atom, &side.intercepted));
    if steps.sum::<usize>() > limit.steps {
        return Err(Bounded::EntrySteps);
    }
    let mut plain = Plain::new(side, limit.entries);
    for atom in atoms() {
        plain.add(atom, table)?;
    }
    Ok(plain)
}

/// Adds the held keys that are still allowed, as far as there is room, in an order
/// that is always the same. First come those that rules make as they are. Those
/// that only lie in wider ones come after them, and where what is kept allows them
/// already they would take room for nothing.
fn keep(
    plain: &mut Plain<'_>,
    side: &Side,
    held: &[EntryKey],
    limit: Limit,
    table: &mut RuleTable,
) -> Result<(), Bounded> {
    let allowed = still_allowed(side, held, limit);
    let mut keys: Vec<_> = allowed
        .into_iter()
        .map(|(key, by)| (!by.as_it_is(&key), key, by.atom))
        .collect();
    // Wide keys come before those inside of them.
    keys.sort_unstable_by_key(|(inside, key, _)| (*inside, *key));
    for (inside, key, atom) in keys {
        if !inside || !plain.allows_around(&key) {
            plain.keep(&key, atom, table)?;
        }
    }
    Ok(())
}

/// By what a key is allowed.
struct By<'s> {
    atom: &'s Atom,
    /// The length of its key.
    prefix_len: u8,
}

impl By<'_> {
    /// Whether the rule makes this very key.
    fn as_it_is(&self, key: &EntryKey) -> bool {
        let anybody = key.identity == NumericIdentity::UNKNOWN;
        self.prefix_len == key.prefix_len && anybody == (self.atom.peers == PeerSet::Any)
    }
}

/// The held keys that lie in one of an allow, each with the longest such one; of
/// equals with that for its peer, then with the first.
fn still_allowed<'s>(side: &'s Side, held: &[EntryKey], limit: Limit) -> HashMap<EntryKey, By<'s>> {
    let mut seen = HashSet::new();
    let mut atoms: Vec<&Atom> = side.atoms.iter().filter(|atom| adds(atom)).collect();
    atoms.retain(|atom| seen.insert(likeness(atom)));
    atoms.sort_by_key(|atom| atom.peers == PeerSet::Any);
    let mut held = Held::of(side.direction, held, &atoms);
    let mut found: HashMap<EntryKey, By<'s>> = HashMap::new();
    // What is looked at takes time, however few entries there may be. What nobody
    // comes to is not kept.
    let most = limit.steps.max(most_steps(Bounds::USUAL.entries));
    let mut steps = 0;
    for atom in atoms {
        for prefix in prefixes(atom.scope) {
            let (keys, looked_at) = held.take(prefix, &atom.peers);
            steps += looked_at;
            if steps > most {
                return found;
            }
            let (_, _, prefix_len) = prefix;
            for key in keys {
                let known = found.get(&key);
                if known.is_none_or(|known| known.prefix_len < prefix_len) {
                    found.insert(key, By { atom, prefix_len });
                }
            }
        }
    }
    found
}

/// Held keys by what they lie in, as far as it is asked for, and by their peers.
struct Held(HashMap<Prefix, HashMap<NumericIdentity, Vec<EntryKey>>>);

impl Held {
    fn of(direction: Direction, held: &[EntryKey], atoms: &[&Atom]) -> Self {
        let asked = atoms.iter().flat_map(|atom| prefixes(atom.scope));
        let asked: HashSet<Prefix> = asked.collect();
        let mut within: HashMap<Prefix, HashMap<_, Vec<EntryKey>>> = HashMap::new();
        for key in held.iter().filter(|key| key.direction == direction) {
            for wider in once(*key).chain(covering(key)) {
                let prefix = (wider.protocol, wider.port, wider.prefix_len);
                if asked.contains(&prefix) {
                    let peers = within.entry(prefix).or_default();
                    peers.entry(key.identity).or_default().push(*key);
                }
            }
        }
        Self(within)
    }

    /// Takes out what of a prefix is of these peers, and tells how much was looked
    /// at in vain at most.
    fn take(&mut self, prefix: Prefix, peers: &PeerSet) -> (Vec<EntryKey>, usize) {
        let Some(left) = self.0.get_mut(&prefix) else {
            return (Vec::new(), 0);
        };
        let these = match peers {
            PeerSet::Any => {
                let all = std::mem::take(left);
                return (all.into_values().flatten().collect(), 0);
            }
            PeerSet::These(these) => these,
        };
        let looked_at = these.len().min(left.len());
        let taken: Vec<Vec<EntryKey>> = if these.len() <= left.len() {
            let named = these.iter().filter_map(|identity| left.remove(identity));
            named.collect()
        } else {
            let taken = left.extract_if(|identity, _| peers.contains(*identity));
            taken.map(|(_, keys)| keys).collect()
        };
        (taken.into_iter().flatten().collect(), looked_at)
    }
}
