//! The last step: into a pod of this node, or on to the stack.
#![forbid(unsafe_code)]

use weft_datapath_common::{
    Config, DropReason, EndpointEntry, TracePoint, config_flags, ct_flags, direction, identity,
};

use crate::conntrack::Entry;
use crate::flow::{Flow, Origin};
use crate::skb::Skb;
use crate::{Outcome, event, helpers, icmp, maps, service};

/// Sends an admitted packet on.
#[inline(always)]
pub fn onward(
    skb: Skb,
    config: &Config,
    flow: &mut Flow,
    entry: Entry,
    reply: bool,
    now: u64,
) -> Outcome {
    if reply && entry.has(ct_flags::HAIRPIN) {
        service::restore(skb, config, flow, entry)?;
        return match maps::endpoint_by_addr(flow.packet.dst) {
            Some(pod) if config.flags & config_flags::REDIRECT_PEER != 0 => into(skb, flow, pod),
            _ => Ok(()),
        };
    }
    match maps::endpoint_by_addr(flow.packet.dst) {
        Some(pod) => to_pod(skb, config, flow, entry, pod, reply, now),
        None => to_stack(skb, config, flow, entry, reply, now),
    }
}

#[inline(always)]
fn to_pod(
    skb: Skb,
    config: &Config,
    flow: &mut Flow,
    entry: Entry,
    pod: &EndpointEntry,
    reply: bool,
    now: u64,
) -> Outcome {
    if config.flags & config_flags::REDIRECT_PEER == 0 {
        // The stack takes it to the pod's veth, where `to_pod` finishes.
        return Ok(());
    }
    finish(skb, config, flow, entry, pod, reply, now)?;
    into(skb, flow, pod)
}

/// What has to happen to a packet right before it enters the pod.
#[inline(always)]
pub fn finish(
    skb: Skb,
    config: &Config,
    flow: &mut Flow,
    entry: Entry,
    pod: &EndpointEntry,
    reply: bool,
    now: u64,
) -> Outcome {
    if entry.take_news(config, &flow.packet, reply, now) {
        flow.endpoint = pod.id;
        // Directions are those of the connection: an answer belongs to what the
        // pod began.
        flow.direction = if reply {
            direction::EGRESS
        } else {
            direction::INGRESS
        };
        flow.rule = entry.rule();
        event::trace(config, flow, TracePoint::ToEndpoint, reply);
    }
    if reply && entry.has(ct_flags::NAT) {
        service::restore(skb, config, flow, entry)?;
    }
    Ok(())
}

#[inline(always)]
fn to_stack(
    skb: Skb,
    config: &Config,
    flow: &mut Flow,
    entry: Entry,
    reply: bool,
    now: u64,
) -> Outcome {
    if lost_its_pod(config, flow) {
        return Err(DropReason::NoEndpoint);
    }
    if flow.origin != Origin::Pod {
        return Ok(());
    }
    // Peeked at first: who the receiver is costs a lookup.
    if !entry.has_news(config, &flow.packet, reply, now) {
        if !entry.has(ct_flags::MASQUERADE) {
            skb.mark_judged(config);
        }
    } else {
        flow.identify(config);
        // What goes into the overlay is reported there.
        let overlay = config.flags & config_flags::OVERLAY != 0 && flow.to_remote_pod;
        if !overlay && entry.take_news(config, &flow.packet, reply, now) {
            flow.rule = entry.rule();
            flow.direction = if reply {
                direction::INGRESS
            } else {
                direction::EGRESS
            };
            let point = match flow.dst_identity {
                identity::HOST => TracePoint::ToHost,
                _ => TracePoint::ToStack,
            };
            event::trace(config, flow, point, reply);
        }
    }
    Ok(())
}

/// Whether the packet is for a pod that is gone. The stack would take it to
/// whoever gets the address next, perhaps before the programs are on its veth.
#[inline(always)]
fn lost_its_pod(config: &Config, flow: &mut Flow) -> bool {
    flow.packet.dst & config.pod_mask == config.pod_net && {
        flow.identify(config);
        flow.dst_identity != identity::HOST
    }
}

/// Sends on an ICMP error about a known flow.
#[inline(never)]
pub fn error(skb: Skb, config: &Config, flow: &mut Flow) -> Outcome {
    match maps::endpoint_by_addr(flow.packet.dst) {
        Some(pod) if config.flags & config_flags::REDIRECT_PEER != 0 => {
            icmp::restore_service(skb, &flow.packet)?;
            into(skb, flow, pod)
        }
        Some(_) => Ok(()),
        None if lost_its_pod(config, flow) => Err(DropReason::NoEndpoint),
        None => Ok(()),
    }
}

/// Puts the packet into the pod's end of the veth, past the stack and its own
/// queue.
#[inline(always)]
fn into(skb: Skb, flow: &mut Flow, pod: &EndpointEntry) -> Outcome {
    let macs = [pod.mac, pod.host_mac];
    skb.store(0, &macs)?;
    flow.verdict = helpers::redirect_peer(pod.ifindex);
    Ok(())
}
