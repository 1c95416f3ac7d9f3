//! Uplink and overlay, egress: what leaves the node.
#![forbid(unsafe_code)]

use weft_datapath_common::{Config, DropReason, Leg, TracePoint, ct_flags, direction, protocol};

use crate::conntrack::{self, Entry};
use crate::flow::{Flow, Origin};
use crate::skb::{Skb, ethertype};
use crate::{Outcome, event, maps, masquerade, proxy, steer, to_pod};

/// Remembers the proxy's connections, masks pods' addresses towards the
/// outside, and keeps in what no program judged.
#[inline(always)]
pub fn handle(skb: Skb, config: &'static Config, flow: &mut Flow) -> Outcome {
    if skb.ethertype() != ethertype::IPV4 || skb.is_judged(config) {
        return Ok(());
    }
    let parsed = flow.packet.parse(skb);
    let packet = &flow.packet;
    if is_encapsulated(config, flow) {
        return Ok(());
    }
    let Some(pod) = maps::endpoint_by_addr(packet.src) else {
        return not_from_pod(skb, config, flow, parsed.is_ok());
    };
    parsed?;
    flow.endpoint = pod.id;
    if proxy::strayed(skb, config) {
        return Err(DropReason::ProxyAssignFailed);
    }
    let masqueraded = match conntrack::lookup(&flow.packet, Leg::Direct) {
        Some(entry) if !from_upstream(skb, config, flow, entry) => {
            // What the proxy answers in a pod's place no program has judged
            // yet.
            let reply = entry.is_reply(&flow.packet);
            steer::revalidate(config, flow, entry, reply)?;
            report(skb, config, flow, entry);
            entry.has(ct_flags::MASQUERADE)
        }
        _ if proxy::sent(skb, config) => {
            from_proxy(config, flow)?;
            flow.masqueraded
        }
        // Errors are judged by what they quote and have no flow of their own.
        _ if flow.packet.is_icmp_error() => return error(config, flow),
        // `from_pod` would have opened a flow: this came from elsewhere under a
        // pod's address.
        _ => return Err(DropReason::UnknownSender),
    };
    if flow.origin == Origin::Uplink && masqueraded {
        masquerade::outward(skb, config, &mut flow.packet)?;
    }
    Ok(())
}

/// Whether the packet is the proxy's own towards the destination, and not its
/// answer in the destination's place.
#[inline(always)]
fn from_upstream(skb: Skb, config: &Config, flow: &Flow, entry: Entry) -> bool {
    proxy::sent(skb, config) && !entry.is_reply(&flow.packet)
}

/// The overlay's outer packets: what they carry was seen on the overlay device.
#[inline(always)]
fn is_encapsulated(config: &Config, flow: &Flow) -> bool {
    config.overlay_port != 0
        && flow.packet.protocol == protocol::UDP
        && flow.packet.dst_port == config.overlay_port
        && flow.packet.src == config.node
}

/// The node's own traffic passes; the proxy's connections are remembered.
#[inline(always)]
fn not_from_pod(skb: Skb, config: &Config, flow: &mut Flow, parsed: bool) -> Outcome {
    if to_pod::unannounced(config, flow) {
        return Err(DropReason::UnknownSender);
    }
    if parsed && proxy::sent(skb, config) && flow.packet.src == config.node {
        from_proxy(config, flow)?;
    }
    Ok(())
}

#[inline(always)]
fn from_proxy(config: &Config, flow: &mut Flow) -> Outcome {
    let point = point(flow);
    steer::from_proxy(config, flow, Some(point))
}

#[inline(always)]
fn point(flow: &Flow) -> TracePoint {
    match flow.origin {
        Origin::Overlay => TracePoint::ToOverlay,
        _ => TracePoint::ToStack,
    }
}

/// Reports what `from_pod` did not: encapsulation, and what the proxy answers
/// in a pod's name.
#[inline(always)]
fn report(skb: Skb, config: &Config, flow: &mut Flow, entry: Entry) {
    if flow.origin != Origin::Overlay && !proxy::sent(skb, config) {
        return;
    }
    let reply = entry.is_reply(&flow.packet);
    if entry.take_news(config, &flow.packet, reply, conntrack::now()) {
        flow.rule = entry.rule();
        flow.direction = if reply {
            direction::INGRESS
        } else {
            direction::EGRESS
        };
        let point = point(flow);
        event::trace(config, flow, point, reply);
    }
}

/// An ICMP error by a pod: towards another pod it passes, to the outside it
/// would show the pod's address.
#[inline(always)]
fn error(config: &Config, flow: &mut Flow) -> Outcome {
    flow.identify(config);
    match flow.to_remote_pod {
        true => Ok(()),
        false => Err(DropReason::NatProtocol),
    }
}
