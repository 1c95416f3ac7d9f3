//! Tables as full as a busy node's, without its traffic.

use std::net::Ipv4Addr;
use std::time::Duration;

use aya::Pod;
use aya::maps::{HashMap, MapData};
use weft_datapath_common::{
    CtEntry, CtKey, Leg, NatEntry, NatKey, ct_flags, map_names, nat_kind, protocol, tcp,
};

use crate::config::raw_addr;
use crate::conntrack::now;
use crate::{Datapath, Error};

const PORT: u16 = 80;
/// Client ports from here on.
const FIRST_PORT: u16 = 10_000;
/// How long the connections are quiet: what hangs on a connection is looked
/// for, the connection itself stays.
const QUIET: Duration = Duration::from_secs(60);

/// What is in the tables afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// Entries of connection tracking.
    pub conntrack: usize,
    /// Entries of masquerading.
    pub nat: usize,
}

/// Writes open TCP connections of these pods, until connection tracking has
/// `entries`: of five, three go to pods of other nodes, one goes through a
/// service (and has two entries) and one to the outside (with two entries of
/// masquerading).
///
/// # Errors
/// When the kernel refuses.
pub fn fill(datapath: &Datapath, pods: &[Ipv4Addr], entries: usize) -> Result<Filled, Error> {
    let mut writer = Writer {
        flows: datapath.table(map_names::CONNTRACK)?,
        nat: datapath.table(map_names::NAT)?,
        last_seen: now() - QUIET.as_nanos() as u64,
        filled: Filled::default(),
    };
    for number in 0_u32.. {
        let client = number as usize / pods.len();
        let pod = pods[number as usize % pods.len()];
        let port = FIRST_PORT + (client % 50_000) as u16;
        // Another server for each round of ports.
        let server = 9 + (client / 50_000) as u8;
        if writer.filled.conntrack >= entries {
            break;
        }
        match number / pods.len() as u32 % 5 {
            0 => writer.through_service(pod, port, server)?,
            1 => writer.outside(pod, port, server)?,
            _ => {
                let remote = (Ipv4Addr::new(10, 244, 2, server), PORT);
                writer.flow((pod, port), remote, 0, None)?;
            }
        }
    }
    Ok(writer.filled)
}

type End = (Ipv4Addr, u16);

struct Writer {
    flows: HashMap<MapData, CtKey, CtEntry>,
    nat: HashMap<MapData, NatKey, NatEntry>,
    last_seen: u64,
    filled: Filled,
}

impl Writer {
    fn flow(&mut self, src: End, dst: End, flags: u32, xlate: Option<End>) -> Result<(), Error> {
        let (src, dst) = (raw(src), raw(dst));
        let (key, from_low) = CtKey::new(src, dst, protocol::TCP, Leg::Direct);
        let (xlate_addr, xlate_port) = xlate.map_or((0, 0), raw);
        let entry = CtEntry {
            last_seen: self.last_seen,
            flags: flags | if from_low { ct_flags::FROM_LOW } else { 0 },
            xlate_addr,
            xlate_port,
            seen: [tcp::SYN | tcp::ACK; 2],
            reported: [1; 2],
            ..CtEntry::default()
        };
        insert(&mut self.flows, key, entry, map_names::CONNTRACK)?;
        self.filled.conntrack += 1;
        Ok(())
    }

    fn through_service(&mut self, pod: Ipv4Addr, port: u16, server: u8) -> Result<(), Error> {
        let service = (Ipv4Addr::new(10, 96, 0, server), PORT);
        let backend = (Ipv4Addr::new(10, 244, 3, server), PORT);
        self.flow((pod, port), service, ct_flags::SERVICE, Some(backend))?;
        self.flow((pod, port), backend, ct_flags::NAT, Some(service))
    }

    fn outside(&mut self, pod: Ipv4Addr, port: u16, server: u8) -> Result<(), Error> {
        let [.., low] = pod.octets();
        // An address outside for each pod and round, so that ports suffice.
        let host = (Ipv4Addr::new(198, 18 + (server & 1), server, low), PORT);
        self.flow((pod, port), host, ct_flags::MASQUERADE, None)?;
        let node = (Ipv4Addr::new(172, 18, 0, 2), port);
        for (kind, own, other) in [
            (nat_kind::OUT, (pod, port), node),
            (nat_kind::IN, node, (pod, port)),
        ] {
            let ((addr, port), (peer, peer_port)) = (raw(own), raw(host));
            let key = NatKey {
                addr,
                peer,
                port,
                peer_port,
                protocol: protocol::TCP,
                kind,
                pad: 0,
            };
            let (addr, port) = raw(other);
            let entry = NatEntry {
                last_seen: self.last_seen,
                addr,
                port,
                pad: 0,
            };
            insert(&mut self.nat, key, entry, map_names::NAT)?;
            self.filled.nat += 1;
        }
        Ok(())
    }
}

fn raw((addr, port): End) -> (u32, u16) {
    (raw_addr(addr), port.to_be())
}

fn insert<K: Pod, V: Pod>(
    map: &mut HashMap<MapData, K, V>,
    key: K,
    value: V,
    name: &'static str,
) -> Result<(), Error> {
    map.insert(key, value, 0).map_err(Error::map(name))
}
