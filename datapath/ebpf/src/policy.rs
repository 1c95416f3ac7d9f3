//! Asking the policy map.
#![forbid(unsafe_code)]

use weft_datapath_common::{
    CLOSED_PORT, DropReason, EndpointEntry, MatchType, PolicyKey, PolicyValue, action, direction,
    endpoint_flags, identity, policy_flags,
};

use crate::flow::Flow;
use crate::{event, maps};

// An answer travels in one register: rule (32 bits), proxy port (16), and in
// the low half-word the rank, built so that the greater of two answers is the
// one in force: deny, priority, bits matched, names the peer, found.
const RANK: u64 = 0xffff;
const DENY: u64 = 1 << 15;
const PRIORITY_SHIFT: u32 = 7;
const MATCHED_SHIFT: u32 = 2;
const NAMES_PEER: u64 = 1 << 1;
const FOUND: u64 = 1;

/// Judges a flow in the direction in which it was opened: the sender's egress
/// rules and the receiver's ingress rules, as far as the ends are pods of this
/// node.
///
/// Leaves rule, proxy port and endpoint in `flow`; each policy in force is
/// reported.
#[inline(never)]
pub fn judge(flow: &mut Flow) -> Result<(), DropReason> {
    flow.rule = 0;
    flow.proxy_port = 0;
    flow.proxied_by_ingress = false;
    let (endpoint, direction) = (flow.endpoint, flow.direction);
    if let Some(sender) = maps::endpoint_by_addr(flow.packet.src) {
        judge_side(flow, sender, direction::EGRESS)?;
    }
    if let Some(receiver) = maps::endpoint_by_addr(flow.packet.dst) {
        judge_side(flow, receiver, direction::INGRESS)?;
    }
    (flow.endpoint, flow.direction) = (endpoint, direction);
    Ok(())
}

#[inline(never)]
fn judge_side(flow: &mut Flow, subject: &EndpointEntry, side: u8) -> Result<(), DropReason> {
    let (peer, default_deny) = if side == direction::EGRESS {
        (flow.dst_identity, endpoint_flags::DEFAULT_DENY_EGRESS)
    } else {
        (flow.src_identity, endpoint_flags::DEFAULT_DENY_INGRESS)
    };
    (flow.endpoint, flow.direction) = (subject.id, side);
    let answer = lookup(PolicyKey {
        endpoint: subject.id,
        identity: peer,
        direction: side,
        protocol: flow.packet.protocol,
        port: flow.packet.policy_port(),
    });
    // The node reaches its pods unless a rule denies it that: kubelet's probes
    // have to, even with the proxy down.
    let from_host = side == direction::INGRESS && flow.src_identity == identity::HOST;
    if from_host && answer & DENY == 0 {
        return Ok(());
    }
    if answer & FOUND == 0 {
        if subject.flags & default_deny == 0 {
            return Ok(());
        }
        flow.rule = 0;
        event::policy_verdict(flow, MatchType::None.code(), action::DENY);
        return Err(DropReason::PolicyDenied);
    }
    apply(flow, answer, side)
}

/// Takes over the answer of an entry.
#[inline(always)]
fn apply(flow: &mut Flow, answer: u64, side: u8) -> Result<(), DropReason> {
    let matched = MatchType::of(
        ((answer >> MATCHED_SHIFT) & 31) as u8,
        answer & NAMES_PEER != 0,
    );
    let rule = (answer >> 32) as u32;
    let proxy_port = (answer >> 16) as u16;
    // What the sender's rules decided stands, unless the receiver's say more.
    let (egress_rule, egress_port) = (flow.rule, flow.proxy_port);
    (flow.rule, flow.proxy_port) = (rule, proxy_port);
    if answer & DENY != 0 {
        flow.proxy_port = 0;
        event::policy_verdict(flow, matched.code(), action::DENY);
        return Err(DropReason::PolicyDeny);
    }
    let verdict = if proxy_port != 0 {
        action::REDIRECT
    } else {
        action::ALLOW
    };
    // Rule 0 stands for "no policy in this direction": nothing was asked.
    if rule != 0 {
        event::policy_verdict(flow, matched.code(), verdict);
    }
    // Not even what the other side's rules send to the proxy, which would judge
    // it by those alone, nor what the proxy holds already.
    if proxy_port == CLOSED_PORT {
        return Err(DropReason::ProxyNotListening);
    }
    if egress_port != 0 {
        (flow.rule, flow.proxy_port) = (egress_rule, egress_port);
    } else if proxy_port != 0 {
        flow.proxied_by_ingress = side == direction::INGRESS;
    }
    Ok(())
}

/// The answer in force of the two lookups: for the peer's identity, and for any
/// peer.
#[inline(always)]
fn lookup(mut key: PolicyKey) -> u64 {
    let named = maps::policy(key).map_or(0, encode);
    let named = if named == 0 { 0 } else { named | NAMES_PEER };
    key.identity = 0;
    let any = maps::policy(key).map_or(0, encode);
    if any & RANK > named & RANK {
        any
    } else {
        named
    }
}

#[inline(always)]
fn encode(value: &PolicyValue) -> u64 {
    let deny = if value.flags & policy_flags::DENY != 0 {
        DENY
    } else {
        0
    };
    u64::from(value.rule) << 32
        | u64::from(value.proxy_port) << 16
        | deny
        | u64::from(value.priority) << PRIORITY_SHIFT
        | u64::from(value.matched & 31) << MATCHED_SHIFT
        | FOUND
}
