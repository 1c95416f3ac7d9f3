//! Entries of the datapath's policy map and how they are looked up.

use std::cmp::Ordering;

use super::RuleId;
use crate::model::{Direction, NumericIdentity};

/// Bits of a key before the protocol: endpoint (32), identity (32) and
/// direction (8). An entry of this length covers every protocol and port.
pub const PREFIX_PEER: u8 = 72;
/// The same with the protocol; covers every port.
pub const PREFIX_PROTOCOL: u8 = 80;
/// A whole key, one port. Ranges have lengths between this and
/// [`PREFIX_PROTOCOL`].
pub const PREFIX_PORT: u8 = 96;

/// Key of an entry, less the endpoint's number: all entries of one
/// [`super::EndpointPolicy`] belong to the same endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryKey {
    /// Direction.
    pub direction: Direction,
    /// The peer; [`NumericIdentity::UNKNOWN`] (0) for any peer.
    pub identity: NumericIdentity,
    /// Number of the IP protocol; 0 when `prefix_len` is 72.
    pub protocol: u8,
    /// First port of the prefix, host byte order; the bits that `prefix_len`
    /// leaves out are zero.
    pub port: u16,
    /// Length in bits of the whole map key that counts: 72, or 80 to 96.
    pub prefix_len: u8,
}

/// How strongly a redirect asks; also the order between L7 parsers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(pub u8);

impl Priority {
    /// A plain allow.
    pub const PLAIN: Self = Self(0);
    /// What is plainly allowed and passes the proxy on account of a filter. Below
    /// [`Self::HTTP`]: where a rule asks for the proxy, that rule is named.
    pub const INTERCEPT: Self = Self(50);
    /// HTTP rules.
    pub const HTTP: Self = Self(90);
    /// A node towards its own pod: allowed, and stronger than every redirect,
    /// since a kubelet's probe must reach the pod even when the proxy is down.
    pub const HOST: Self = Self(255);
}

/// What is done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Decision {
    /// Let through.
    Allow,
    /// To the proxy's listener.
    Redirect,
    /// Dropped.
    Deny,
}

/// Value of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntryValue {
    /// What to do.
    pub decision: Decision,
    /// See [`Priority`].
    pub priority: Priority,
    /// Prefix length of the rule that decided, which may be shorter than the
    /// entry's own: a shorter rule is folded into every longer entry.
    pub prefix_len: u8,
    /// The rule that decided, [`RuleId::NONE`] when no policy did.
    pub rule: RuleId,
}

impl EntryValue {
    /// Whether rules plainly allow it, with the proxy in between or without.
    pub fn is_plain(&self) -> bool {
        match self.decision {
            Decision::Allow => true,
            Decision::Redirect => self.priority == Priority::INTERCEPT,
            Decision::Deny => false,
        }
    }

    /// The order between two entries that hold for one packet: a deny wins,
    /// then the higher priority, then the longer prefix.
    ///
    /// Between the two lookups of a packet the one for the peer's identity
    /// wins a tie.
    pub fn strength(&self, other: &Self) -> Ordering {
        let rank = |value: &Self| {
            let deny = value.decision == Decision::Deny;
            (deny, value.priority, value.prefix_len)
        };
        rank(self).cmp(&rank(other))
    }
}

/// An entry of the policy map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// Key, less the endpoint.
    pub key: EntryKey,
    /// Value.
    pub value: EntryValue,
}

impl MapEntry {
    fn covers(
        &self,
        direction: Direction,
        identity: NumericIdentity,
        protocol: u8,
        port: u16,
    ) -> bool {
        let key = &self.key;
        if key.direction != direction || key.identity != identity {
            return false;
        }
        if key.prefix_len == PREFIX_PEER {
            return true;
        }
        let free = PREFIX_PORT.saturating_sub(key.prefix_len);
        let shift = |port: u16| u32::from(port) >> free;
        key.protocol == protocol && shift(key.port) == shift(port)
    }
}

/// What the datapath does for a packet, written down once in plain code: the
/// longest entry for the peer, the longest entry for any peer, the stronger of
/// the two. No entry at all means drop.
///
/// It walks the entries; for tests and for explaining a verdict.
pub fn lookup(
    entries: &[MapEntry],
    direction: Direction,
    identity: NumericIdentity,
    protocol: u8,
    port: u16,
) -> Option<&MapEntry> {
    let longest = |identity| {
        entries
            .iter()
            .filter(|entry| entry.covers(direction, identity, protocol, port))
            .max_by_key(|entry| entry.key.prefix_len)
    };
    stronger(longest(identity), longest(NumericIdentity::UNKNOWN))
}

/// The same, of entries that are sorted by key as those of an
/// [`super::EndpointPolicy`] are: only what may hold is looked for.
pub fn find(
    entries: &[MapEntry],
    direction: Direction,
    identity: NumericIdentity,
    protocol: u8,
    port: u16,
) -> Option<&MapEntry> {
    let longest = |identity| {
        let at = |(protocol, port, prefix_len)| {
            let key = EntryKey {
                direction,
                identity,
                protocol,
                port,
                prefix_len,
            };
            let found = entries.binary_search_by_key(&key, |entry| entry.key);
            entries.get(found.ok()?)
        };
        let ports = (PREFIX_PROTOCOL..=PREFIX_PORT).rev().map(|length| {
            let free = u32::from(PREFIX_PORT - length);
            let mask = u16::MAX.checked_shl(free).unwrap_or(0);
            (protocol, port & mask, length)
        });
        ports.chain([(0, 0, PREFIX_PEER)]).find_map(at)
    };
    stronger(longest(identity), longest(NumericIdentity::UNKNOWN))
}

/// Which of the two lookups decides.
fn stronger<'e>(peer: Option<&'e MapEntry>, any: Option<&'e MapEntry>) -> Option<&'e MapEntry> {
    match (peer, any) {
        (Some(peer), Some(any)) => {
            let weaker = peer.value.strength(&any.value) == Ordering::Less;
            Some(if weaker { any } else { peer })
        }
        (peer, any) => peer.or(any),
    }
}
