//! What a snapshot has for the kernel's redirects.

use std::collections::{BTreeMap, BTreeSet};

use weft_core::model::NumericIdentity;
use weft_core::policy::PortPolicy;
use weft_datapath::PolicyEntry;

use super::agreement::Agreements;
use crate::plan::filters::Chains;

/// What a snapshot holds: the pods, and the ports with their rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    endpoints: BTreeSet<u32>,
    /// By endpoint and direction, in the order of the ports, which do not
    /// overlap.
    ports: BTreeMap<(u32, u8), Vec<PortPolicy>>,
    /// By endpoint, likewise.
    pub(super) chains: Chains,
}

impl Coverage {
    /// Of these endpoints and their policies.
    pub fn of<'a>(
        endpoints: impl IntoIterator<Item = u32>,
        ports: impl IntoIterator<Item = &'a PortPolicy>,
    ) -> Self {
        let mut coverage = Self {
            endpoints: endpoints.into_iter().collect(),
            ports: BTreeMap::new(),
            chains: Chains::new(),
        };
        for port in ports {
            let key = (port.endpoint.0, port.direction.number());
            coverage.ports.entry(key).or_default().push(port.clone());
        }
        for ports in coverage.ports.values_mut() {
            ports.sort_by_key(|port| port.first);
        }
        coverage
    }

    /// With these filters.
    #[must_use]
    pub fn with_chains(self, chains: Chains) -> Self {
        Self { chains, ..self }
    }

    /// The ports with their rules.
    #[cfg(test)]
    pub(super) fn policies(&self) -> impl Iterator<Item = &PortPolicy> {
        self.ports.values().flatten()
    }

    /// Whether it has this pod.
    pub(super) fn knows(&self, endpoint: u32) -> bool {
        self.endpoints.contains(&endpoint)
    }

    /// Whether a proxy that runs from it judges what an entry redirects to it
    /// as `wanted` says, the rules of the endpoint's ports: on every port of
    /// the entry, by the same rules. A proxy with other rules might let through
    /// what these do not, and one without any would not judge at all, if it is
    /// asked on account of the other direction.
    pub(super) fn judges(
        &self,
        endpoint: u32,
        entry: &PolicyEntry,
        wanted: &[PortPolicy],
        agreements: &mut Agreements,
    ) -> bool {
        let identity = NumericIdentity(entry.identity);
        self.holds(endpoint, entry, |port, there| {
            let here = policy_at(wanted, entry.direction as u8, port)?;
            let agree = agreements.agree(identity, &there.rules, &here.rules);
            agree.then_some(here.last)
        })
    }

    /// Whether it has rules for what an entry redirects, whatever they say.
    pub(super) fn has_rules(&self, endpoint: u32, entry: &PolicyEntry) -> bool {
        self.holds(endpoint, entry, |_, there| Some(there.last))
    }

    /// Whether each port of an entry is in a policy that is `right` for it: that
    /// says from a port up to which one it is.
    fn holds(
        &self,
        endpoint: u32,
        entry: &PolicyEntry,
        mut right: impl FnMut(u32, &PortPolicy) -> Option<u16>,
    ) -> bool {
        // Both kinds of direction have the numbers of the policy map's keys.
        let direction = entry.direction as u8;
        let Some(held) = self.ports.get(&(endpoint, direction)) else {
            return false;
        };
        let (first, last) = ports(entry);
        let mut open = u32::from(first);
        while open <= u32::from(last) {
            // Sorted: there may be thousands of entries, and of ports.
            let there = policy_at(held, direction, open);
            let Some((there, until)) = there.and_then(|there| Some((there, right(open, there)?)))
            else {
                return false;
            };
            open = u32::from(there.last.min(until)) + 1;
        }
        true
    }
}

/// First and last port of an entry.
pub(super) fn ports(entry: &PolicyEntry) -> (u16, u16) {
    let free = u16::MAX
        .checked_shr(u32::from(entry.port_bits))
        .unwrap_or_default();
    (entry.port & !free, entry.port | free)
}

/// The policy of a port among those of an endpoint, which are in the order of
/// directions and ports.
fn policy_at(ports: &[PortPolicy], direction: u8, port: u32) -> Option<&PortPolicy> {
    let place = |policy: &PortPolicy| (policy.direction.number(), u32::from(policy.first));
    let after = ports.partition_point(|policy| place(policy) <= (direction, port));
    let found = ports.get(after.checked_sub(1)?)?;
    let holds = found.direction.number() == direction && port <= found.last.into();
    holds.then_some(found)
}

#[cfg(test)]
mod tests;
