//! The way of a packet that came in, from a pod or from the network.
#![forbid(unsafe_code)]

use weft_datapath_common::{
    Config, DropReason, Leg, TracePoint, config_flags, ct_flags, direction, identity, protocol,
};

use crate::conntrack::{self, Entry};
use crate::flow::{Flow, Origin};
use crate::icmp::{self, Relation};
use crate::skb::Skb;
use crate::{Outcome, deliver, event, maps, policy, proxy, service};

/// Judges and forwards a packet that is on its way to its destination.
#[inline(always)]
pub fn admit(skb: Skb, config: &Config, flow: &mut Flow) -> Outcome {
    if !flow.packet.opens() {
        if let Some(entry) = conntrack::lookup(&flow.packet, Leg::Direct)
            && !entry.has(ct_flags::SERVICE)
        {
            return known(skb, config, flow, entry);
        }
        if answers_proxy(skb, config, flow) {
            return Ok(());
        }
        if flow.packet.is_icmp_error() {
            match icmp::relate(skb, flow) {
                Relation::Flow => return deliver::error(skb, config, flow),
                Relation::Proxy => {
                    proxy::mark(skb, config);
                    return Ok(());
                }
                Relation::None => {}
            }
        }
    }
    open(skb, config, flow)
}

/// A packet of a flow that was judged before.
#[inline(never)]
pub fn known(skb: Skb, config: &Config, flow: &mut Flow, entry: Entry) -> Outcome {
    let reply = entry.is_reply(&flow.packet);
    revalidate(config, flow, entry, reply)?;
    if entry.has(ct_flags::CUT) {
        return cut(skb, config, flow, entry, reply);
    }
    if reply && entry.has(ct_flags::PROXY) {
        // The pod's answers come from the proxy. What comes from the real
        // destination answers the proxy's own connection.
        return match answers_proxy(skb, config, flow) {
            true => Ok(()),
            false => Err(DropReason::UnknownConnection),
        };
    }
    if !reply && flow.origin == Origin::Pod {
        // One socket may ask a server both directly and through services: the
        // answer goes out under the name that was asked last.
        entry.answer_as(flow.service, flow.service_port);
    }
    let now = conntrack::now();
    entry.touch(now, &flow.packet);
    if entry.has(ct_flags::PROXY) {
        return to_proxy(skb, config, flow, entry, now);
    }
    deliver::onward(skb, config, flow, entry, reply, now)
}

/// Makes sure that the policies now in force allow the flow.
#[inline(always)]
pub fn revalidate(
    config: &Config,
    flow: &mut Flow,
    entry: Entry,
    reply: bool,
) -> Result<(), DropReason> {
    if entry.epoch() != maps::epoch() {
        judge_again(config, flow, entry, reply)?;
    }
    if entry.has(ct_flags::REVOKED) {
        flow.rule = entry.rule();
        return Err(DropReason::PolicyDenied);
    }
    Ok(())
}

#[inline(never)]
fn judge_again(
    config: &Config,
    flow: &mut Flow,
    entry: Entry,
    reply: bool,
) -> Result<(), DropReason> {
    let epoch = maps::epoch();
    if entry.has(ct_flags::HAIRPIN) {
        entry.set_epoch(epoch);
        return Ok(());
    }
    flow.identify(config);
    flow.quiet = true;
    if reply {
        flow.swap();
    }
    let verdict = policy::judge(flow);
    if reply {
        flow.swap();
    }
    entry.set_rule(flow.rule);
    let mut flags = entry.flags() & !ct_flags::REVOKED;
    if verdict.is_err() {
        // The entry stays: without it the other end's next packet would pass
        // for the first of a new flow, judged by other rules.
        flags |= ct_flags::REVOKED;
    } else if flow.proxy_port != 0 {
        if flags & ct_flags::PROXY == 0 {
            flags |= redirected(flow);
            // No way round L7 rules for what began before them.
            if flow.packet.protocol == protocol::TCP {
                flags |= ct_flags::CUT;
            }
        }
        entry.set_proxy_port(flow.proxy_port);
    } else if flags & ct_flags::CUT != 0 {
        // The proxy never had it, and nobody wants it there any more.
        flags &= !(ct_flags::CUT | ct_flags::PROXY | ct_flags::PROXY_INGRESS);
    }
    entry.set_flags(flags);
    entry.set_epoch(epoch);
    verdict
}

/// The first packet of a flow, or one of a flow that the table lost.
#[inline(never)]
fn open(skb: Skb, config: &Config, flow: &mut Flow) -> Outcome {
    flow.identify(config);
    check_ends(config, flow)?;
    if !flow.hairpin {
        policy::judge(flow)?;
    }
    let now = conntrack::now();
    let entry = conntrack::open(flow, Leg::Direct, flags_of(skb, config, flow), now)?;
    if entry.has(ct_flags::CUT) {
        return cut(skb, config, flow, entry, false);
    }
    if entry.has(ct_flags::PROXY) {
        return to_proxy(skb, config, flow, entry, now);
    }
    deliver::onward(skb, config, flow, entry, false, now)
}

#[inline(always)]
fn flags_of(skb: Skb, config: &Config, flow: &Flow) -> u32 {
    let mut flags = 0;
    if flow.service != 0 {
        flags |= ct_flags::NAT;
    }
    if flow.hairpin {
        flags |= ct_flags::HAIRPIN;
    }
    let goes_on = flow.packet.protocol == protocol::TCP && !flow.packet.opens();
    if flow.proxy_port != 0 {
        flags |= redirected(flow);
        if goes_on && !proxy::held(skb, &flow.packet) {
            flags |= ct_flags::CUT;
        }
    } else if goes_on && proxy::holds(skb, &flow.packet) {
        // The table lost a proxied flow, the proxy did not.
        flags |= ct_flags::PROXY;
    }
    if config.flags & config_flags::MASQUERADE != 0
        && flow.origin == Origin::Pod
        && !flow.to_remote_pod
    {
        flags |= ct_flags::MASQUERADE;
    }
    flags
}

/// Flags of a flow that policy sends to the proxy.
#[inline(always)]
fn redirected(flow: &Flow) -> u32 {
    match flow.proxied_by_ingress {
        true => ct_flags::PROXY | ct_flags::PROXY_INGRESS,
        false => ct_flags::PROXY,
    }
}

/// Ends a connection that L7 rules came to concern while it was open: its
/// packets are dropped, in the name of the rule that wants the proxy, and
/// whoever sends one is told by a reset, as long as the proxy listens.
#[inline(never)]
fn cut(skb: Skb, config: &Config, flow: &mut Flow, entry: Entry, reply: bool) -> Outcome {
    flow.rule = entry.rule();
    let by_ingress = entry.has(ct_flags::PROXY_INGRESS);
    // Whose policy it is, whoever sends this packet.
    let subject = match by_ingress == reply {
        true => flow.packet.src,
        false => flow.packet.dst,
    };
    if let Some(subject) = maps::endpoint_by_addr(subject) {
        flow.endpoint = subject.id;
        flow.direction = match by_ingress {
            true => direction::INGRESS,
            false => direction::EGRESS,
        };
    }
    if proxy::refuse(skb, config, entry.proxy_port()).is_err() {
        return Err(DropReason::PolicyDenied);
    }
    event::dropped(skb, config, flow, DropReason::PolicyDenied);
    Ok(())
}

/// Refuses flows between ends that cannot be what they claim.
#[inline(always)]
fn check_ends(config: &Config, flow: &Flow) -> Result<(), DropReason> {
    let packet = &flow.packet;
    if packet.dst & config.pod_mask == config.pod_net
        && flow.dst_identity != identity::HOST
        && maps::endpoint_by_addr(packet.dst).is_none()
    {
        return Err(DropReason::NoEndpoint);
    }
    match flow.origin {
        Origin::Pod => {
            // The peer would take the packet for one of the overlay's, from
            // whichever pod the sender likes. A node has more addresses than
            // the agent knows: only pods are none of its own.
            let to_pod = flow.to_remote_pod || maps::endpoint_by_addr(packet.dst).is_some();
            if !to_pod
                && packet.protocol == protocol::UDP
                && config.overlay_port != 0
                && packet.dst_port == config.overlay_port
            {
                return Err(DropReason::Encapsulation);
            }
        }
        Origin::Uplink | Origin::Overlay => {
            let around_overlay = flow.origin == Origin::Uplink
                && config.flags & config_flags::OVERLAY != 0
                && flow.from_remote_pod;
            if around_overlay
                || flow.src_identity == identity::HOST
                || maps::endpoint_by_addr(packet.src).is_some()
                || service::is_service_addr(packet.src)
            {
                return Err(DropReason::InvalidSourceIp);
            }
        }
        Origin::Stack => {}
    }
    Ok(())
}

#[inline(never)]
fn to_proxy(skb: Skb, config: &Config, flow: &mut Flow, entry: Entry, now: u64) -> Outcome {
    flow.proxy_port = entry.proxy_port();
    flow.rule = entry.rule();
    proxy::hand_over(skb, config, &flow.packet, flow.proxy_port)?;
    if entry.take_news(config, &flow.packet, false, now) {
        if entry.has(ct_flags::PROXY_INGRESS)
            && let Some(receiver) = maps::endpoint_by_addr(flow.packet.dst)
        {
            (flow.endpoint, flow.direction) = (receiver.id, direction::INGRESS);
        }
        event::trace(config, flow, TracePoint::ToProxy, false);
    }
    Ok(())
}

/// A packet to a service that the proxy balances.
#[inline(never)]
pub fn to_balancer(skb: Skb, config: &Config, flow: &mut Flow, port: u16) -> Outcome {
    flow.proxy_port = port;
    proxy::hand_over(skb, config, &flow.packet, port)?;
    if let Some(entry) = conntrack::lookup(&flow.packet, Leg::Direct)
        && entry.take_news(config, &flow.packet, false, conntrack::now())
    {
        event::trace(config, flow, TracePoint::ToProxy, false);
    }
    Ok(())
}

/// Gives the packet to the proxy if it answers one of the proxy's own
/// connections.
#[inline(never)]
fn answers_proxy(skb: Skb, config: &Config, flow: &mut Flow) -> bool {
    let packet = &flow.packet;
    let now = conntrack::now();
    let entry = match conntrack::lookup(packet, Leg::Upstream) {
        Some(entry) if entry.is_reply(packet) => entry,
        Some(_) => return false,
        None => match recover(skb, config, flow, now) {
            Some(entry) => entry,
            None => return false,
        },
    };
    if !proxy::takes_answer(skb, &flow.packet) {
        conntrack::remove(&flow.packet, Leg::Upstream);
        return false;
    }
    proxy::mark(skb, config);
    entry.touch(now, &flow.packet);
    if entry.take_news(config, &flow.packet, true, now) {
        event::trace(config, flow, TracePoint::ToProxy, true);
    }
    true
}

/// The table lost the proxy's connection: its local port tells it from what
/// pods do.
#[inline(always)]
fn recover(skb: Skb, config: &Config, flow: &mut Flow, now: u64) -> Option<Entry> {
    let port = u16::from_be(flow.packet.dst_port);
    if flow.packet.protocol != protocol::TCP
        || flow.packet.accepts()
        || port < config.upstream_first
        || port > config.upstream_last
        || !proxy::holds(skb, &flow.packet)
    {
        return None;
    }
    flow.packet.swap();
    let entry = conntrack::open(flow, Leg::Upstream, 0, now);
    flow.packet.swap();
    entry.ok()
}

/// Remembers a packet of a connection that the proxy opened, so that the
/// answers find it.
///
/// `point` is where it leaves the node. Delivery to a pod of this node has
/// none: the request was seen on its way to the proxy, and its record says that
/// it arrived. Leaves in `flow` whether it gets the node's address.
#[inline(never)]
pub fn from_proxy(config: &Config, flow: &mut Flow, point: Option<TracePoint>) -> Outcome {
    let now = conntrack::now();
    let packet = &flow.packet;
    let entry = match conntrack::lookup(packet, Leg::Upstream) {
        Some(entry) if !packet.opens() => entry,
        _ => {
            // An older connection of the pod's own with the same ports would
            // steal the answers.
            if let Some(direct) = conntrack::lookup(packet, Leg::Direct)
                && !direct.has(ct_flags::PROXY)
                && !direct.has(ct_flags::SERVICE)
            {
                conntrack::remove(packet, Leg::Direct);
            }
            flow.identify(config);
            let flags = match flow.to_remote_pod {
                true => 0,
                false => config.flags & config_flags::MASQUERADE,
            };
            let flags = if flags != 0 { ct_flags::MASQUERADE } else { 0 };
            conntrack::open(flow, Leg::Upstream, flags, now)?
        }
    };
    entry.touch(now, &flow.packet);
    if let Some(point) = point
        && entry.take_news(config, &flow.packet, false, now)
    {
        event::trace(config, flow, point, false);
    }
    flow.masqueraded = entry.has(ct_flags::MASQUERADE);
    Ok(())
}
