//! Uplink and overlay, ingress: what other nodes and the world send.
#![forbid(unsafe_code)]

use weft_datapath_common::{Config, DropReason, TracePoint, identity};

use crate::flow::{Flow, Origin};
use crate::masquerade::{self, Inward};
use crate::skb::{Skb, ethertype};
use crate::{Outcome, event, maps, steer};

/// Judges what is meant for this node's pods; the node's own traffic is none of
/// our business.
#[inline(always)]
pub fn handle(skb: Skb, config: &'static Config, flow: &mut Flow) -> Outcome {
    if skb.ethertype() != ethertype::IPV4 {
        return Ok(());
    }
    if let Err(reason) = flow.packet.parse(skb) {
        return match for_pods(config, flow.packet.dst) {
            true => Err(reason),
            false => Ok(()),
        };
    }
    if flow.origin == Origin::Uplink && flow.packet.dst == config.node {
        match masquerade::inward(skb, &mut flow.packet) {
            Inward::ToPod => {}
            Inward::ToNode => return Ok(()),
            Inward::Failed(reason) => return Err(reason),
        }
    }
    let Some(pod) = maps::endpoint_by_addr(flow.packet.dst) else {
        return match for_pods(config, flow.packet.dst) {
            true => not_a_pod(config, flow),
            false => Ok(()),
        };
    };
    flow.endpoint = pod.id;
    if flow.packet.src == config.node {
        return Err(DropReason::InvalidSourceIp);
    }
    let point = match flow.origin {
        Origin::Overlay => TracePoint::FromOverlay,
        _ => TracePoint::FromNetwork,
    };
    event::arrival(config, flow, point);
    steer::admit(skb, config, flow)
}

#[inline(always)]
fn for_pods(config: &Config, addr: u32) -> bool {
    addr & config.pod_mask == config.pod_net
}

/// An address among the pods' that no pod has: perhaps the node's own.
#[inline(always)]
fn not_a_pod(config: &Config, flow: &mut Flow) -> Outcome {
    flow.identify(config);
    match flow.dst_identity {
        identity::HOST => Ok(()),
        _ => Err(DropReason::NoEndpoint),
    }
}
