//! Atoms to entries of the policy map.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use super::bounds::Bounded;
use super::intercepts::Intercepted;
use super::{Atom, PeerSet, Side, atoms::Scope};
use crate::model::{Direction, NumericIdentity, Protocol};
use crate::policy::entry::{PREFIX_PEER, PREFIX_PORT, PREFIX_PROTOCOL};
use crate::policy::{
    Decision, EntryKey, EntryValue, MapEntry, PortRange, RuleId, RuleTable, ports::port_prefixes,
};

/// How much there may be of the entries of one direction.
#[derive(Clone, Copy)]
pub(super) struct Limit {
    /// Entries.
    pub entries: usize,
    /// What is looked at for them.
    pub steps: usize,
}

/// How much may be looked at for so many entries. Rules that say the same of the
/// same keys over and over may do so many times as often: past that, time is what
/// they take.
pub(super) fn most_steps(entries: usize) -> usize {
    const REPEATS: usize = 64;
    entries.saturating_mul(REPEATS)
}

/// Any peer, as a key has it.
const ANY: [NumericIdentity; 1] = [NumericIdentity::UNKNOWN];

/// The entries of one direction, in no order; or of what there would be too much.
///
/// A lookup returns the longest entry only, so what shorter entries say has to
/// be said again by every longer one that they cover: the strongest of all.
pub(super) fn build(
    side: &Side,
    limit: Limit,
    table: &mut RuleTable,
) -> Result<Vec<MapEntry>, Bounded> {
    if side.with_keys().map(|(_, keys)| keys).sum::<usize>() > limit.steps {
        // Many rules that say the same of the same peers count once.
        let mut seen = HashSet::new();
        let atoms = side.with_keys();
        let atoms = atoms.filter(|(atom, _)| seen.insert(likeness(atom)));
        if atoms.map(|(_, keys)| keys).sum::<usize>() > limit.steps {
            return Err(Bounded::EntrySteps);
        }
    }
    let mut plain = Plain::new(side, limit.entries);
    for atom in &side.atoms {
        plain.add(atom, table)?;
    }
    Ok(plain.finish())
}

/// Protocol, port and length of a key.
pub(super) type Prefix = (u8, u16, u8);

/// What rules say before shorter keys are folded into longer ones.
pub(super) struct Plain<'s> {
    direction: Direction,
    intercepted: &'s Intercepted,
    /// How many entries there may be.
    pub limit: usize,
    entries: HashMap<EntryKey, EntryValue, BuildHasherDefault<Quick>>,
    /// A bit for every length of a key that occurs, from [`PREFIX_PEER`].
    lengths: u32,
    seen: HashSet<Likeness>,
}

/// What of an atom makes its entries, the rule's name apart: of atoms that are
/// alike the first one counts.
pub(super) type Likeness = (usize, Scope, Decision, u8);

pub(super) fn likeness(atom: &Atom) -> Likeness {
    // The atoms keep their lists, so an address is of one list only.
    let peers = match &atom.peers {
        PeerSet::Any => 0,
        PeerSet::These(these) => these.as_ptr().addr(),
    };
    (peers, atom.scope, atom.decision, atom.priority.0)
}

impl<'s> Plain<'s> {
    pub(super) fn new(side: &'s Side, limit: usize) -> Self {
        Self {
            direction: side.direction,
            intercepted: &side.intercepted,
            limit,
            entries: HashMap::default(),
            lengths: 0,
            seen: HashSet::new(),
        }
    }

    /// What an atom says, and what of it leads to the proxy.
    pub(super) fn add(&mut self, atom: &Atom, table: &mut RuleTable) -> Result<(), Bounded> {
        if !self.seen.insert(likeness(atom)) {
            return Ok(());
        }
        let rule = rule_of(atom, table);
        self.put_all(atom, rule)?;
        for copy in self.intercepted.copies(atom) {
            self.put_all(&copy, rule)?;
        }
        Ok(())
    }

    fn put_all(&mut self, atom: &Atom, rule: RuleId) -> Result<(), Bounded> {
        for prefix in prefixes(atom.scope) {
            for identity in identities(&atom.peers) {
                self.put(*identity, prefix, atom, rule)?;
            }
        }
        Ok(())
    }

    /// One key of what an atom says and what of it leads to the proxy: all of it
    /// or, where there is no room, nothing.
    pub(super) fn keep(
        &mut self,
        key: &EntryKey,
        atom: &Atom,
        table: &mut RuleTable,
    ) -> Result<(), Bounded> {
        let own = (key.protocol, key.port, key.prefix_len);
        let part = scope_of(own).map(|scope| Atom {
            scope,
            ..atom.clone()
        });
        let copies = part.iter().flat_map(|part| self.intercepted.copies(part));
        let copies: Vec<Atom> = copies.collect();
        let mut parts = vec![(own, atom)];
        for copy in &copies {
            parts.extend(
                prefixes(copy.scope)
                    .into_iter()
                    .map(|prefix| (prefix, copy)),
            );
        }
        let prefixes: HashSet<Prefix> = parts.iter().map(|(prefix, _)| *prefix).collect();
        let new = prefixes.into_iter().filter(|prefix| {
            let key = self.key(key.identity, *prefix);
            !self.entries.contains_key(&key)
        });
        if self.len() + new.count() > self.limit {
            return Ok(());
        }
        let rule = rule_of(atom, table);
        for (prefix, atom) in parts {
            self.put(key.identity, prefix, atom, rule)?;
        }
        Ok(())
    }

    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether all of a key is plainly allowed by entries of wider keys.
    pub(super) fn allows_around(&self, key: &EntryKey) -> bool {
        let anybody = EntryKey {
            identity: NumericIdentity::UNKNOWN,
            ..*key
        };
        let same = (anybody != *key).then_some(anybody);
        let mut wider = covering(key).chain(same).chain(covering(&anybody));
        wider.any(|wider| self.entries.get(&wider).is_some_and(EntryValue::is_plain))
    }

    fn key(&self, identity: NumericIdentity, (protocol, port, prefix_len): Prefix) -> EntryKey {
        EntryKey {
            direction: self.direction,
            identity,
            protocol,
            port,
            prefix_len,
        }
    }

    fn put(
        &mut self,
        identity: NumericIdentity,
        prefix: Prefix,
        atom: &Atom,
        rule: RuleId,
    ) -> Result<(), Bounded> {
        let key = self.key(identity, prefix);
        let (_, _, prefix_len) = prefix;
        let value = EntryValue {
            decision: atom.decision,
            priority: atom.priority,
            prefix_len,
            rule,
        };
        self.lengths |= length_bit(prefix_len);
        self.entries
            .entry(key)
            .and_modify(|known| *known = stronger(*known, value))
            .or_insert(value);
        if self.entries.len() > self.limit {
            return Err(Bounded::Entries);
        }
        Ok(())
    }

    pub(super) fn finish(&self) -> Vec<MapEntry> {
        let folded = |(key, value): (&EntryKey, &EntryValue)| MapEntry {
            key: *key,
            value: covering(key)
                .filter(|shorter| self.lengths & length_bit(shorter.prefix_len) != 0)
                .filter_map(|shorter| self.entries.get(&shorter))
                .fold(*value, |strongest, shorter| stronger(strongest, *shorter)),
        };
        self.entries.iter().map(folded).collect()
    }
}

fn length_bit(prefix_len: u8) -> u32 {
    1 << prefix_len.saturating_sub(PREFIX_PEER)
}

fn rule_of(atom: &Atom, table: &mut RuleTable) -> RuleId {
    atom.rule
        .as_ref()
        .map_or(RuleId::NONE, |rule| table.intern(rule))
}

/// The stronger of two values; the first one on a tie.
fn stronger(first: EntryValue, second: EntryValue) -> EntryValue {
    if second.strength(&first).is_gt() {
        second
    } else {
        first
    }
}

fn identities(peers: &PeerSet) -> &[NumericIdentity] {
    match peers {
        PeerSet::Any => &ANY,
        PeerSet::These(identities) => identities,
    }
}

/// How many keys an atom has, with those that lead to the proxy.
pub(super) fn keys_of(atom: &Atom, intercepted: &Intercepted) -> usize {
    let copies = intercepted.scopes(atom);
    let scopes = copies.chain([atom.scope]);
    let prefixes: usize = scopes.map(|scope| prefixes(scope).len()).sum();
    identities(&atom.peers).len() * prefixes
}

pub(super) fn prefixes(scope: Scope) -> Vec<Prefix> {
    match scope {
        Scope::Everything => vec![(0, 0, PREFIX_PEER)],
        Scope::Protocol(protocol) => vec![(protocol.number(), 0, PREFIX_PROTOCOL)],
        Scope::Ports(protocol, range) => port_prefixes(range.first, range.last)
            .into_iter()
            .map(|prefix| {
                (
                    protocol.number(),
                    prefix.port,
                    PREFIX_PROTOCOL + prefix.length,
                )
            })
            .collect(),
    }
}

/// The scope whose only prefix this is.
fn scope_of((protocol, port, length): Prefix) -> Option<Scope> {
    let mut protocols = Protocol::ALL.into_iter();
    let protocol = protocols.find(|one| one.number() == protocol);
    match (protocol, length) {
        (_, PREFIX_PEER) => Some(Scope::Everything),
        (protocol, PREFIX_PROTOCOL) => protocol.map(Scope::Protocol),
        (protocol, _) => {
            let free = u16::MAX.checked_shr(u32::from(length - PREFIX_PROTOCOL));
            let range = PortRange {
                first: port,
                last: port | free.unwrap_or(0),
            };
            protocol.map(|protocol| Scope::Ports(protocol, range))
        }
    }
}

/// The keys of all shorter prefixes that hold a key, longest first.
pub(super) fn covering(key: &EntryKey) -> impl Iterator<Item = EntryKey> + use<> {
    let key = *key;
    let ports = (PREFIX_PROTOCOL..key.prefix_len).rev().map(move |length| {
        let free = u32::from(PREFIX_PORT - length);
        let mask = u16::MAX.checked_shl(free).unwrap_or(0);
        EntryKey {
            port: key.port & mask,
            prefix_len: length,
            ..key
        }
    });
    let peer = EntryKey {
        protocol: 0,
        port: 0,
        prefix_len: PREFIX_PEER,
        ..key
    };
    ports.chain((key.prefix_len > PREFIX_PEER).then_some(peer))
}

/// Whether an atom holds for every port of a protocol.
pub(super) fn all_ports(scope: Scope, protocol: Protocol) -> bool {
    match scope {
        Scope::Everything => true,
        Scope::Protocol(one) => one == protocol,
        Scope::Ports(..) => false,
    }
}

/// Hashes keys, of which there are many and none that a stranger chooses: their
/// identities are numbers that the mesh gave.
#[derive(Default)]
struct Quick(u64);

impl Quick {
    fn mix(&mut self, word: u64) {
        // The golden ratio's bits, as multiplicative hashing has it.
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(SPREAD);
    }
}

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.mix((*byte).into());
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.mix(number.into());
    }

    fn write_u16(&mut self, number: u16) {
        self.mix(number.into());
    }

    fn write_u32(&mut self, number: u32) {
        self.mix(number.into());
    }

    fn write_isize(&mut self, number: isize) {
        self.mix(number.cast_unsigned() as u64);
    }

    fn finish(&self) -> u64 {
        // The map looks at both ends of the hash.
        self.0 ^ (self.0 >> 32)
    }
}
