//! Host veth, egress: what the stack or the proxy delivers to a pod.
#![forbid(unsafe_code)]

use weft_datapath_common::{
    Config, DropReason, EndpointEntry, Leg, TracePoint, ct_flags, direction, identity,
};

use crate::conntrack::Entry;
use crate::flow::Flow;
use crate::icmp::{self, Relation};
use crate::skb::{Skb, ethertype};
use crate::{Outcome, conntrack, deliver, event, ipv6, maps, policy, proxy, steer};

/// Admits what was judged on its way in, what the proxy decided and what the
/// node itself sends; judges everything else.
#[inline(always)]
pub fn handle(skb: Skb, config: &'static Config, flow: &mut Flow) -> Outcome {
    let pod = maps::endpoint_by_ifindex(flow.ifindex).ok_or(DropReason::NoEndpoint)?;
    flow.endpoint = pod.id;
    match skb.ethertype() {
        ethertype::IPV4 => {
            flow.packet.parse(skb)?;
            ipv4(skb, config, flow, pod)
        }
        ethertype::IPV6 => {
            flow.dst_identity = pod.identity;
            ipv6::judge(skb, pod)
        }
        ethertype::ARP => Ok(()),
        _ => Err(DropReason::UnsupportedL2),
    }
}

#[inline(always)]
fn ipv4(skb: Skb, config: &Config, flow: &mut Flow, pod: &EndpointEntry) -> Outcome {
    if flow.packet.dst != pod.addr {
        return Err(DropReason::NoEndpoint);
    }
    // Meant for the proxy, but routed on: the rule that takes it there is
    // missing.
    if proxy::strayed(skb, config) {
        return Err(DropReason::ProxyAssignFailed);
    }
    if unannounced(config, flow) {
        return Err(DropReason::UnknownSender);
    }
    let from_proxy = proxy::sent(skb, config);
    if let Some(entry) = conntrack::lookup(&flow.packet, Leg::Direct) {
        if entry.is_reply(&flow.packet) {
            return answer(skb, config, flow, entry, pod);
        }
        if !from_proxy && !entry.has(ct_flags::SERVICE) {
            return admitted(skb, config, flow, entry, pod);
        }
    }
    if from_proxy {
        return steer::from_proxy(config, flow, None);
    }
    first(skb, config, flow, pod)
}

/// A pod of this node that the agent has not announced, so that `from_pod`
/// never saw its packet.
#[inline(always)]
pub fn unannounced(config: &Config, flow: &Flow) -> bool {
    let src = flow.packet.src;
    src & config.pod_mask == config.pod_net && maps::endpoint_by_addr(src).is_none() && {
        match maps::ipcache(src) {
            Some(entry) => entry.identity != identity::HOST,
            None => true,
        }
    }
}

/// An answer to what the pod began, from the other end or from the proxy in its
/// place.
#[inline(always)]
fn answer(
    skb: Skb,
    config: &Config,
    flow: &mut Flow,
    entry: Entry,
    pod: &EndpointEntry,
) -> Outcome {
    let now = conntrack::now();
    if entry.has(ct_flags::SERVICE) {
        // A service that the proxy balances, or a pod's answer to itself:
        // translated already.
        entry.touch(now, &flow.packet);
        return Ok(());
    }
    steer::revalidate(config, flow, entry, true)?;
    entry.touch(now, &flow.packet);
    deliver::finish(skb, config, flow, entry, pod, true, now)
}

/// A packet that was judged a moment ago, where it came in.
#[inline(always)]
fn admitted(
    skb: Skb,
    config: &Config,
    flow: &mut Flow,
    entry: Entry,
    pod: &EndpointEntry,
) -> Outcome {
    steer::revalidate(config, flow, entry, false)?;
    if entry.has(ct_flags::PROXY) {
        // Only the proxy may speak to the destination now.
        return Err(DropReason::ProxyAssignFailed);
    }
    let now = conntrack::now();
    entry.touch(now, &flow.packet);
    deliver::finish(skb, config, flow, entry, pod, false, now)
}

/// The first packet of a flow that did not come in through one of our programs:
/// the node's own, or from an interface that is not ours.
#[inline(never)]
fn first(skb: Skb, config: &Config, flow: &mut Flow, pod: &EndpointEntry) -> Outcome {
    if flow.packet.is_icmp_error() && icmp::relate(skb, flow) == Relation::Flow {
        icmp::restore_service(skb, &flow.packet)?;
        return Ok(());
    }
    flow.identify(config);
    policy::judge(flow)?;
    if flow.proxy_port != 0 {
        // On egress there is no socket to give it to.
        return Err(DropReason::ProxyAssignFailed);
    }
    let now = conntrack::now();
    let entry = conntrack::open(flow, Leg::Direct, 0, now)?;
    if entry.take_news(config, &flow.packet, false, now) {
        (flow.endpoint, flow.direction) = (pod.id, direction::INGRESS);
        event::trace(config, flow, TracePoint::ToEndpoint, false);
    }
    Ok(())
}
