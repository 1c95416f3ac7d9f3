//! Weft's datapath: classifiers on both ends of a pod's veth, on the uplink and
//! on the overlay.
//!
//! | program | hook | job |
//! |---|---|---|
//! | `from_pod` | host veth, ingress | anti-spoofing, services, conntrack, policy of both ends, to the proxy or on |
//! | `to_pod` | host veth, egress | what the stack or the proxy delivers; puts a service's address back |
//! | `from_net` | uplink, ingress | undoes masquerading, conntrack, ingress policy, to the proxy or on |
//! | `to_net` | uplink, egress | masquerading, remembers the proxy's connections |
//! | `from_overlay`, `to_overlay` | overlay device | the same for encapsulated traffic |
//!
//! A packet's way through a program ends in a `tc` verdict or in a
//! [`DropReason`]; the drop is reported in one place, [`run`].
#![no_std]
#![no_main]

mod conntrack;
mod deliver;
mod event;
mod flow;
mod from_net;
mod from_pod;
mod helpers;
mod icmp;
mod ipv6;
mod maps;
mod masquerade;
mod nat;
mod packet;
mod policy;
mod proxy;
mod service;
mod skb;
mod steer;
mod to_net;
mod to_pod;

use aya_ebpf::bindings::TC_ACT_SHOT;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use weft_datapath_common::{Config, DropReason, direction};

use crate::flow::{Flow, Origin};
use crate::skb::Skb;

/// The packet goes on, as `Flow::verdict` says, or is dropped.
///
/// One byte, as everything that a function gives back that is not inlined, or
/// else one number or one pointer: in a larger result (`Result<u16, _>`) some
/// bytes may be left unwritten, and whether the verifier then accepts the
/// register hangs on how the compiler happens to fill it. A test of the loader
/// looks at every function of the object.
type Outcome = Result<(), DropReason>;

/// Packets that pods send.
#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    run(&ctx, direction::EGRESS, Origin::Pod, from_pod::handle)
}

/// Packets that pods receive.
#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    run(&ctx, direction::INGRESS, Origin::Stack, to_pod::handle)
}

/// Packets from the underlay.
#[classifier]
pub fn from_net(ctx: TcContext) -> i32 {
    run(&ctx, direction::INGRESS, Origin::Uplink, from_net::handle)
}

/// Packets to the underlay.
#[classifier]
pub fn to_net(ctx: TcContext) -> i32 {
    run(&ctx, direction::EGRESS, Origin::Uplink, to_net::handle)
}

/// Packets out of the overlay.
#[classifier]
pub fn from_overlay(ctx: TcContext) -> i32 {
    run(&ctx, direction::INGRESS, Origin::Overlay, from_net::handle)
}

/// Packets into the overlay.
#[classifier]
pub fn to_overlay(ctx: TcContext) -> i32 {
    run(&ctx, direction::EGRESS, Origin::Overlay, to_net::handle)
}

#[inline(always)]
fn run(
    ctx: &TcContext,
    direction: u8,
    origin: Origin,
    handle: impl Fn(Skb, &'static Config, &mut Flow) -> Outcome,
) -> i32 {
    let skb = Skb::new(ctx);
    // Written before any program is attached; without it nothing can be judged.
    let Some(config) = maps::config() else {
        return TC_ACT_SHOT;
    };
    let Some(flow) = maps::scratch() else {
        return TC_ACT_SHOT;
    };
    flow.begin(skb, direction, origin);
    match handle(skb, config, flow) {
        Ok(()) => flow.verdict,
        Err(reason) => {
            event::dropped(skb, config, flow, reason);
            TC_ACT_SHOT
        }
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

// The socket helpers are open to programs under the GPL only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
