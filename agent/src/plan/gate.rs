//! Keeps a redirect out of the kernel until the proxy has the rules for it.
//!
//! A connection that reaches a proxy without rules for its port would pass
//! unjudged. So an entry that newly redirects waits for the proxy to
//! acknowledge a snapshot that holds its port. For a short while the endpoint
//! stays as it was, which spares allowed traffic a gap; then the entry goes in
//! with a port on which nothing listens, and its traffic is dropped until the
//! proxy is there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use weft_core::policy::PortPolicy;
use weft_datapath::{PolicyEntry, Verdict};

use super::CLOSED_PORT;

/// How long an endpoint may stay as it was. Within what a revocation may take.
const PATIENCE: Duration = Duration::from_millis(80);
/// Snapshots that are remembered; a proxy further behind counts as new.
const REMEMBERED: usize = 32;

/// How long a pod that is new to the proxy is not called ready.
const INTRODUCTION: Duration = Duration::from_secs(1);

/// What a snapshot holds: the pods, and the ports with rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    endpoints: BTreeSet<u32>,
    ports: BTreeSet<(u32, u8, u16, u16)>,
}

impl Coverage {
    /// Of these endpoints and their policies.
    pub fn of<'a>(
        endpoints: impl IntoIterator<Item = u32>,
        ports: impl IntoIterator<Item = &'a PortPolicy>,
    ) -> Self {
        let ports = ports.into_iter().map(|port| {
            let direction = port.direction.number();
            (port.endpoint.0, direction, port.first, port.last)
        });
        Self {
            endpoints: endpoints.into_iter().collect(),
            ports: ports.collect(),
        }
    }

    fn holds(&self, endpoint: u32, entry: &PolicyEntry) -> bool {
        let (first, last) = ports(entry);
        // Both kinds of direction have the numbers of the policy map's keys.
        let direction = entry.direction as u8;
        let at = |port| (endpoint, direction, port, u16::MAX);
        let before = self
            .ports
            .range((endpoint, direction, 0, 0)..=at(first))
            .next_back();
        let Some(before) = before else { return false };
        // Ranges of one endpoint and direction do not overlap, but several
        // side by side may make up the entry's.
        let mut open = u32::from(first);
        for (_, _, start, end) in self.ports.range(*before..=at(last)) {
            if u32::from(*start) > open || open > u32::from(*end) {
                break;
            }
            open = u32::from(*end) + 1;
        }
        open > u32::from(last)
    }
}

/// First and last port of an entry.
fn ports(entry: &PolicyEntry) -> (u16, u16) {
    let free = u16::MAX
        .checked_shr(u32::from(entry.port_bits))
        .unwrap_or_default();
    (entry.port & !free, entry.port | free)
}

/// What the kernel is to hold of an endpoint right now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gated {
    /// These entries; all that is wanted when `complete`.
    Write {
        /// The entries.
        entries: Vec<PolicyEntry>,
        /// Whether they are what is wanted. If not, some are closed.
        complete: bool,
    },
    /// These entries, which are what it holds less what is revoked; the flags
    /// of the endpoint stay too.
    Hold {
        /// The entries.
        entries: Vec<PolicyEntry>,
        /// When to ask again at the latest.
        until: Instant,
    },
}

/// What the proxy is known to hold.
#[derive(Debug, Default)]
pub struct Gate {
    published: Vec<(String, Coverage)>,
    connected: bool,
    acked: Option<Coverage>,
    waiting: BTreeMap<u32, Instant>,
    introduced: BTreeMap<u32, Instant>,
}

impl Gate {
    /// A snapshot was published.
    pub fn published(&mut self, version: &str, coverage: Coverage) {
        if self.published.iter().any(|(known, _)| known == version) {
            return;
        }
        if self.published.len() == REMEMBERED {
            self.published.remove(0);
        }
        self.published.push((version.to_owned(), coverage));
    }

    /// What the proxy says that it runs from.
    pub fn proxy(&mut self, connected: bool, acked: &str) {
        self.connected = connected;
        let known = self.published.iter().find(|(known, _)| known == acked);
        self.acked = known.map(|(_, coverage)| coverage.clone());
    }

    /// What to write for an endpoint whose entries in the kernel are `held`
    /// (none when it is not attached yet).
    pub fn check(
        &mut self,
        endpoint: u32,
        wanted: &[PolicyEntry],
        held: Option<&[PolicyEntry]>,
        now: Instant,
    ) -> Gated {
        let redirected = redirects(held.unwrap_or_default());
        let early: Vec<&PolicyEntry> = wanted
            .iter()
            .filter(|entry| self.is_early(endpoint, entry, &redirected))
            .collect();
        if early.is_empty() {
            self.waiting.remove(&endpoint);
            return Gated::Write {
                entries: wanted.to_vec(),
                complete: true,
            };
        }
        // A proxy that is away will not answer soon: nothing to wait for.
        let until = *self.waiting.entry(endpoint).or_insert(now + PATIENCE);
        if self.connected && now < until {
            return Gated::Hold {
                entries: keep(held.unwrap_or_default(), wanted, &early),
                until,
            };
        }
        let entries = wanted
            .iter()
            .map(|entry| {
                let mut entry = *entry;
                if self.is_early(endpoint, &entry, &redirected) {
                    entry.verdict = Verdict::Redirect(CLOSED_PORT);
                }
                entry
            })
            .collect();
        Gated::Write {
            entries,
            complete: false,
        }
    }

    /// Whether the proxy knows this pod, or need not be waited for: it would
    /// refuse the first requests of a pod that it has not heard of.
    ///
    /// # Errors
    /// When it does not: the time until which to wait.
    pub fn introduced(&mut self, endpoint: u32, now: Instant) -> Result<(), Instant> {
        let known = self.acked.as_ref();
        if !self.connected || known.is_some_and(|acked| acked.endpoints.contains(&endpoint)) {
            return Ok(());
        }
        let until = *self
            .introduced
            .entry(endpoint)
            .or_insert(now + INTRODUCTION);
        if now < until { Err(until) } else { Ok(()) }
    }

    /// Forgets endpoints that are gone.
    pub fn retain(&mut self, endpoints: impl Fn(u32) -> bool) {
        self.waiting.retain(|endpoint, _| endpoints(*endpoint));
        self.introduced.retain(|endpoint, _| endpoints(*endpoint));
    }

    /// Whether the entry redirects to a proxy that may not have its rules. What
    /// the kernel redirects already is the proxy's business.
    fn is_early(
        &self,
        endpoint: u32,
        entry: &PolicyEntry,
        redirected: &BTreeSet<(Key, u16)>,
    ) -> bool {
        let Verdict::Redirect(port) = entry.verdict else {
            return false;
        };
        if port == CLOSED_PORT {
            return false;
        }
        let redirected = redirected.contains(&(key(entry), port));
        let covered = self
            .acked
            .as_ref()
            .is_some_and(|acked| acked.holds(endpoint, entry));
        !redirected && !covered
    }
}

/// Direction, identity, protocol, port and bits of the port.
type Key = (u8, u32, u8, u16, u8);

fn key(entry: &PolicyEntry) -> Key {
    (
        entry.direction as u8,
        entry.identity,
        entry.protocol,
        entry.port,
        entry.port_bits,
    )
}

/// The entries that redirect, and where to.
fn redirects(entries: &[PolicyEntry]) -> BTreeSet<(Key, u16)> {
    let redirect = |entry: &PolicyEntry| match entry.verdict {
        Verdict::Redirect(port) => Some((key(entry), port)),
        _ => None,
    };
    entries.iter().filter_map(redirect).collect()
}

/// What is held, less what is no longer allowed and does not merely change its
/// way to the proxy.
fn keep(held: &[PolicyEntry], wanted: &[PolicyEntry], early: &[&PolicyEntry]) -> Vec<PolicyEntry> {
    let wanted: HashMap<Key, &PolicyEntry> =
        wanted.iter().map(|entry| (key(entry), entry)).collect();
    let early = Spans::of(early);
    held.iter()
        .filter_map(|old| match wanted.get(&key(old)) {
            Some(new) if new.verdict == Verdict::Deny => Some(**new),
            Some(_) => Some(*old),
            None => early.overlap(old).then_some(*old),
        })
        .collect()
}

/// Direction, identity and protocol.
type Side = (u8, u32, u8);

/// The ports of many entries.
struct Spans {
    /// Sorted ranges that do not overlap.
    named: HashMap<Side, Vec<(u16, u16)>>,
    /// The same with everybody's ports as anybody's: identity 0.
    all: HashMap<Side, Vec<(u16, u16)>>,
}

impl Spans {
    fn of(entries: &[&PolicyEntry]) -> Self {
        let mut named: HashMap<Side, Vec<(u16, u16)>> = HashMap::new();
        let mut all: HashMap<Side, Vec<(u16, u16)>> = HashMap::new();
        for entry in entries {
            let side = |identity| (entry.direction as u8, identity, entry.protocol);
            named
                .entry(side(entry.identity))
                .or_default()
                .push(ports(entry));
            all.entry(side(0)).or_default().push(ports(entry));
        }
        named.values_mut().chain(all.values_mut()).for_each(merge);
        Self { named, all }
    }

    /// Whether traffic of an entry may be traffic of one of these.
    fn overlap(&self, entry: &PolicyEntry) -> bool {
        const PROTOCOLS: [u8; 3] = [6, 17, 132];
        let direction = entry.direction as u8;
        let protocols: &[u8] = match &entry.protocol {
            0 => &PROTOCOLS,
            one => std::slice::from_ref(one),
        };
        let (first, last) = ports(entry);
        let in_ranges = |ranges: Option<&Vec<(u16, u16)>>| {
            ranges.is_some_and(|ranges| {
                let after = ranges.partition_point(|(start, _)| *start <= last);
                after > 0 && ranges.get(after - 1).is_some_and(|(_, end)| *end >= first)
            })
        };
        protocols.iter().chain(&[0]).any(|protocol| {
            if entry.identity == 0 {
                return in_ranges(self.all.get(&(direction, 0, *protocol)));
            }
            in_ranges(self.named.get(&(direction, entry.identity, *protocol)))
                || in_ranges(self.named.get(&(direction, 0, *protocol)))
        })
    }
}

fn merge(ranges: &mut Vec<(u16, u16)>) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, before| {
        let joined = next.0 <= before.1;
        if joined {
            before.1 = before.1.max(next.1);
        }
        joined
    });
}

#[cfg(test)]
mod tests;
