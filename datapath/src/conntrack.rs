use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use aya::{
    Pod,
    maps::{HashMap, MapData, MapError},
};
use rustix::time::{ClockId, clock_gettime};
use weft_datapath_common::{
    CtEntry, CtKey, Leg, NatEntry, NatKey, ct_flags, map_names, nat_kind, protocol, tcp,
};

use crate::{
    Error,
    config::{addr, raw_addr},
    endpoints::gone,
    pins::Pins,
};

/// How long the kernel's own connection tracking keeps established TCP, shortened to what peers
/// with keep-alives (two hours by default) still stay below.
const ESTABLISHED: Duration = Duration::from_secs(6 * 3600);
/// A connection that was never answered, UDP, ICMP.
const TRANSIENT: Duration = Duration::from_secs(60);
/// After FIN or RST: late segments must still find the flow.
const CLOSING: Duration = Duration::from_secs(10);

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
}

/// Connection tracking and masquerading.
pub struct Conntrack {
    flows: HashMap<MapData, CtKey, CtEntry>,
    nat: HashMap<MapData, NatKey, NatEntry>,
}

impl Conntrack {
    pub(crate) fn open(pins: &Pins) -> Result<Self, Error> {
        Ok(Self {
            flows: pins.open(map_names::CONNTRACK)?,
            nat: pins.open(map_names::NAT)?,
        })
    }

    /// Removes what has timed out. The maps evict by themselves when they are full; a sweep every
    /// ten seconds or so keeps them from getting there.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn gc(&mut self) -> Result<GcReport, Error> {
        let now = now();
        let flows = sweep(&mut self.flows, map_names::CONNTRACK, |_, entry| {
            now.saturating_sub(entry.last_seen) > nanos(timeout(entry))
        })?;
        let nat = sweep(&mut self.nat, map_names::NAT, |key, entry| {
            let timeout = match key.protocol {
                protocol::TCP => ESTABLISHED,
                _ => TRANSIENT,
            };
            now.saturating_sub(entry.last_seen) > nanos(timeout)
        })?;
        Ok(GcReport {
            kept: flows.kept + nat.kept,
            removed: flows.removed + nat.removed,
        })
    }

    /// Forgets every flow of this address: whoever has it next begins with none. Returns the
    /// number of entries removed.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn remove_address(&mut self, address: Ipv4Addr) -> Result<usize, Error> {
        let raw = raw_addr(address);
        let flows = sweep(&mut self.flows, map_names::CONNTRACK, |key, entry| {
            key.low_addr == raw || key.high_addr == raw || entry.xlate_addr == raw
        })?;
        let nat = sweep(&mut self.nat, map_names::NAT, |key, entry| {
            (key.kind == nat_kind::OUT && key.addr == raw)
                || (key.kind == nat_kind::IN && entry.addr == raw)
        })?;
        Ok(flows.removed + nat.removed)
    }

    /// Forgets which clients of the UDP service chose one of these backends.
    pub(crate) fn forget_choices(
        &mut self,
        service: (Ipv4Addr, u16),
        backends: &HashSet<(Ipv4Addr, u16)>,
    ) -> Result<usize, Error> {
        let service = SocketAddrV4::new(service.0, service.1);
        let swept = sweep(&mut self.flows, map_names::CONNTRACK, |key, entry| {
            entry.flags & ct_flags::SERVICE != 0
                && key.protocol == protocol::UDP
                && ends(key, entry).1 == service
                && backends.contains(&(addr(entry.xlate_addr), u16::from_be(entry.xlate_port)))
        })?;
        Ok(swept.removed)
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
        gone(self.flows.remove(&key), map_names::CONNTRACK)
    }

    /// All flows, in no order.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn entries(&self) -> Result<Vec<Flow>, Error> {
        let now = now();
        let flows = read(&self.flows, map_names::CONNTRACK)?;
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

fn timeout(entry: &CtEntry) -> Duration {
    let answered = entry.seen[1] & tcp::ACK != 0;
    if entry.closing != 0 {
        CLOSING
    } else if answered || entry.flags & ct_flags::SERVICE != 0 {
        ESTABLISHED
    } else {
        TRANSIENT
    }
}

/// Reads a whole map. Entries that vanish meanwhile are left out.
fn read<K: Pod, V: Pod>(
    map: &HashMap<MapData, K, V>,
    name: &'static str,
) -> Result<Vec<(K, V)>, Error> {
    map.iter()
        .filter(|entry| !matches!(entry, Err(MapError::KeyNotFound)))
        .collect::<Result<_, _>>()
        .map_err(Error::map(name))
}

fn sweep<K: Pod, V: Pod>(
    map: &mut HashMap<MapData, K, V>,
    name: &'static str,
    doomed: impl Fn(&K, &V) -> bool,
) -> Result<GcReport, Error> {
    let mut report = GcReport::default();
    // Read first: removing under an iterator sends it back to the start.
    for (key, value) in read(map, name)? {
        if doomed(&key, &value) {
            gone(map.remove(&key), name)?;
            report.removed += 1;
        } else {
            report.kept += 1;
        }
    }
    Ok(report)
}

/// `CLOCK_MONOTONIC`, as the programs stamp it.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
