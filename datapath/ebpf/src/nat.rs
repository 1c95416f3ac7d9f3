//! Rewriting addresses and ports.
#![forbid(unsafe_code)]

use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use weft_datapath_common::{DropReason, protocol};

use crate::packet::{Packet, icmp_type};
use crate::skb::{ETH_LEN, Skb};

const IP_CHECKSUM: u32 = ETH_LEN + 10;
const IP_SRC: u32 = ETH_LEN + 12;
const IP_DST: u32 = ETH_LEN + 16;

/// Which end of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum End {
    /// Its source.
    Source,
    /// Its destination.
    Destination,
}

/// Replaces one end of the packet, in the packet and in what is known of it.
/// Network order.
///
/// Of protocols without ports only the address changes; of an ICMP echo the
/// identifier stands for the port of the end that asks.
#[inline(never)]
pub fn rewrite(
    skb: Skb,
    packet: &mut Packet,
    end: End,
    addr: u32,
    port: u16,
) -> Result<(), DropReason> {
    let (old_addr, old_port, addr_offset) = match end {
        End::Source => (packet.src, packet.src_port, IP_SRC),
        End::Destination => (packet.dst, packet.dst_port, IP_DST),
    };
    if old_port != port {
        rewrite_port(skb, packet, end, old_port, port)?;
    }
    if old_addr != addr {
        if let Some((offset, mangled)) = pseudo_header_sum(packet) {
            skb.replace_l4_sum(offset, old_addr, addr, BPF_F_PSEUDO_HDR | mangled | 4)?;
        }
        skb.replace_l3_sum(IP_CHECKSUM, old_addr, addr)?;
        skb.store(addr_offset, &addr)?;
    }
    match end {
        End::Source => (packet.src, packet.src_port) = (addr, port),
        End::Destination => (packet.dst, packet.dst_port) = (addr, port),
    }
    Ok(())
}

#[inline(always)]
fn rewrite_port(skb: Skb, packet: &Packet, end: End, old: u16, new: u16) -> Result<(), DropReason> {
    let (port_offset, sum_offset, flags) = match packet.protocol {
        protocol::TCP | protocol::UDP => {
            let port = packet.l4 + if end == End::Source { 0 } else { 2 };
            let (sum, mangled) = pseudo_header_sum(packet).unwrap_or((0, 0));
            (port, sum, mangled)
        }
        protocol::ICMP if is_echo(packet) => (packet.l4 + 4, packet.l4 + 2, 0),
        _ => return Err(DropReason::WriteFailed),
    };
    skb.replace_l4_sum(sum_offset, u32::from(old), u32::from(new), flags | 2)?;
    skb.store(port_offset, &new)
}

/// Where the checksum lies that covers the addresses, and how to treat a zero
/// there: in UDP it means "none" and must stay.
#[inline(always)]
fn pseudo_header_sum(packet: &Packet) -> Option<(u32, u32)> {
    match packet.protocol {
        protocol::TCP => Some((packet.l4 + 16, 0)),
        protocol::UDP => Some((packet.l4 + 6, BPF_F_MARK_MANGLED_0)),
        _ => None,
    }
}

#[inline(always)]
fn is_echo(packet: &Packet) -> bool {
    matches!(packet.icmp_type, icmp_type::ECHO | icmp_type::ECHO_REPLY)
}
