//! ICMP errors: they belong to the flow whose packet they quote.
#![forbid(unsafe_code)]

use weft_datapath_common::{DropReason, Leg, ct_flags, protocol};

use crate::conntrack::{self, Entry};
use crate::flow::{Flow, Origin};
use crate::nat::End;
use crate::packet::Packet;
use crate::skb::Skb;

/// ICMP header before the quoted packet.
const ICMP_LEN: u32 = 8;

/// What an ICMP error is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// Nothing known.
    None,
    /// A flow that is allowed.
    Flow,
    /// One of the proxy's own connections.
    Proxy,
}

/// Finds the flow that an ICMP error is about.
#[inline(never)]
pub fn relate(skb: Skb, flow: &Flow) -> Relation {
    let Ok(quoted) = quoted(skb, &flow.packet) else {
        return Relation::None;
    };
    // A pod is no router: it speaks only of what was sent to itself.
    if flow.origin == Origin::Pod && quoted.dst != flow.packet.src {
        return Relation::None;
    }
    if let Some(entry) = conntrack::lookup(&quoted, Leg::Direct)
        && !entry.has(ct_flags::SERVICE)
    {
        if !entry.has(ct_flags::PROXY) {
            return match entry.has(ct_flags::REVOKED) {
                true => Relation::None,
                false => Relation::Flow,
            };
        }
        // What the proxy answered in the destination's name.
        if entry.is_reply(&quoted) {
            return Relation::Proxy;
        }
    }
    match conntrack::lookup(&quoted, Leg::Upstream) {
        Some(entry) if !entry.is_reply(&quoted) => Relation::Proxy,
        _ => Relation::None,
    }
}

/// Puts a service's address back into the packet that an error for the client
/// quotes: the client knows no backend.
#[inline(never)]
pub fn restore_service(skb: Skb, packet: &Packet) -> Result<(), DropReason> {
    let Ok(quoted) = quoted(skb, packet) else {
        return Ok(());
    };
    match conntrack::lookup(&quoted, Leg::Direct) {
        Some(entry) if translated(entry, &quoted) => rewrite_quoted(
            skb,
            packet,
            &quoted,
            End::Destination,
            (entry.xlate_addr(), entry.xlate_port()),
        ),
        _ => Ok(()),
    }
}

#[inline(always)]
fn translated(entry: Entry, quoted: &Packet) -> bool {
    entry.has(ct_flags::NAT) && !entry.has(ct_flags::HAIRPIN) && !entry.is_reply(quoted)
}

/// The start of the packet that an ICMP error quotes. The error must go back to
/// its sender.
#[inline(always)]
pub fn quoted(skb: Skb, packet: &Packet) -> Result<Packet, DropReason> {
    let mut quoted = *packet;
    quoted.parse_quoted(skb, packet.l4 + ICMP_LEN)?;
    match quoted.src == packet.dst {
        true => Ok(quoted),
        false => Err(DropReason::InvalidPacket),
    }
}

/// Replaces one end of a quoted packet.
///
/// The quoted header's own checksum is corrected, so the ICMP checksum, which
/// sums both, only sees the port change. A checksum of the quoted transport
/// header is left alone: whoever reads the error has no whole packet to check
/// it with.
#[inline(always)]
pub fn rewrite_quoted(
    skb: Skb,
    packet: &Packet,
    quoted: &Packet,
    end: End,
    (addr, port): (u32, u16),
) -> Result<(), DropReason> {
    let header = packet.l4 + ICMP_LEN;
    let (old_addr, old_port, addr_offset, port_offset) = match end {
        End::Source => (quoted.src, quoted.src_port, header + 12, quoted.l4),
        End::Destination => (quoted.dst, quoted.dst_port, header + 16, quoted.l4 + 2),
    };
    let port_offset = match quoted.protocol {
        protocol::TCP | protocol::UDP => port_offset,
        // The identifier of an echo.
        protocol::ICMP => quoted.l4 + 4,
        _ => return Ok(()),
    };
    skb.replace_l3_sum(header + 10, old_addr, addr)?;
    skb.store(addr_offset, &addr)?;
    skb.replace_l4_sum(packet.l4 + 2, u32::from(old_port), u32::from(port), 2)?;
    skb.store(port_offset, &port)
}
