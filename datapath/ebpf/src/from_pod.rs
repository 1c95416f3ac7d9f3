//! Host veth, ingress: what a pod sends.
#![forbid(unsafe_code)]

use weft_datapath_common::{Config, DropReason, EndpointEntry, Leg, TracePoint, ct_flags};

use crate::flow::Flow;
use crate::skb::{Skb, ethertype};
use crate::{Outcome, conntrack, event, ipv6, maps, service, steer};

/// Offset of the source MAC in a frame.
const SRC_MAC: u32 = 6;

/// Anti-spoofing, then services, then the common way.
#[inline(always)]
pub fn handle(skb: Skb, config: &'static Config, flow: &mut Flow) -> Outcome {
    let pod = maps::endpoint_by_ifindex(flow.ifindex).ok_or(DropReason::UnknownSender)?;
    flow.endpoint = pod.id;
    if skb.has_vlan() {
        return Err(DropReason::Vlan);
    }
    match skb.ethertype() {
        ethertype::IPV4 => {
            flow.packet.parse(skb)?;
            check_sender(skb, flow, pod)?;
            event::arrival(config, flow, TracePoint::FromEndpoint);
            ipv4(skb, config, flow)
        }
        ethertype::IPV6 => {
            flow.src_identity = pod.identity;
            ipv6::judge(skb, pod)
        }
        ethertype::ARP => Ok(()),
        _ => Err(DropReason::UnsupportedL2),
    }
}

#[inline(always)]
fn check_sender(skb: Skb, flow: &Flow, pod: &EndpointEntry) -> Result<(), DropReason> {
    let mac: [u8; 6] = skb.load(SRC_MAC)?;
    if mac != pod.mac {
        return Err(DropReason::InvalidSourceMac);
    }
    if flow.packet.src != pod.addr {
        return Err(DropReason::InvalidSourceIp);
    }
    Ok(())
}

#[inline(always)]
fn ipv4(skb: Skb, config: &Config, flow: &mut Flow) -> Outcome {
    let entry = conntrack::lookup(&flow.packet, Leg::Direct);
    if let Some(entry) = entry
        && !entry.has(ct_flags::SERVICE)
        && !flow.packet.opens()
    {
        return steer::known(skb, config, flow, entry);
    }
    let choice = service::choice_of(entry, flow);
    match service::translate(skb, config, flow, choice)? {
        0 => steer::admit(skb, config, flow),
        port => steer::to_balancer(skb, config, flow, port),
    }
}
