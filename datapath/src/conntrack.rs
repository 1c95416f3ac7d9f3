//! Connection tracking and masquerading.

mod lifetime;

use std::net::SocketAddrV4;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use weft_datapath_common::{
    Counter, CtEntry, CtKey, Leg, NatEntry, NatKey, SEEN_GOES_ON, ct_flags, map_names, protocol,
};

use crate::Error;
use crate::config::addr;
#[cfg(feature = "testing")]
use crate::config::raw_addr;
use crate::pending::Pending;
use crate::pins::Pins;
use crate::tables::{Counted, Removals, Table, TableUse};
use lifetime::Sweep;

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
    pending: Pending,
}

/// What all handles of one loader share.
#[derive(Clone)]
pub(crate) struct Shared {
    /// Removals from both tables.
    flows: Removals,
    nat: Removals,
    pub(crate) pending: Pending,
}

impl Shared {
    pub(crate) fn open(pins: &Pins) -> Result<Self, Error> {
        Ok(Self {
            flows: Removals::default(),
            nat: Removals::default(),
            pending: Pending::open(pins)?,
        })
    }
}

impl Conntrack {
    pub(crate) fn open(pins: &Pins, shared: &Shared) -> Result<Self, Error> {
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
            flows: Table::open(pins, map_names::CONNTRACK, flows, &shared.flows)?,
            nat: Table::open(pins, map_names::NAT, nat, &shared.nat)?,
            pending: shared.pending.clone(),
        })
    }

    /// Removes what has timed out. The tables evict by themselves when they are
    /// full; a sweep every ten seconds or so keeps them from getting there, and
    /// ports for masquerading from running out.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn gc(&mut self) -> Result<GcReport, Error> {
        let mut sweep = Sweep::new(now());
        let flows = |key: &CtKey, entry: &CtEntry| sweep.ends(key, entry);
        let (sieved, mut conntrack) = self.flows.survey(flows)?;
        let orphans = self.flows.remove(&sweep.orphans())?;
        conntrack.entries -= orphans;
        let (masqueraded, nat) = self.nat.survey(|key, entry| sweep.ends_nat(key, entry))?;
        Ok(GcReport {
            kept: conntrack.entries + nat.entries,
            removed: sieved.removed + orphans + masqueraded.removed,
            conntrack,
            nat,
        })
    }

    /// Forgets the flows of the pods that are gone
    /// ([`crate::Datapath::detach_endpoint`]) and what clients of UDP services
    /// chose that is no backend any more ([`crate::Services::apply`]): all that
    /// has come up so far, in one pass over the tables. Returns the number of
    /// entries removed. Whoever has a gone pod's address next begins with none.
    ///
    /// Handles in other threads may do the same; one waits for the other.
    ///
    /// # Errors
    /// When a map cannot be read or written; the next call goes on from there.
    pub fn forget(&mut self) -> Result<usize, Error> {
        let Self {
            flows,
            nat,
            pending,
        } = self;
        pending.forget(|forget| {
            let mut removed = flows.sieve(|key, entry| forget.flow(key, entry))?.removed;
            if forget.has_addresses() {
                removed += nat.sieve(|key, entry| forget.nat(key, entry))?.removed;
            }
            Ok(removed)
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
        self.flows.remove(&[key]).map(drop)
    }

    /// All flows, in no order.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn entries(&self) -> Result<Vec<Flow>, Error> {
        let now = now();
        let mut flows = Vec::new();
        self.flows
            .each(|key, entry| flows.push(flow(key, entry, now)))?;
        Ok(flows)
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
pub(crate) fn ends(key: &CtKey, entry: &CtEntry) -> (SocketAddrV4, SocketAddrV4) {
    let socket = |(raw, port)| SocketAddrV4::new(addr(raw), u16::from_be(port));
    let (initiator, other) = raw_ends(key, entry);
    (socket(initiator), socket(other))
}

/// The same as they are in the key.
fn raw_ends(key: &CtKey, entry: &CtEntry) -> ((u32, u16), (u32, u16)) {
    let low = (key.low_addr, key.low_port);
    let high = (key.high_addr, key.high_port);
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
