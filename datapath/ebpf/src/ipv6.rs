//! IPv6: a pod under policy gets as much as its stack needs to come up, and
//! nothing else.
#![forbid(unsafe_code)]

use weft_datapath_common::{DropReason, EndpointEntry, endpoint_flags, protocol};

use crate::Outcome;
use crate::skb::{ETH_LEN, Skb};

const HEADER_LEN: u32 = 40;
const HOP_BY_HOP: u8 = 0;

/// Hop limit of neighbour discovery: a router would have lowered it.
const NEVER_ROUTED: u8 = 255;

// ICMPv6 types.
const MLD_QUERY: u8 = 130;
const MLD_DONE: u8 = 132;
const ROUTER_SOLICITATION: u8 = 133;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
const MLD_V2_REPORT: u8 = 143;

#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv6Header {
    _version: u32,
    _payload_len: u16,
    next_header: u8,
    hop_limit: u8,
    _src: [u32; 4],
    dst: [u32; 4],
}

/// Lets neighbour discovery, duplicate address detection and the group
/// memberships they need pass; drops the rest if any policy has a say about the
/// pod, be it only a denial or an HTTP rule without default deny: the maps know
/// no IPv6.
#[inline(always)]
pub fn judge(skb: Skb, pod: &EndpointEntry) -> Outcome {
    // The flags of default deny alone are what an older agent left.
    let policed = endpoint_flags::POLICED
        | endpoint_flags::DEFAULT_DENY_INGRESS
        | endpoint_flags::DEFAULT_DENY_EGRESS;
    if pod.flags & policed == 0 || is_link_upkeep(skb)? {
        Ok(())
    } else {
        Err(DropReason::UnsupportedL3)
    }
}

#[inline(always)]
fn is_link_upkeep(skb: Skb) -> Result<bool, DropReason> {
    let header: Ipv6Header = skb.load(ETH_LEN)?;
    let start = ETH_LEN + HEADER_LEN;
    match header.next_header {
        protocol::ICMPV6 => {
            let kind: u8 = skb.load(start)?;
            let discovery = matches!(kind, ROUTER_SOLICITATION..=NEIGHBOR_ADVERTISEMENT);
            Ok(discovery && header.hop_limit == NEVER_ROUTED && stays_on_link(&header.dst))
        }
        HOP_BY_HOP => {
            // A router alert (8 bytes), then a multicast listener message.
            let option: [u8; 2] = skb.load(start)?;
            let kind: u8 = skb.load(start + 8)?;
            let listener = matches!(kind, MLD_QUERY..=MLD_DONE | MLD_V2_REPORT);
            Ok(option == [protocol::ICMPV6, 0] && listener && stays_on_link(&header.dst))
        }
        _ => Ok(false),
    }
}

/// Link-local unicast, or multicast of link scope: the node never forwards
/// these.
#[inline(always)]
fn stays_on_link(addr: &[u32; 4]) -> bool {
    let first = u32::from_be(addr[0]);
    first >> 22 == 0xfe80 >> 6 || first >> 16 == 0xff02
}
