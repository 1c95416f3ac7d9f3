//! Traffic from pods to the outside leaves with the node's address, on a port
//! of a range that the node's own sockets do not use.

use weft_datapath_common::{Config, Counter, DropReason, NatEntry, NatKey, nat_kind, protocol};

use crate::nat::{self, End};
use crate::packet::{Packet, icmp_type};
use crate::skb::Skb;
use crate::{conntrack, helpers, icmp, maps};

/// Ports tried before giving up.
const ATTEMPTS: u32 = 32;

/// Gives a packet of a pod the node's address.
#[inline(never)]
pub fn outward(skb: Skb, config: &Config, packet: &mut Packet) -> Result<(), DropReason> {
    let portable = match packet.protocol {
        protocol::TCP | protocol::UDP => true,
        protocol::ICMP => packet.icmp_type == icmp_type::ECHO,
        _ => false,
    };
    if !portable {
        return Err(DropReason::NatProtocol);
    }
    let now = conntrack::now();
    let port = match known_port(config, packet, now) {
        0 => claim(config, packet, now)?,
        port => port,
    };
    nat::rewrite(skb, packet, End::Source, config.node, port)
}

/// What became of a packet to the node's own address. One byte, as
/// [`crate::Outcome`].
pub enum Inward {
    /// It answers a pod, whose address it has now.
    ToPod,
    /// It answers no pod.
    ToNode,
    /// It could not be written.
    Failed(DropReason),
}

const _: () = assert!(size_of::<Inward>() == 1);

impl From<Result<(), DropReason>> for Inward {
    #[inline(always)]
    fn from(written: Result<(), DropReason>) -> Self {
        match written {
            Ok(()) => Self::ToPod,
            Err(reason) => Self::Failed(reason),
        }
    }
}

/// Gives an answer from outside the pod's address.
#[inline(never)]
pub fn inward(skb: Skb, packet: &mut Packet) -> Inward {
    if packet.is_icmp_error() {
        return inward_error(skb, packet);
    }
    let key = key(
        packet.dst,
        packet.dst_port,
        packet.src,
        packet.src_port,
        packet.protocol,
    );
    let Some(entry) = maps::nat(&NatKey {
        kind: nat_kind::IN,
        ..key
    }) else {
        return Inward::ToNode;
    };
    // SAFETY: a live map value; a racing writer writes the same address and
    // port.
    let (addr, port) = unsafe {
        (*entry.as_ptr()).last_seen = conntrack::now();
        ((*entry.as_ptr()).addr, (*entry.as_ptr()).port)
    };
    nat::rewrite(skb, packet, End::Destination, addr, port).into()
}

/// An ICMP error quotes the packet as it left the node.
#[inline(always)]
fn inward_error(skb: Skb, packet: &mut Packet) -> Inward {
    let Ok(quoted) = icmp::quoted(skb, packet) else {
        return Inward::ToNode;
    };
    let key = key(
        quoted.src,
        quoted.src_port,
        quoted.dst,
        quoted.dst_port,
        quoted.protocol,
    );
    let Some(entry) = maps::nat(&NatKey {
        kind: nat_kind::IN,
        ..key
    }) else {
        return Inward::ToNode;
    };
    // SAFETY: as in `inward`.
    let (addr, port) = unsafe { ((*entry.as_ptr()).addr, (*entry.as_ptr()).port) };
    let own_port = packet.dst_port;
    icmp::rewrite_quoted(skb, packet, &quoted, End::Source, (addr, port))
        .and_then(|()| nat::rewrite(skb, packet, End::Destination, addr, own_port))
        .into()
}

/// The port that this flow has already, in network order; 0 if none. Both sides
/// of the mapping are looked up with every packet, so that the map's eviction
/// treats them alike.
#[inline(always)]
fn known_port(config: &Config, packet: &Packet, now: u64) -> u16 {
    let out = key(
        packet.src,
        packet.src_port,
        packet.dst,
        packet.dst_port,
        packet.protocol,
    );
    let Some(entry) = maps::nat(&out) else {
        return 0;
    };
    // SAFETY: as in `inward`.
    let port = unsafe {
        (*entry.as_ptr()).last_seen = now;
        (*entry.as_ptr()).port
    };
    let Some(back) = maps::nat(&inner_key(config, packet, port)) else {
        return 0;
    };
    // SAFETY: as in `inward`.
    let ours = unsafe {
        (*back.as_ptr()).last_seen = now;
        (*back.as_ptr()).addr == packet.src && (*back.as_ptr()).port == packet.src_port
    };
    if ours { port } else { 0 }
}

/// Claims a free port towards this peer.
#[inline(always)]
fn claim(config: &Config, packet: &Packet, now: u64) -> Result<u16, DropReason> {
    let span = u32::from(config.snat_last.wrapping_sub(config.snat_first)) + 1;
    let back = NatEntry {
        last_seen: now,
        addr: packet.src,
        port: packet.src_port,
        pad: 0,
    };
    for _ in 0..ATTEMPTS {
        let port = config
            .snat_first
            .wrapping_add((helpers::random() % span) as u16)
            .to_be();
        if maps::claim_nat(&inner_key(config, packet, port), &back) {
            let out = key(
                packet.src,
                packet.src_port,
                packet.dst,
                packet.dst_port,
                packet.protocol,
            );
            let entry = NatEntry {
                last_seen: now,
                addr: config.node,
                port,
                pad: 0,
            };
            if maps::insert_nat(&out, &entry) {
                return Ok(port);
            }
            break;
        }
    }
    maps::count(Counter::NatRefused);
    Err(DropReason::NatExhausted)
}

/// Key of the answers to a packet that left on `port`.
#[inline(always)]
fn inner_key(config: &Config, packet: &Packet, port: u16) -> NatKey {
    NatKey {
        kind: nat_kind::IN,
        ..key(
            config.node,
            port,
            packet.dst,
            packet.dst_port,
            packet.protocol,
        )
    }
}

#[inline(always)]
fn key(addr: u32, port: u16, peer: u32, peer_port: u16, protocol: u8) -> NatKey {
    NatKey {
        addr,
        peer,
        port,
        peer_port,
        protocol,
        kind: nat_kind::OUT,
        pad: 0,
    }
}
