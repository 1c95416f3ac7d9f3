//! The policy entries of the pods of this node.

mod steps;

use std::collections::HashMap;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{IterableMap as _, MapData};
use weft_core::policy::{Decision, MapEntry};
use weft_datapath_common::{POLICY_FIXED_BITS, PolicyKey, PolicyValue, map_names, policy_flags};

use crate::endpoints::gone;
use crate::pins::Pins;
use crate::{Difference, Direction, Error, TableUse};
use steps::{Step, denies, is_strict, steps};

/// What a policy entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Forward.
    Allow,
    /// Drop.
    Deny,
    /// To the proxy's listener on this port.
    Redirect(u16),
}

/// One entry of an endpoint's policy.
///
/// The kernel finds the longest entry only, so whatever a shorter one denies or
/// prefers must have been folded into the longer ones that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyEntry {
    /// The peer's identity; 0 for any.
    pub identity: u32,
    /// Direction, as the endpoint sees it.
    pub direction: Direction,
    /// IP protocol; 0 for any, and then for any port.
    pub protocol: u8,
    /// Destination port, or the ICMP type; its lower bits beyond `port_bits` do
    /// not count.
    pub port: u16,
    /// Bits of `port` that must match: 0 for any port, 16 for one, less for a
    /// range.
    pub port_bits: u8,
    /// What it says.
    pub verdict: Verdict,
    /// Between an entry for the peer and one for any, the higher wins, unless
    /// one denies.
    pub priority: u8,
    /// Bits of protocol and port that the deciding rule named: 0, 8, or 9 to
    /// 24.
    pub matched: u8,
    /// Number of the rule that decided; 0 if no policy did, which is not
    /// reported.
    pub rule: u32,
}

impl PolicyEntry {
    /// The entry for what the compiler made; redirects go to `proxy_port`.
    pub fn from_compiled(entry: &MapEntry, proxy_port: u16) -> Self {
        let (key, value) = (&entry.key, &entry.value);
        let l4_bits = |len: u8| len.saturating_sub(POLICY_FIXED_BITS as u8).min(24);
        Self {
            identity: key.identity.0,
            direction: match key.direction {
                weft_core::model::Direction::Ingress => Direction::Ingress,
                weft_core::model::Direction::Egress => Direction::Egress,
            },
            protocol: key.protocol,
            port: key.port,
            port_bits: l4_bits(key.prefix_len).saturating_sub(8),
            verdict: match value.decision {
                Decision::Allow => Verdict::Allow,
                Decision::Deny => Verdict::Deny,
                Decision::Redirect => Verdict::Redirect(proxy_port),
            },
            priority: value.priority.0,
            matched: l4_bits(value.prefix_len),
            rule: value.rule.0,
        }
    }

    /// `None` for what [`PolicyEntry::to_raw`] never writes.
    fn from_raw(key: &RawKey, value: &PolicyValue) -> Option<Self> {
        let direction = [Direction::Ingress, Direction::Egress]
            .into_iter()
            .find(|direction| *direction as u8 == key.data.direction)?;
        let l4_bits = u8::try_from(key.prefix_len.checked_sub(POLICY_FIXED_BITS)?).ok()?;
        Some(Self {
            identity: key.data.identity,
            direction,
            protocol: key.data.protocol,
            port: u16::from_be(key.data.port),
            port_bits: l4_bits.saturating_sub(8),
            verdict: match (value.flags & policy_flags::DENY, value.proxy_port) {
                (0, 0) => Verdict::Allow,
                (0, port) => Verdict::Redirect(port),
                _ => Verdict::Deny,
            },
            priority: value.priority,
            matched: value.matched,
            rule: value.rule,
        })
    }

    fn to_raw(self, endpoint: u32) -> Result<(RawKey, PolicyValue), Error> {
        if self.port_bits > 16 || self.matched > 24 {
            return Err(Error::Invalid(format!(
                "policy entry of impossible length: {self:?}"
            )));
        }
        if self.protocol == 0 && self.port_bits > 0 {
            return Err(Error::Invalid(format!(
                "policy entry for a port of no protocol: {self:?}"
            )));
        }
        let mask = u16::MAX
            .checked_shl(16 - u32::from(self.port_bits))
            .unwrap_or(0);
        let l4_bits = if self.protocol == 0 {
            0
        } else {
            8 + u32::from(self.port_bits)
        };
        let key = RawKey {
            prefix_len: POLICY_FIXED_BITS + l4_bits,
            data: PolicyKey {
                endpoint,
                identity: self.identity,
                direction: self.direction as u8,
                protocol: self.protocol,
                port: (self.port & mask).to_be(),
            },
        };
        let (proxy_port, flags) = match self.verdict {
            Verdict::Allow => (0, 0),
            Verdict::Deny => (0, policy_flags::DENY),
            Verdict::Redirect(port) => (port, 0),
        };
        let value = PolicyValue {
            rule: self.rule,
            proxy_port,
            flags,
            matched: self.matched,
            priority: self.priority,
            pad: [0; 3],
        };
        Ok((key, value))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct RawKey {
    prefix_len: u32,
    data: PolicyKey,
}

impl RawKey {
    fn lpm(self) -> Key<PolicyKey> {
        Key::new(self.prefix_len, self.data)
    }
}

type Entries = HashMap<RawKey, PolicyValue>;
type Map = LpmTrie<MapData, PolicyKey, PolicyValue>;

/// The policies of this node's endpoints.
///
/// Keeps a copy of what the kernel holds, so there must be one writer only.
pub struct PolicyMap {
    map: Map,
    held: HashMap<u32, Entries>,
    capacity: u32,
    refused: u64,
}

/// Entries that the kernel refused, and why.
struct Refused {
    entries: u64,
    error: Error,
}

/// The entries of one endpoint while they are written.
struct Writing<'a> {
    map: &'a mut Map,
    held: Entries,
    difference: Difference,
}

/// Keys with their values.
type Pairs<'a> = Vec<(&'a RawKey, &'a PolicyValue)>;

impl Writing<'_> {
    fn all(&mut self, wanted: &Entries) -> Result<(), Refused> {
        let mut left = steps(&self.held, wanted);
        // The map may be full and have room once old entries are gone.
        for _attempt in 0..2 {
            let mut full = false;
            for step in std::mem::take(&mut left) {
                // An exception that is missing would be let through.
                if full && step.loosens(&self.held) {
                    left.push(step);
                } else if self.take(step).is_err() {
                    full = true;
                    left.push(step);
                }
            }
            if left.is_empty() {
                return Ok(());
            }
        }
        self.without_room(wanted)
    }

    fn take(&mut self, step: Step) -> Result<(), Error> {
        match step {
            Step::Put(key, value) => self.insert(&key, &value),
            Step::Remove(key) => self.remove(&key),
        }
    }

    /// Makes room for what takes permissions away, at the cost of what allows.
    fn without_room(&mut self, wanted: &Entries) -> Result<(), Refused> {
        let (strict, allows): (Pairs<'_>, Pairs<'_>) =
            wanted.iter().partition(|(_, value)| is_strict(value));
        if self.again(&strict).is_err() {
            // An endpoint without default deny is open where no entry denies.
            let shut = self.shut()?;
            // No shorter entry may allow what these do not.
            self.keep(|_, value| is_strict(value))?;
            self.keep(|key, _| wanted.contains_key(key) || shut.contains(key))?;
            if let Err(refused) = self.again(&strict) {
                self.keep(|key, _| shut.contains(key))?;
                return Err(refused);
            }
        }
        self.keep(|key, _| wanted.contains_key(key))?;
        self.again(&allows)
    }

    fn insert(&mut self, key: &RawKey, value: &PolicyValue) -> Result<(), Error> {
        self.map
            .insert(&key.lpm(), value, 0)
            .map_err(Error::map(map_names::POLICY))?;
        let before = self.held.insert(*key, *value);
        self.difference.wrote(before);
        Ok(())
    }

    /// Inserts those that are not there yet. Kernels before 6.13 have no room in a
    /// full map for another value of a key either.
    fn again(&mut self, entries: &[(&RawKey, &PolicyValue)]) -> Result<(), Refused> {
        let mut failed = 0;
        let mut outcome = Ok(());
        for (key, value) in entries {
            if self.held.get(*key) == Some(*value) || self.insert(key, value).is_ok() {
                continue;
            }
            let removed = self.remove(key);
            if let Err(error) = removed.and_then(|()| self.insert(key, value)) {
                failed += 1;
                outcome = Err(error);
            }
        }
        outcome.map_err(|error| Refused {
            entries: failed,
            error,
        })
    }

    /// Denies everything in the directions in which everything is allowed, as it
    /// is where nothing is denied by default: these entries are there already
    /// and take no room. Returns their keys.
    fn shut(&mut self) -> Result<Vec<RawKey>, Refused> {
        let everything = |key: &&RawKey| key.data.identity == 0 && is_for_all_traffic(key);
        let keys: Vec<RawKey> = self.held.keys().filter(everything).copied().collect();
        let deny = PolicyValue {
            flags: policy_flags::DENY,
            ..PolicyValue::default()
        };
        let denied = |key: &&RawKey| self.held.get(*key).is_some_and(denies);
        let open: Vec<_> = keys.iter().filter(|key| !denied(key)).collect();
        let open: Pairs<'_> = open.into_iter().map(|key| (key, &deny)).collect();
        self.again(&open)?;
        Ok(keys)
    }

    /// Removes the others, what denies last.
    fn keep(&mut self, kept: impl Fn(&RawKey, &PolicyValue) -> bool) -> Result<(), Refused> {
        let old = self.held.iter().filter(|(key, value)| !kept(key, value));
        let mut old: Vec<_> = old.map(|(key, value)| (denies(value), *key)).collect();
        old.sort_by_key(|(denies, _)| *denies);
        for (_, key) in old {
            self.remove(&key)
                .map_err(|error| Refused { entries: 0, error })?;
        }
        Ok(())
    }

    fn remove(&mut self, key: &RawKey) -> Result<(), Error> {
        gone(self.map.remove(&key.lpm()), map_names::POLICY)?;
        if self.held.remove(key).is_some() {
            self.difference.removed += 1;
        }
        Ok(())
    }
}

fn is_for_all_traffic(key: &RawKey) -> bool {
    key.prefix_len == POLICY_FIXED_BITS
}

impl PolicyMap {
    pub(crate) fn open(pins: &Pins) -> Result<Self, Error> {
        let map: Map = pins.open(map_names::POLICY)?;
        let mut held: HashMap<u32, Entries> = HashMap::new();
        for entry in map.iter() {
            let (key, value) = entry.map_err(Error::map(map_names::POLICY))?;
            let key = RawKey {
                prefix_len: key.prefix_len(),
                data: key.data(),
            };
            held.entry(key.data.endpoint)
                .or_default()
                .insert(key, value);
        }
        let info = map.map().info().map_err(Error::map(map_names::POLICY))?;
        Ok(Self {
            capacity: info.max_entries(),
            map,
            held,
            refused: 0,
        })
    }

    /// Makes these the endpoint's entries, in an order in which nothing is let
    /// through meanwhile that neither the old ones nor these let through, and
    /// nothing is denied that both do. Flows that exist are judged again after
    /// [`crate::Datapath::bump_epoch`].
    ///
    /// # Errors
    /// When an entry is impossible (nothing is written then), or the kernel
    /// refuses one, for want of room say. Then the map holds some of these
    /// entries and no other, all that deny or redirect among them, or none: an
    /// endpoint that denies what it finds no entry for is allowed nothing that
    /// it should not be. Of one that had an entry which allows everything, for
    /// it does not deny by default, that entry denies everything then. The next
    /// call goes on from there.
    pub fn apply(&mut self, endpoint: u32, entries: &[PolicyEntry]) -> Result<Difference, Error> {
        let wanted = entries
            .iter()
            .map(|entry| entry.to_raw(endpoint))
            .collect::<Result<Entries, _>>()?;
        let mut writing = Writing {
            map: &mut self.map,
            held: self.held.remove(&endpoint).unwrap_or_default(),
            difference: Difference::default(),
        };
        let outcome = writing.all(&wanted);
        let Writing {
            held, difference, ..
        } = writing;
        if !held.is_empty() {
            self.held.insert(endpoint, held);
        }
        match outcome {
            Ok(()) => Ok(difference),
            Err(Refused { entries, error }) => {
                self.refused += entries;
                Err(error)
            }
        }
    }

    /// Removes the endpoint's entries.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_endpoint(&mut self, endpoint: u32) -> Result<Difference, Error> {
        self.apply(endpoint, &[])
    }

    /// The endpoint's entries as the kernel holds them, in no order.
    pub fn entries(&self, endpoint: u32) -> Vec<PolicyEntry> {
        let held = self.held.get(&endpoint).into_iter().flatten();
        held.filter_map(|(key, value)| PolicyEntry::from_raw(key, value))
            .collect()
    }

    /// Endpoints that have entries.
    pub fn endpoints(&self) -> Vec<u32> {
        self.held.keys().copied().collect()
    }

    /// Number of entries of all endpoints.
    pub fn len(&self) -> usize {
        self.held.values().map(HashMap::len).sum()
    }

    /// How full the map is.
    pub fn usage(&self) -> TableUse {
        TableUse {
            capacity: self.capacity,
            entries: self.len(),
            evicted: 0,
            refused: self.refused,
        }
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}
