//! The kernel's maps, and how its programs read them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use weft_core::model::NumericIdentity;
use weft_datapath::{CLOSED_PORT, Direction, Endpoint, PolicyEntry, TableUse, Verdict};

use crate::plan::{Address, Frontend, ServiceEntry};
use crate::program::{Kernel, KernelError};

/// What the maps hold at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) entries: BTreeMap<u32, Vec<PolicyEntry>>,
    pub(super) endpoints: BTreeMap<Ipv4Addr, Endpoint>,
}

/// An end of a connection.
type End = (Ipv4Addr, NumericIdentity);

impl State {
    /// What becomes of a connection: by the sender's egress rules and then by
    /// the receiver's ingress rules, as far as they are endpoints.
    pub(super) fn judge(&self, source: End, destination: End, protocol: u8, port: u16) -> Verdict {
        let sides = [
            (source.0, Direction::Egress, destination.1),
            (destination.0, Direction::Ingress, source.1),
        ];
        let mut verdict = Verdict::Allow;
        for (subject, direction, peer) in sides {
            let Some(subject) = self.endpoints.get(&subject) else {
                continue;
            };
            let found = self.lookup(subject.id, direction, peer, protocol, port);
            let from_host = direction == Direction::Ingress && peer == NumericIdentity::HOST;
            let default_deny = match direction {
                Direction::Ingress => subject.default_deny_ingress,
                Direction::Egress => subject.default_deny_egress,
            };
            match found {
                Some(Verdict::Deny) => return Verdict::Deny,
                _ if from_host => {}
                Some(Verdict::Redirect(CLOSED_PORT)) => return Verdict::Deny,
                Some(Verdict::Redirect(port)) => verdict = Verdict::Redirect(port),
                Some(Verdict::Allow) => {}
                None if default_deny => return Verdict::Deny,
                None => {}
            }
        }
        verdict
    }

    fn lookup(
        &self,
        endpoint: u32,
        direction: Direction,
        peer: NumericIdentity,
        protocol: u8,
        port: u16,
    ) -> Option<Verdict> {
        let entries = self.entries.get(&endpoint)?;
        let longest = |identity: u32| {
            let covers = |entry: &&PolicyEntry| {
                let free = 16 - u32::from(entry.port_bits);
                entry.direction == direction
                    && entry.identity == identity
                    && (entry.protocol == 0
                        || entry.protocol == protocol
                            && u32::from(entry.port) >> free == u32::from(port) >> free)
            };
            let length = |entry: &&PolicyEntry| (entry.protocol != 0, entry.port_bits);
            entries.iter().filter(covers).max_by_key(length)
        };
        let rank = |entry: &&PolicyEntry| {
            let denies = entry.verdict == Verdict::Deny;
            (denies, entry.priority, entry.matched)
        };
        let found = [longest(0), longest(peer.0)];
        let decides = found.into_iter().flatten().max_by_key(rank);
        decides.map(|entry| entry.verdict)
    }
}

/// The maps, and all that they held.
#[derive(Default)]
pub(super) struct Maps {
    /// When, and what from then on.
    states: Vec<(Duration, State)>,
    /// The time.
    pub(super) now: Duration,
    epoch: u32,
}

impl Maps {
    /// What they hold now.
    pub(super) fn state(&self) -> State {
        let last = self.states.last();
        last.map(|(_, state)| state.clone()).unwrap_or_default()
    }

    /// What they held since the last time, each with the time until which it
    /// did; the last of it is what they hold.
    pub(super) fn take(&mut self) -> Vec<(Duration, State)> {
        let last = (self.now, self.state());
        let mut states = std::mem::replace(&mut self.states, vec![last]);
        let mut ends: Vec<_> = states.iter().skip(1).map(|(since, _)| *since).collect();
        ends.push(self.now);
        for ((time, _), end) in states.iter_mut().zip(ends) {
            *time = end;
        }
        states
    }

    fn write(&mut self, change: impl FnOnce(&mut State)) -> bool {
        let before = self.state();
        let mut after = before.clone();
        change(&mut after);
        let changed = after != before;
        if changed {
            self.states.push((self.now, after));
        }
        changed
    }
}

impl Kernel for Maps {
    fn detach(&mut self, ip: Ipv4Addr) -> Result<(), KernelError> {
        self.write(|state| {
            state.endpoints.remove(&ip);
        });
        Ok(())
    }
    fn policy(&mut self, endpoint: u32, entries: &[PolicyEntry]) -> Result<bool, KernelError> {
        Ok(self.write(|state| drop(state.entries.insert(endpoint, entries.to_vec()))))
    }
    fn forget_policy(&mut self, endpoint: u32) -> Result<(), KernelError> {
        self.write(|state| drop(state.entries.remove(&endpoint)));
        Ok(())
    }
    fn addresses(&mut self, _: &BTreeMap<Ipv4Net, Address>) -> Result<bool, KernelError> {
        Ok(false)
    }
    fn services(&mut self, _: &BTreeMap<Frontend, ServiceEntry>) -> Result<bool, KernelError> {
        Ok(false)
    }
    fn attach(&mut self, endpoint: &Endpoint) -> Result<(), KernelError> {
        self.update(endpoint)
    }
    fn update(&mut self, endpoint: &Endpoint) -> Result<(), KernelError> {
        self.write(|state| {
            state.endpoints.insert(endpoint.addr, *endpoint);
        });
        Ok(())
    }
    fn tables(&self) -> [(&'static str, TableUse); 2] {
        [
            ("policy", TableUse::default()),
            ("ipcache", TableUse::default()),
        ]
    }
    fn bump_epoch(&mut self) -> Result<u32, KernelError> {
        self.epoch += 1;
        Ok(self.epoch)
    }
    fn settled(&mut self) {}
}
