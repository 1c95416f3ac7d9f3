//! Atoms to entries of the policy map.

use std::collections::HashMap;

use super::{Atom, PeerSet, atoms::Scope};
use crate::model::{Direction, NumericIdentity, Protocol};
use crate::policy::entry::{PREFIX_PEER, PREFIX_PORT, PREFIX_PROTOCOL};
use crate::policy::{EntryKey, EntryValue, MapEntry, RuleId, RuleTable, ports::port_prefixes};

/// The entries of one direction, in no order.
///
/// A lookup returns the longest entry only, so what shorter entries say has to
/// be said again by every longer one that they cover: the strongest of all.
pub(super) fn build(direction: Direction, atoms: &[Atom], table: &mut RuleTable) -> Vec<MapEntry> {
    let mut plain: HashMap<EntryKey, EntryValue> = HashMap::new();
    for atom in atoms {
        let rule = atom
            .rule
            .as_ref()
            .map_or(RuleId::NONE, |rule| table.intern(rule));
        for key in keys(direction, atom) {
            let value = EntryValue {
                decision: atom.decision,
                priority: atom.priority,
                prefix_len: key.prefix_len,
                rule,
            };
            plain
                .entry(key)
                .and_modify(|known| *known = stronger(*known, value))
                .or_insert(value);
        }
    }
    plain
        .iter()
        .map(|(key, value)| MapEntry {
            key: *key,
            value: covering(key)
                .filter_map(|shorter| plain.get(&shorter))
                .fold(*value, |strongest, shorter| stronger(strongest, *shorter)),
        })
        .collect()
}

/// The stronger of two values; the first one on a tie.
fn stronger(first: EntryValue, second: EntryValue) -> EntryValue {
    if second.strength(&first).is_gt() {
        second
    } else {
        first
    }
}

fn keys(direction: Direction, atom: &Atom) -> Vec<EntryKey> {
    let any = [NumericIdentity::UNKNOWN];
    let identities: &[NumericIdentity] = match &atom.peers {
        PeerSet::Any => &any,
        PeerSet::These(identities) => identities,
    };
    let mut keys = Vec::new();
    for (protocol, port, prefix_len) in prefixes(atom.scope) {
        keys.extend(identities.iter().map(|identity| EntryKey {
            direction,
            identity: *identity,
            protocol,
            port,
            prefix_len,
        }));
    }
    keys
}

fn prefixes(scope: Scope) -> Vec<(u8, u16, u8)> {
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

/// The keys of all shorter prefixes that hold a key, longest first.
fn covering(key: &EntryKey) -> impl Iterator<Item = EntryKey> + use<> {
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
