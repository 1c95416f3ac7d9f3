//! Reports to the agent.
#![forbid(unsafe_code)]

use weft_datapath_common::{
    Config, DropReason, EventKind, RawEvent, TracePoint, XlatePoint, action, config_flags,
    event_flags, protocol,
};

use crate::flow::Flow;
use crate::helpers;
use crate::skb::{ETH_LEN, Skb, ethertype};

/// `::ffff:0:0/96`, the third word of an IPv4 address in an IPv6 field.
const MAPPED: u32 = 0xffff_u32.to_be();

/// Offset of the source address in an IPv6 packet.
const IPV6_SRC: u32 = ETH_LEN + 8;

/// The packet was dropped.
#[inline(never)]
pub fn dropped(skb: Skb, config: &Config, flow: &mut Flow, reason: DropReason) {
    if skb.ethertype() == ethertype::IPV6 {
        dropped_ipv6(skb, flow, reason);
        return;
    }
    if flow.packet.src != 0 {
        flow.identify(config);
    }
    emit(flow, EventKind::Drop, reason.code(), action::DENY, 0);
}

/// The packet passed an observation point.
#[inline(always)]
pub fn trace(config: &Config, flow: &mut Flow, point: TracePoint, reply: bool) {
    flow.identify(config);
    emit(flow, EventKind::Trace, point.code(), 0, reply_flags(reply));
}

/// The packet came in; told only if every packet is to be reported.
#[inline(always)]
pub fn arrival(config: &Config, flow: &mut Flow, point: TracePoint) {
    if config.flags & config_flags::REPORT_ALL != 0 {
        flow.identify(config);
        emit(flow, EventKind::Trace, point.code(), 0, 0);
        flow.forget_identities();
    }
}

/// A policy was asked.
#[inline(always)]
pub fn policy_verdict(flow: &Flow, matched: u8, verdict: u8) {
    if flow.quiet && verdict != action::DENY {
        return;
    }
    emit(
        flow,
        EventKind::PolicyVerdict,
        matched,
        verdict,
        reply_flags(false),
    );
}

/// A service's address is translated.
#[inline(always)]
pub fn translation(config: &Config, flow: &mut Flow, point: XlatePoint) {
    flow.identify(config);
    emit(flow, EventKind::Translation, point.code(), 0, 0);
}

#[inline(always)]
fn reply_flags(reply: bool) -> u8 {
    if reply {
        event_flags::REPLY_KNOWN | event_flags::REPLY
    } else {
        event_flags::REPLY_KNOWN
    }
}

#[inline(never)]
fn emit(flow: &Flow, kind: EventKind, code: u8, action: u8, flags: u8) {
    let Some(mut entry) = crate::maps::reserve_event::<RawEvent>() else {
        return;
    };
    let packet = &flow.packet;
    let is_icmp = packet.protocol == protocol::ICMP;
    entry.write(RawEvent {
        time: helpers::time(),
        src: [0, 0, MAPPED, packet.src],
        dst: [0, 0, MAPPED, packet.dst],
        src_identity: flow.src_identity,
        dst_identity: flow.dst_identity,
        endpoint: flow.endpoint,
        rule: flow.rule,
        ifindex: flow.ifindex,
        service: flow.service,
        service_port: flow.service_port,
        src_port: packet.src_port,
        dst_port: packet.dst_port,
        proxy_port: flow.proxy_port,
        kind: kind as u8,
        code,
        action,
        direction: flow.direction,
        protocol: packet.protocol,
        tcp_flags: if is_icmp {
            packet.icmp_type
        } else {
            packet.tcp_flags
        },
        icmp_code: packet.icmp_code,
        flags,
    });
    entry.submit(0);
}

#[inline(always)]
fn dropped_ipv6(skb: Skb, flow: &Flow, reason: DropReason) {
    // Whatever of the header is missing stays zero: the event is owed all the
    // same.
    let addrs: [u32; 8] = skb.load(IPV6_SRC).unwrap_or([0; 8]);
    let next_header: u8 = skb.load(ETH_LEN + 6).unwrap_or(0);
    let Some(mut entry) = crate::maps::reserve_event::<RawEvent>() else {
        return;
    };
    entry.write(RawEvent {
        time: helpers::time(),
        src: [addrs[0], addrs[1], addrs[2], addrs[3]],
        dst: [addrs[4], addrs[5], addrs[6], addrs[7]],
        src_identity: flow.src_identity,
        dst_identity: flow.dst_identity,
        endpoint: flow.endpoint,
        rule: 0,
        ifindex: flow.ifindex,
        service: 0,
        service_port: 0,
        src_port: 0,
        dst_port: 0,
        proxy_port: 0,
        kind: EventKind::Drop as u8,
        code: reason.code(),
        action: action::DENY,
        direction: flow.direction,
        protocol: next_header,
        tcp_flags: 0,
        icmp_code: 0,
        flags: 0,
    });
    entry.submit(0);
}
