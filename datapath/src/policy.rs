//! The policy entries of the pods of this node.

use std::collections::HashMap;

use aya::maps::MapData;
use aya::maps::lpm_trie::{Key, LpmTrie};
use weft_core::policy::{Decision, MapEntry};
use weft_datapath_common::{POLICY_FIXED_BITS, PolicyKey, PolicyValue, map_names, policy_flags};

use crate::endpoints::gone;
use crate::pins::Pins;
use crate::{Difference, Direction, Error};

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

/// The policies of this node's endpoints.
///
/// Keeps a copy of what the kernel holds, so there must be one writer only.
pub struct PolicyMap {
    map: LpmTrie<MapData, PolicyKey, PolicyValue>,
    held: HashMap<u32, Entries>,
}

impl PolicyMap {
    pub(crate) fn open(pins: &Pins) -> Result<Self, Error> {
        let map: LpmTrie<_, PolicyKey, PolicyValue> = pins.open(map_names::POLICY)?;
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
        Ok(Self { map, held })
    }

    /// Makes these the endpoint's entries: new ones first, then changed ones,
    /// then those that are no more, so that nothing that stays allowed is
    /// denied in between. Flows that exist are judged again after
    /// [`crate::Datapath::bump_epoch`].
    ///
    /// # Errors
    /// When an entry is impossible (nothing is written then), or the kernel
    /// refuses one. Everything else is written all the same, above all what
    /// takes permissions away, and the next call goes on from there.
    pub fn apply(&mut self, endpoint: u32, entries: &[PolicyEntry]) -> Result<Difference, Error> {
        let wanted = entries
            .iter()
            .map(|entry| entry.to_raw(endpoint))
            .collect::<Result<Entries, _>>()?;
        let held = self.held.entry(endpoint).or_default();
        let failed = Error::map(map_names::POLICY);
        let mut difference = Difference::default();
        let (changed, new): (Vec<_>, Vec<_>) = wanted
            .iter()
            .filter(|(key, value)| held.get(*key) != Some(*value))
            .partition(|(key, _)| held.contains_key(*key));
        let mut refused = Vec::new();
        for (key, value) in new.into_iter().chain(changed) {
            match self.map.insert(&key.lpm(), value, 0) {
                Ok(()) => difference.wrote(held.insert(*key, *value)),
                Err(_) => refused.push((key, value)),
            }
        }
        let old: Vec<_> = held
            .keys()
            .filter(|key| !wanted.contains_key(*key))
            .copied()
            .collect();
        for key in old {
            gone(self.map.remove(&key.lpm()), map_names::POLICY)?;
            held.remove(&key);
            difference.removed += 1;
        }
        // The map may have been full, and there may be room now.
        let mut outcome = Ok(());
        for (key, value) in refused {
            match self.map.insert(&key.lpm(), value, 0) {
                Ok(()) => difference.wrote(held.insert(*key, *value)),
                Err(error) => outcome = Err(failed(error)),
            }
        }
        if held.is_empty() {
            self.held.remove(&endpoint);
        }
        outcome.map(|()| difference)
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

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}
