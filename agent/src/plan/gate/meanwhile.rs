//! What the kernel holds while the proxy is waited for.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

use weft_datapath::{PolicyEntry, Verdict};

use super::{Key, key};

/// What is wanted, but for the traffic that `early` would redirect too soon:
/// that is treated as it is by the entries that are held, unless other wanted
/// entries say what becomes of it.
///
/// Nothing so passes that neither the held entries nor the wanted ones let
/// through; what both let through passes; and what is revoked is revoked, save
/// that the rest of it is to go through the proxy.
pub(super) fn meanwhile(
    wanted: &[PolicyEntry],
    early: &[PolicyEntry],
    held: &[PolicyEntry],
) -> Vec<PolicyEntry> {
    let mut entries: BTreeMap<Key, PolicyEntry> =
        wanted.iter().map(|entry| (key(entry), *entry)).collect();
    for entry in early {
        entries.remove(&key(entry));
    }
    let (wanted, held) = (Table::of(entries.values()), Table::of(held));
    // What stays as it is stands for itself.
    let stays = |old: &&PolicyEntry| entries.get(&key(old)) == Some(*old);
    let mut kept = Vec::new();
    for new in early {
        for old in held.beside(new).into_iter().filter(|old| !stays(old)) {
            let Some(place) = meet(old, new) else {
                continue;
            };
            let denied = wanted.longest(&place).filter(|entry| denies(entry));
            let decides = denied.or_else(|| held.decides(&place));
            kept.extend(decides.map(|entry| PolicyEntry {
                verdict: entry.verdict,
                priority: entry.priority,
                matched: entry.matched,
                rule: entry.rule,
                ..place
            }));
        }
    }
    for entry in kept {
        entries.entry(key(&entry)).or_insert(entry);
    }
    entries.into_values().collect()
}

/// Entries by direction and identity, the longest first.
struct Table<'e>(HashMap<(u8, u32), Vec<&'e PolicyEntry>>);

impl<'e> Table<'e> {
    fn of(entries: impl IntoIterator<Item = &'e PolicyEntry>) -> Self {
        let mut table: HashMap<_, Vec<_>> = HashMap::new();
        for entry in entries {
            let side = (entry.direction as u8, entry.identity);
            table.entry(side).or_default().push(entry);
        }
        for entries in table.values_mut() {
            entries.sort_by_key(|entry| Reverse(length(entry)));
        }
        Self(table)
    }

    /// The entries for traffic of which some may be this entry's.
    fn beside(&self, entry: &PolicyEntry) -> Vec<&'e PolicyEntry> {
        let (direction, identity) = (entry.direction as u8, entry.identity);
        if identity != 0 {
            let sides = [(direction, identity), (direction, 0)];
            let sides = sides.iter().filter_map(|side| self.0.get(side));
            return sides.flatten().copied().collect();
        }
        let sides = self.0.iter().filter(|((of, _), _)| *of == direction);
        sides.flat_map(|(_, entries)| entries).copied().collect()
    }

    /// The longest entry for all traffic of this one, as the kernel finds it.
    fn longest(&self, entry: &PolicyEntry) -> Option<&'e PolicyEntry> {
        let entries = self.0.get(&(entry.direction as u8, entry.identity))?;
        entries.iter().copied().find(|one| covers(one, entry))
    }

    /// What the kernel makes of its two lookups: for the peer, and for any.
    fn decides(&self, entry: &PolicyEntry) -> Option<&'e PolicyEntry> {
        let any = PolicyEntry {
            identity: 0,
            ..*entry
        };
        let found = [self.longest(&any), self.longest(entry)];
        let rank = |entry: &&PolicyEntry| (denies(entry), entry.priority, entry.matched);
        found.into_iter().flatten().max_by_key(rank)
    }
}

fn denies(entry: &PolicyEntry) -> bool {
    entry.verdict == Verdict::Deny
}

/// Bits of protocol and port in the key.
fn length(entry: &PolicyEntry) -> u8 {
    match entry.protocol {
        0 => 0,
        _ => 8 + entry.port_bits,
    }
}

/// Whether protocol and port of the one hold those of the other.
fn covers(one: &PolicyEntry, other: &PolicyEntry) -> bool {
    let free = 16_u32.saturating_sub(one.port_bits.into());
    let prefix = |port: u16| u32::from(port) >> free;
    one.protocol == 0
        || one.protocol == other.protocol
            && one.port_bits <= other.port_bits
            && prefix(one.port) == prefix(other.port)
}

/// The place of the traffic that is both entries'.
fn meet(old: &PolicyEntry, new: &PolicyEntry) -> Option<PolicyEntry> {
    let inner = match (covers(old, new), covers(new, old)) {
        (true, _) => new,
        (_, true) => old,
        _ => return None,
    };
    Some(PolicyEntry {
        identity: old.identity.max(new.identity),
        ..*inner
    })
}

#[cfg(test)]
mod tests;
