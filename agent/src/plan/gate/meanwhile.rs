//! What the kernel holds while the proxy is waited for.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use weft_datapath::{CLOSED_PORT, PolicyEntry, Verdict};

use super::{Key, key};

/// What is wanted, but for the traffic that `early` would redirect too soon:
/// that is treated as it is by the entries that are held, unless other wanted
/// entries say what becomes of it. `None` when that takes more than `room`
/// entries: it is a product of the new entries and the old ones.
///
/// Nothing so passes that neither the held entries nor the wanted ones let
/// through; what both let through passes; and what is revoked is revoked, save
/// that the rest of it is to go through the proxy.
pub(super) fn meanwhile(
    wanted: &[PolicyEntry],
    early: &[PolicyEntry],
    held: &[PolicyEntry],
    room: usize,
) -> Option<Vec<PolicyEntry>> {
    let mut entries: BTreeMap<Key, PolicyEntry> =
        wanted.iter().map(|entry| (key(entry), *entry)).collect();
    for entry in early {
        entries.remove(&key(entry));
    }
    let (wanted, before) = (Table::of(entries.values()), Table::of(held));
    // What stays as it is stands for itself.
    let stays = |old: &&PolicyEntry| entries.get(&key(old)) == Some(*old);
    let changing = Places::of(held.iter().filter(|old| !stays(old)));
    let mut kept: HashMap<Key, PolicyEntry> = HashMap::new();
    for new in early {
        for (identity, prefix) in changing.meet(new) {
            let (protocol, port, port_bits) = prefix;
            let place = PolicyEntry {
                identity,
                protocol,
                port,
                port_bits,
                ..*new
            };
            let at = key(&place);
            if entries.contains_key(&at) || kept.contains_key(&at) {
                continue;
            }
            let denied = wanted.longest(&place).filter(|entry| denies(entry));
            let Some(decides) = denied.or_else(|| before.decides(&place)) else {
                continue;
            };
            let entry = PolicyEntry {
                verdict: decides.verdict,
                priority: decides.priority,
                matched: decides.matched,
                rule: decides.rule,
                ..place
            };
            kept.insert(at, entry);
            if entries.len() + kept.len() > room {
                return None;
            }
        }
        // Shorter entries that newly allow it do so for the proxy to look at it.
        let news = !kept.contains_key(&key(new)) && before.decides(new).is_none();
        if news && wanted.decides(new).is_some_and(|entry| !denies(entry)) {
            kept.insert(key(new), closed(new));
        }
    }
    if entries.len() + kept.len() > room {
        return None;
    }
    entries.extend(kept);
    Some(entries.into_values().collect())
}

/// Closed by an entry that gives way to each that says something of a peer.
fn closed(new: &PolicyEntry) -> PolicyEntry {
    PolicyEntry {
        verdict: Verdict::Redirect(CLOSED_PORT),
        priority: 0,
        matched: 0,
        ..*new
    }
}

/// Protocol, port and bits of the port: sorted, what lies in a prefix comes
/// right behind it.
type Prefix = (u8, u16, u8);

fn prefix(entry: &PolicyEntry) -> Prefix {
    match entry.protocol {
        0 => (0, 0, 0),
        protocol => (
            protocol,
            first(entry.port, entry.port_bits),
            entry.port_bits,
        ),
    }
}

fn free(bits: u8) -> u16 {
    u16::MAX.checked_shr(bits.into()).unwrap_or_default()
}

fn first(port: u16, bits: u8) -> u16 {
    port & !free(bits)
}

/// The last one in the order that may lie in a prefix.
fn last((protocol, port, bits): Prefix) -> Prefix {
    match protocol {
        0 => (u8::MAX, u16::MAX, u8::MAX),
        _ => (protocol, port | free(bits), u8::MAX),
    }
}

/// A prefix and all that it lies in, the longest first.
fn covering((protocol, port, bits): Prefix) -> impl Iterator<Item = Prefix> {
    let ports = (0..=bits)
        .rev()
        .map(move |bits| (protocol, first(port, bits), bits));
    ports.chain((protocol != 0).then_some((0, 0, 0)))
}

/// Entries as the kernel finds them.
struct Table<'e>(HashMap<(u8, u32, Prefix), &'e PolicyEntry>);

impl<'e> Table<'e> {
    fn of(entries: impl IntoIterator<Item = &'e PolicyEntry>) -> Self {
        let place = |entry: &PolicyEntry| (entry.direction as u8, entry.identity, prefix(entry));
        let entries = entries.into_iter().map(|entry| (place(entry), entry));
        Self(entries.collect())
    }

    /// The longest entry for all traffic of this one.
    fn longest(&self, entry: &PolicyEntry) -> Option<&'e PolicyEntry> {
        let (direction, identity) = (entry.direction as u8, entry.identity);
        covering(prefix(entry))
            .find_map(|prefix| self.0.get(&(direction, identity, prefix)))
            .copied()
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

/// Where entries are, in the two orders in which those that meet another one
/// are found without a look at the rest.
struct Places {
    by_identity: BTreeSet<(u8, u32, Prefix)>,
    by_prefix: BTreeSet<(u8, Prefix, u32)>,
}

impl Places {
    fn of<'e>(entries: impl Iterator<Item = &'e PolicyEntry> + Clone) -> Self {
        let place = |entry: &PolicyEntry| (entry.direction as u8, entry.identity, prefix(entry));
        let by_identity: BTreeSet<_> = entries.map(place).collect();
        let turned = by_identity.iter();
        Self {
            by_prefix: turned
                .map(|(side, id, prefix)| (*side, *prefix, *id))
                .collect(),
            by_identity,
        }
    }

    /// The places, by identity and prefix, of the traffic that is both this
    /// entry's and one of these.
    fn meet(&self, entry: &PolicyEntry) -> Vec<(u32, Prefix)> {
        let (direction, own) = (entry.direction as u8, prefix(entry));
        let mut met = Vec::new();
        if entry.identity == 0 {
            for outer in covering(own) {
                let at = (direction, outer, 0)..=(direction, outer, u32::MAX);
                met.extend(self.by_prefix.range(at).map(|(.., id)| (*id, own)));
            }
            let inside = (direction, own, 0)..=(direction, last(own), u32::MAX);
            let inside = self.by_prefix.range(inside);
            met.extend(inside.map(|(_, inner, id)| (*id, *inner)));
            return met;
        }
        for side in [entry.identity, 0] {
            let holds = |outer| self.by_identity.contains(&(direction, side, outer));
            if covering(own).any(holds) {
                met.push((entry.identity, own));
            }
            let inside = (direction, side, own)..=(direction, side, last(own));
            let inside = self.by_identity.range(inside);
            met.extend(inside.map(|(.., inner)| (entry.identity, *inner)));
        }
        met
    }
}

fn denies(entry: &PolicyEntry) -> bool {
    entry.verdict == Verdict::Deny
}

#[cfg(test)]
mod tests;
