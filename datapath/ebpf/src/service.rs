//! Services: a client's packet to a virtual address goes to one of its
//! backends.
#![forbid(unsafe_code)]

use weft_datapath_common::{Config, DropReason, ServiceKey, ServiceValue, XlatePoint, ct_flags};

use crate::conntrack::{self, Entry};
use crate::flow::Flow;
use crate::nat::{self, End};
use crate::skb::Skb;
use crate::{Outcome, event, helpers, maps};

/// A SYN is sent again after 1, 3, 7, 15 seconds, counted from the first; each
/// time the choice's time starts anew.
const SYN_REPEATED_WITHIN: u64 = 20_000_000_000;

/// Translates a packet that is addressed to a service; leaves any other alone.
///
/// `choice` is the client's earlier choice of a backend, if it has one. Returns
/// the port of the proxy (host order) if that balances the service, else 0.
#[inline(always)]
pub fn translate(
    skb: Skb,
    config: &Config,
    flow: &mut Flow,
    choice: Option<Entry>,
) -> Result<u16, DropReason> {
    let now = conntrack::now();
    match choice {
        Some(choice) if !flow.packet.opens() => {
            choice.touch(now, &flow.packet);
            if choice.proxy_port() != 0 {
                return Ok(choice.proxy_port());
            }
            to_backend(
                skb,
                config,
                flow,
                (choice.xlate_addr(), choice.xlate_port()),
            )?;
            Ok(0)
        }
        _ => {
            choose(skb, config, flow, choice, now)?;
            Ok(flow.proxy_port)
        }
    }
}

/// Chooses a backend, or leaves the proxy's port in `flow` if that is to choose.
#[inline(never)]
fn choose(skb: Skb, config: &Config, flow: &mut Flow, choice: Option<Entry>, now: u64) -> Outcome {
    let packet = &flow.packet;
    let Some(service) = maps::service(ServiceKey {
        addr: packet.dst,
        port: packet.dst_port,
        protocol: u16::from(packet.protocol),
    }) else {
        // A port that the service does not have must not reach the world under
        // its address.
        return match is_service_addr(packet.dst) {
            true => Err(DropReason::NoBackend),
            false => Ok(()),
        };
    };
    if service.proxy_port != 0 {
        conntrack::insert_choice(packet, (0, 0), service.proxy_port, now)?;
        flow.proxy_port = service.proxy_port;
        return Ok(());
    }
    let backend = match choice {
        // A repeated SYN must meet the same backend, or two of them would
        // answer.
        Some(choice) if repeats(choice, now) => (choice.xlate_addr(), choice.xlate_port()),
        _ => pick(service)?,
    };
    conntrack::insert_choice(packet, backend, 0, now)?;
    event::translation(config, flow, XlatePoint::PreForward);
    to_backend(skb, config, flow, backend)?;
    event::translation(config, flow, XlatePoint::PostForward);
    Ok(())
}

/// Whether some service has this address.
#[inline(always)]
pub fn is_service_addr(addr: u32) -> bool {
    maps::service(ServiceKey {
        addr,
        port: 0,
        protocol: 0,
    })
    .is_some()
}

/// Whether a SYN is likely the choice's own, sent again, and not a new
/// connection from an old port.
#[inline(always)]
fn repeats(choice: Entry, now: u64) -> bool {
    choice.closing() == 0
        && choice.xlate_addr() != 0
        && now.wrapping_sub(choice.last_seen()) < SYN_REPEATED_WITHIN
}

#[inline(always)]
fn pick(service: &ServiceValue) -> Result<(u32, u16), DropReason> {
    if service.count == 0 {
        return Err(DropReason::NoBackend);
    }
    match maps::backend(service.first + helpers::random() % service.count) {
        Some(backend) => Ok((backend.addr, backend.port)),
        None => Err(DropReason::NoBackend),
    }
}

#[inline(never)]
fn to_backend(
    skb: Skb,
    config: &Config,
    flow: &mut Flow,
    (addr, port): (u32, u16),
) -> Result<(), DropReason> {
    (flow.service, flow.service_port) = (flow.packet.dst, flow.packet.dst_port);
    nat::rewrite(skb, &mut flow.packet, End::Destination, addr, port)?;
    if addr == flow.packet.src {
        // A pod takes no packet from its own address.
        flow.hairpin = true;
        let port = flow.packet.src_port;
        nat::rewrite(skb, &mut flow.packet, End::Source, config.hairpin, port)?;
    }
    flow.forget_identities();
    Ok(())
}

/// Puts the service's address back into an answer from its backend.
#[inline(never)]
pub fn restore(skb: Skb, config: &Config, flow: &mut Flow, entry: Entry) -> Result<(), DropReason> {
    (flow.service, flow.service_port) = (entry.xlate_addr(), entry.xlate_port());
    // Once per connection, when it is accepted and answers.
    if !entry.has(ct_flags::XLATE_REPORTED) && !flow.packet.accepts() {
        entry.set_flags(entry.flags() | ct_flags::XLATE_REPORTED);
        flow.identify(config);
        flow.swap();
        event::translation(config, flow, XlatePoint::PreReverse);
        flow.swap();
    }
    let pod = flow.packet.src;
    nat::rewrite(
        skb,
        &mut flow.packet,
        End::Source,
        entry.xlate_addr(),
        entry.xlate_port(),
    )?;
    if entry.has(ct_flags::HAIRPIN) {
        let port = flow.packet.dst_port;
        nat::rewrite(skb, &mut flow.packet, End::Destination, pod, port)?;
    }
    flow.forget_identities();
    Ok(())
}

/// The client's earlier choice for this packet's flow.
#[inline(always)]
pub fn choice_of(entry: Option<Entry>, flow: &Flow) -> Option<Entry> {
    match entry {
        Some(entry) if entry.has(ct_flags::SERVICE) && !entry.is_reply(&flow.packet) => Some(entry),
        _ => None,
    }
}
