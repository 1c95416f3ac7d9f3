//! What is known about the packet in hand; filled in as the program goes along.
#![forbid(unsafe_code)]

use aya_ebpf::bindings::TC_ACT_OK;
use weft_datapath_common::{Config, identity};

use crate::maps;
use crate::packet::Packet;
use crate::skb::Skb;

/// Where the packet comes from, or goes to.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Origin {
    /// A pod of this node.
    Pod = 0,
    /// The node's own stack: routed or made there.
    Stack,
    /// The underlay.
    Uplink,
    /// The overlay device.
    Overlay,
}

/// A packet and its circumstances. Blank it is all zeroes, and whole words.
#[repr(C, align(8))]
pub struct Flow {
    /// Its headers.
    pub packet: Packet,
    /// Identity of the sender, once [`Flow::identify`] was called.
    pub src_identity: u32,
    /// Identity of the receiver, likewise.
    pub dst_identity: u32,
    /// Endpoint that observes or is judged.
    pub endpoint: u32,
    /// Rule that decided.
    pub rule: u32,
    /// Interface.
    pub ifindex: u32,
    /// What the program returns unless the packet is dropped.
    pub verdict: i32,
    /// Address of the service that the packet was sent to, network order.
    pub service: u32,
    /// Its port, network order.
    pub service_port: u16,
    /// Port of the proxy that policy sends it to, host order.
    pub proxy_port: u16,
    /// Direction as `endpoint` sees it.
    pub direction: u8,
    /// Where the packet was caught.
    pub origin: Origin,
    /// Whether the identities are resolved.
    identified: bool,
    /// Whether the redirect comes from the destination's policy.
    pub proxied_by_ingress: bool,
    /// Whether the sender is a pod of another node.
    pub from_remote_pod: bool,
    /// Whether the receiver is a pod of another node.
    pub to_remote_pod: bool,
    /// Whether verdicts that allow go unreported: the flow is known.
    pub quiet: bool,
    /// Whether a pod reaches itself through a service.
    pub hairpin: bool,
    /// Whether what the proxy sends leaves with the node's address.
    pub masqueraded: bool,
}

impl Flow {
    /// Notes in a blank flow where its packet was caught.
    #[inline(always)]
    pub fn begin(&mut self, skb: Skb, direction: u8, origin: Origin) {
        self.ifindex = skb.ifindex();
        self.verdict = TC_ACT_OK;
        self.direction = direction;
        self.origin = origin;
    }

    /// Finds out who sends and who receives. Left to the moment it is needed:
    /// packets of known flows with nothing to report never pay for it.
    #[inline(always)]
    pub fn identify(&mut self, config: &Config) {
        if self.identified {
            return;
        }
        self.identified = true;
        let src = identity_of(config, self.packet.src);
        let dst = identity_of(config, self.packet.dst);
        (self.src_identity, self.dst_identity) = (src as u32, dst as u32);
        self.from_remote_pod = src & REMOTE_POD != 0;
        self.to_remote_pod = dst & REMOTE_POD != 0;
    }

    /// To be called when an address was replaced.
    #[inline(always)]
    pub fn forget_identities(&mut self) {
        self.identified = false;
    }

    /// Turns the packet into its answer; the identities change sides.
    #[inline(always)]
    pub fn swap(&mut self) {
        self.packet.swap();
        (self.src_identity, self.dst_identity) = (self.dst_identity, self.src_identity);
    }
}

/// Set beside an identity when the address is a pod of another node.
const REMOTE_POD: u64 = 1 << 32;

/// Identity in the low half, [`REMOTE_POD`] above. The longest prefix decides;
/// what nobody announced is outside the cluster.
#[inline(never)]
fn identity_of(config: &Config, addr: u32) -> u64 {
    if addr == config.node {
        return u64::from(identity::HOST);
    }
    if let Some(endpoint) = maps::endpoint_by_addr(addr) {
        return u64::from(endpoint.identity);
    }
    match maps::ipcache(addr) {
        Some(entry) if entry.node != 0 => u64::from(entry.identity) | REMOTE_POD,
        Some(entry) => u64::from(entry.identity),
        None => u64::from(identity::WORLD),
    }
}
