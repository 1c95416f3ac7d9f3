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
    /// ten seconds or so keeps them from getting there, and ports for masquerading from running
    /// out.
    ///
    /// # Errors
    /// When a map cannot be read or written.
    pub fn gc(&mut self) -> Result<GcReport, Error> {
        let now = now();
        let flows = read(&self.flows, map_names::CONNTRACK)?;
        let live = Live::of(&flows, now);
        let mut report = GcReport::default();
        for (key, entry) in &flows {
            if live.keeps(key, entry, now) {
                report.kept += 1;
            } else {
                gone(self.flows.remove(key), map_names::CONNTRACK)?;
                report.removed += 1;
            }
        }
        let nat = sweep(&mut self.nat, map_names::NAT, |key, entry| {
            !live.keeps_nat(key, entry, now)
        })?;
        Ok(GcReport {
            kept: report.kept + nat.kept,
            removed: report.removed + nat.removed,
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

/// A flow by what stays the same of it: initiator, other end, protocol.
type Ends = (SocketAddrV4, SocketAddrV4, u8);

/// The flows that have not timed out, for what hangs on them.
struct Live {
    /// Initiator and destination.
    direct: HashSet<Ends>,
    /// Initiator and service.
    through_service: HashSet<Ends>,
}

impl Live {
    fn of(flows: &[(CtKey, CtEntry)], now: u64) -> Self {
        let mut live = Self {
            direct: HashSet::new(),
            through_service: HashSet::new(),
        };
        for (key, entry) in flows {
            if entry.flags & ct_flags::SERVICE != 0 || timed_out(entry, now) {
                continue;
            }
            let flow = flow(key, entry, now);
            live.direct.insert((flow.src, flow.dst, flow.protocol));
            if let Some(service) = flow.service {
                live.through_service
                    .insert((client(&flow), service, flow.protocol));
            }
        }
        live
    }

    /// A choice lives as long as the connection that goes its way: without it, the connection's
    /// next packet would meet another backend.
    fn keeps(&self, key: &CtKey, entry: &CtEntry, now: u64) -> bool {
        let flow = flow(key, entry, now);
        let choice = entry.flags & ct_flags::SERVICE != 0;
        if choice && flow.proxy_port.is_none() {
            flow.idle <= CLOSING
                || self
                    .through_service
                    .contains(&(flow.src, flow.dst, flow.protocol))
        } else {
            !timed_out(entry, now)
        }
    }

    fn keeps_nat(&self, key: &NatKey, entry: &NatEntry, now: u64) -> bool {
        let socket = |raw, port| SocketAddrV4::new(addr(raw), u16::from_be(port));
        let pod = match key.kind {
            nat_kind::OUT => socket(key.addr, key.port),
            _ => socket(entry.addr, entry.port),
        };
        let idle = now.saturating_sub(entry.last_seen);
        let ends = (pod, socket(key.peer, key.peer_port), key.protocol);
        idle <= nanos(CLOSING) || self.direct.contains(&ends)
    }
}

/// Who dialled the service. A pod that reaches itself has another source address then.
fn client(flow: &Flow) -> SocketAddrV4 {
    match flow.src.ip().is_link_local() {
        true => SocketAddrV4::new(*flow.dst.ip(), flow.src.port()),
        false => flow.src,
    }
}

fn timed_out(entry: &CtEntry, now: u64) -> bool {
    let answered = entry.seen[1] & tcp::ACK != 0;
    let balanced_by_proxy = entry.flags & ct_flags::SERVICE != 0;
    let timeout = if entry.closing != 0 {
        CLOSING
    } else if answered || balanced_by_proxy {
        ESTABLISHED
    } else {
        TRANSIENT
    };
    now.saturating_sub(entry.last_seen) > nanos(timeout)
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const NOW: u64 = 1_000_000 * SECOND;

    fn end(text: &str) -> SocketAddrV4 {
        text.parse().unwrap()
    }

    fn tracked(src: &str, dst: &str, idle: u64, entry: CtEntry) -> (CtKey, CtEntry) {
        let raw = |end: SocketAddrV4| (raw_addr(*end.ip()), end.port().to_be());
        let (key, from_low) = CtKey::new(raw(end(src)), raw(end(dst)), protocol::TCP, Leg::Direct);
        let flags = entry.flags | if from_low { ct_flags::FROM_LOW } else { 0 };
        let last_seen = NOW - idle * SECOND;
        (
            key,
            CtEntry {
                flags,
                last_seen,
                ..entry
            },
        )
    }

    fn kept(flows: &[(CtKey, CtEntry)]) -> Vec<bool> {
        let live = Live::of(flows, NOW);
        flows
            .iter()
            .map(|(key, entry)| live.keeps(key, entry, NOW))
            .collect()
    }

    const ANSWERED: CtEntry = CtEntry {
        seen: [tcp::SYN, tcp::SYN | tcp::ACK],
        ..BLANK
    };
    const CLOSED: CtEntry = CtEntry {
        closing: tcp::FIN,
        ..ANSWERED
    };
    const BLANK: CtEntry = CtEntry {
        last_seen: 0,
        flags: 0,
        epoch: 0,
        rule: 0,
        xlate_addr: 0,
        xlate_port: 0,
        proxy_port: 0,
        seen: [0; 2],
        closing: 0,
        pad: 0,
        reported: [0; 2],
    };

    #[test]
    fn timeouts_follow_the_connections_state() {
        let (a, b) = ("10.0.0.1:40000", "10.0.0.2:80");
        for (entry, idle, stays) in [
            (BLANK, 59, true),
            (BLANK, 61, false),
            (ANSWERED, 3600, true),
            (ANSWERED, 7 * 3600, false),
            (CLOSED, 9, true),
            (CLOSED, 11, false),
        ] {
            assert_eq!(
                kept(&[tracked(a, b, idle, entry)]),
                [stays],
                "{entry:?} {idle}"
            );
        }
    }

    #[test]
    fn a_choice_lives_with_its_connection() {
        let service = end("10.96.0.1:80");
        let choice = CtEntry {
            flags: ct_flags::SERVICE,
            ..BLANK
        };
        let translated = CtEntry {
            flags: ct_flags::NAT,
            xlate_addr: raw_addr(*service.ip()),
            xlate_port: service.port().to_be(),
            ..ANSWERED
        };
        let choice = tracked("10.0.0.1:40000", "10.96.0.1:80", 3600, choice);
        let flow = |idle| tracked("10.0.0.1:40000", "10.0.0.2:8080", idle, translated);
        assert_eq!(kept(&[choice, flow(3600)]), [true, true]);
        assert_eq!(kept(&[choice, flow(7 * 3600)]), [false, false]);
        assert_eq!(kept(&[choice]), [false]);
        let itself = tracked("169.254.42.1:40000", "10.0.0.1:8080", 3600, translated);
        assert_eq!(kept(&[choice, itself]), [true, true]);
    }

    #[test]
    fn masquerading_lives_with_its_flow() {
        let flow = tracked("10.0.0.1:40000", "203.0.113.1:80", 3600, ANSWERED);
        let key = |kind, addr: &str, port: u16| NatKey {
            addr: raw_addr(addr.parse().unwrap()),
            peer: raw_addr(Ipv4Addr::new(203, 0, 113, 1)),
            port: port.to_be(),
            peer_port: 80_u16.to_be(),
            protocol: protocol::TCP,
            kind,
            pad: 0,
        };
        let entry = |addr: &str, port: u16, idle| NatEntry {
            last_seen: NOW - idle * SECOND,
            addr: raw_addr(addr.parse().unwrap()),
            port: port.to_be(),
            pad: 0,
        };
        let out = (
            key(nat_kind::OUT, "10.0.0.1", 40000),
            entry("172.18.0.2", 61000, 3600),
        );
        let back = (
            key(nat_kind::IN, "172.18.0.2", 61000),
            entry("10.0.0.1", 40000, 3600),
        );
        for (key, entry) in [out, back] {
            assert!(Live::of(&[flow], NOW).keeps_nat(&key, &entry, NOW));
            assert!(!Live::of(&[], NOW).keeps_nat(&key, &entry, NOW));
        }
        // The flow's own entry may be written a moment later.
        let young = entry("172.18.0.2", 61000, 1);
        assert!(Live::of(&[], NOW).keeps_nat(&out.0, &young, NOW));
    }
}
