//! Connection tracking and masquerading.

mod lifetime;

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use weft_datapath_common::{
    Counter, CtEntry, CtKey, Leg, NatEntry, NatKey, SEEN_GOES_ON, ct_flags, map_names, nat_kind,
    protocol,
};

use crate::Error;
use crate::config::{addr, raw_addr};
use crate::pins::Pins;
use crate::tables::{Counted, Removals, Table, TableUse};
use lifetime::Live;

/// A flow that the kernel knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who began.
    pub src: SocketAddrV4,
    /// The other end; of a service's client the backend, except in its choice.
    pub dst: SocketAddrV4,
    /// IP protocol.
    pub protocol: u8,
    /// Whether it is the proxy's own connection.
    pub upstream: bool,
    /// The proxy's port, if redirected.
    pub proxy_port: Option<u16>,
    /// The backend chosen, if this is a client's choice for a service (`dst`).
    pub choice: Option<SocketAddrV4>,
    /// The service in whose name the destination answers.
    pub service: Option<SocketAddrV4>,
    /// Rule that allowed it.
    pub rule: u32,
    /// Whether a policy now denies it.
    pub revoked: bool,
    /// Whether the other end answered.
    pub answered: bool,
    /// UDP and ICMP: whether its answers went on for longer than a report
    /// interval.
    pub goes_on: bool,
    /// Time since the last packet.
    pub idle: Duration,
}

/// What a sweep found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Entries that stay.
    pub kept: usize,
    /// Entries that had timed out.
    pub removed: usize,
    /// How full connection tracking is after the sweep.
    pub conntrack: TableUse,
    /// How full masquerading is after the sweep.
    pub nat: TableUse,
}

/// Connection tracking and masquerading.
pub struct Conntrack {
    flows: Table<CtKey, CtEntry>,
    nat: Table<NatKey, NatEntry>,
}

/// Removals from both tables, of every handle of one loader.
#[derive(Clone, Default)]
pub(crate) struct Removed {
    flows: Removals,
    nat: Removals,
}

impl Conntrack {
    pub(crate) fn open(pins: &Pins, removed: &Removed) -> Result<Self, Error> {
        let flows = Counted {
            added: Counter::ConntrackAdded,
            removed: Some(Counter::ConntrackRemoved),
            refused: Counter::ConntrackRefused,
        };
        let nat = Counted {
            added: Counter::NatAdded,
            removed: None,
            refused: Counter::NatRefused,
        };
        Ok(Self {
            flows: Table::open(pins, map_names::CONNTRACK, flows, &removed.flows)?,
            nat: Table::open(pins, map_names::NAT, nat, &removed.nat)?,
        })
    }

    /// Removes what has timed out. The tables evict by themselves when they are
    /// full; a sweep every ten seconds or so keeps them from getting there, and
    /// ports for masquerading from running out.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn gc(&mut self) -> Result<GcReport, Error> {
        let now = now();
        let (flows, mut conntrack) = self.flows.survey()?;
        let live = Live::of(&flows, now);
        let expired = self
            .flows
            .remove_all(&flows, |key, entry| !live.keeps(key, entry, now))?;
        conntrack.entries -= expired;
        let (entries, mut nat) = self.nat.survey()?;
        let removed = self
            .nat
            .remove_all(&entries, |key, entry| !live.keeps_nat(key, entry, now))?;
        nat.entries -= removed;
        Ok(GcReport {
            kept: conntrack.entries + nat.entries,
            removed: expired + removed,
            conntrack,
            nat,
        })
    }

    /// Forgets every flow of this address: whoever has it next begins with
    /// none. Returns the number of entries removed.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn remove_address(&mut self, address: Ipv4Addr) -> Result<usize, Error> {
        let raw = raw_addr(address);
        let flows = self.flows.read()?;
        let flows = self.flows.remove_all(&flows, |key, entry| {
            key.low_addr == raw || key.high_addr == raw || entry.xlate_addr == raw
        })?;
        let nat = self.nat.read()?;
        let nat = self.nat.remove_all(&nat, |key, entry| {
            (key.kind == nat_kind::OUT && key.addr == raw)
                || (key.kind == nat_kind::IN && entry.addr == raw)
        })?;
        Ok(flows + nat)
    }

    /// Forgets which clients of the UDP service chose one of these backends.
    pub(crate) fn forget_choices(
        &mut self,
        service: (Ipv4Addr, u16),
        backends: &HashSet<(Ipv4Addr, u16)>,
    ) -> Result<usize, Error> {
        let service = SocketAddrV4::new(service.0, service.1);
        let flows = self.flows.read()?;
        self.flows.remove_all(&flows, |key, entry| {
            entry.flags & ct_flags::SERVICE != 0
                && key.protocol == protocol::UDP
                && ends(key, entry).1 == service
                && backends.contains(&(addr(entry.xlate_addr), u16::from_be(entry.xlate_port)))
        })
    }

    /// Forgets one flow, named by its ends and protocol.
    #[cfg(feature = "testing")]
    pub(crate) fn remove_flow(
        &mut self,
        a: SocketAddrV4,
        b: SocketAddrV4,
        protocol: u8,
    ) -> Result<(), Error> {
        let raw = |end: SocketAddrV4| (raw_addr(*end.ip()), end.port().to_be());
        let (key, _) = CtKey::new(raw(a), raw(b), protocol, Leg::Direct);
        self.flows.remove(&key).map(drop)
    }

    /// All flows, in no order.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn entries(&self) -> Result<Vec<Flow>, Error> {
        let now = now();
        let flows = self.flows.read()?;
        Ok(flows
            .iter()
            .map(|(key, entry)| flow(key, entry, now))
            .collect())
    }
}

fn flow(key: &CtKey, entry: &CtEntry, now: u64) -> Flow {
    let has = |flag| entry.flags & flag != 0;
    let (src, dst) = ends(key, entry);
    let xlate = SocketAddrV4::new(addr(entry.xlate_addr), u16::from_be(entry.xlate_port));
    Flow {
        src,
        dst,
        protocol: key.protocol,
        upstream: key.leg == Leg::Upstream as u8,
        proxy_port: (entry.proxy_port != 0).then_some(entry.proxy_port),
        choice: (has(ct_flags::SERVICE) && entry.proxy_port == 0).then_some(xlate),
        service: has(ct_flags::NAT).then_some(xlate),
        rule: entry.rule,
        revoked: has(ct_flags::REVOKED),
        answered: entry.reported[1] != 0,
        goes_on: key.protocol != protocol::TCP && entry.seen[1] & SEEN_GOES_ON != 0,
        idle: Duration::from_nanos(now.saturating_sub(entry.last_seen)),
    }
}

/// Initiator and other end.
fn ends(key: &CtKey, entry: &CtEntry) -> (SocketAddrV4, SocketAddrV4) {
    let low = SocketAddrV4::new(addr(key.low_addr), u16::from_be(key.low_port));
    let high = SocketAddrV4::new(addr(key.high_addr), u16::from_be(key.high_port));
    match entry.flags & ct_flags::FROM_LOW {
        0 => (high, low),
        _ => (low, high),
    }
}

/// `CLOCK_MONOTONIC`, as the programs stamp it.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}
