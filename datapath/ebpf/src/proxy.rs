//! Handing packets to the node's proxy.

use core::mem;

use aya_ebpf::bindings::{
    BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as Ipv4Tuple,
};
use aya_ebpf::helpers::generated::{
    bpf_sk_assign, bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp,
};
use weft_datapath_common::{Config, DropReason, protocol};

use crate::Outcome;
use crate::packet::Packet;
use crate::skb::Skb;

// Socket states, from the kernel's `BPF_TCP_*`.
const NO_SOCKET: u32 = 0;
const SYN_SENT: u32 = 2;
const TIME_WAIT: u32 = 6;
const LISTEN: u32 = 10;

/// Whether the proxy sent the packet.
#[inline(always)]
pub fn sent(skb: Skb, config: &Config) -> bool {
    skb.mark() & config.mark_mask == config.mark_from_proxy
}

/// Whether the packet was marked for the proxy and should be nowhere else.
#[inline(always)]
pub fn strayed(skb: Skb, config: &Config) -> bool {
    skb.mark() & config.mark_mask == config.mark_to_proxy
}

/// Has the packet routed to the proxy's sockets instead of its destination.
#[inline(always)]
pub fn mark(skb: Skb, config: &Config) {
    skb.set_mark(config.mark_mask, config.mark_to_proxy);
}

/// Gives the packet to the connection it belongs to, or to the listener on
/// `port` (host order).
///
/// Fails closed: without a socket the packet is dropped.
#[inline(always)]
pub fn hand_over(skb: Skb, config: &Config, packet: &Packet, port: u16) -> Outcome {
    mark(skb, config);
    match packet.protocol {
        protocol::TCP => hand_over_tcp(skb, config, packet, port),
        protocol::UDP => hand_over_udp(skb, config, port),
        _ => Err(DropReason::ProxyProtocol),
    }
}

#[inline(never)]
fn hand_over_tcp(skb: Skb, config: &Config, packet: &Packet, port: u16) -> Outcome {
    // SAFETY: a socket that was looked up is checked for null and released on
    // every path.
    unsafe {
        let socket = lookup_tcp(
            skb,
            (packet.src, packet.src_port),
            (packet.dst, packet.dst_port),
        );
        if !socket.is_null() {
            let state = (*socket).state;
            // A listener found this way is some server of the node's, not the
            // proxy's. A finished connection cannot be assigned: the stack
            // finds it by itself, unless a new one opens.
            if state == TIME_WAIT && !packet.opens() {
                bpf_sk_release(socket.cast());
                return Ok(());
            }
            if state != LISTEN && state != TIME_WAIT {
                return assign(skb, socket);
            }
            bpf_sk_release(socket.cast());
        }
    }
    to_listener(skb, config, port)
}

/// Has the stack answer a packet of a connection that the proxy never had: with
/// a reset, in the name of the packet's receiver. The listener on `port` (host
/// order) is the one to say so: it takes SYNs for any address and refuses
/// everything else.
#[inline(never)]
pub fn refuse(skb: Skb, config: &Config, port: u16) -> Outcome {
    mark(skb, config);
    to_listener(skb, config, port)
}

#[inline(always)]
fn to_listener(skb: Skb, config: &Config, port: u16) -> Outcome {
    // SAFETY: as in `hand_over_tcp`.
    unsafe {
        let socket = lookup_tcp(skb, (0, 0), (config.listener, port.to_be()));
        if socket.is_null() {
            return Err(DropReason::ProxyNotListening);
        }
        if (*socket).state != LISTEN {
            bpf_sk_release(socket.cast());
            return Err(DropReason::ProxyNotListening);
        }
        assign(skb, socket)
    }
}

#[inline(never)]
fn hand_over_udp(skb: Skb, config: &Config, port: u16) -> Outcome {
    // SAFETY: as in `hand_over_tcp`.
    unsafe {
        let socket = lookup_udp(skb, (0, 0), (config.listener, port.to_be()));
        if socket.is_null() {
            return Err(DropReason::ProxyNotListening);
        }
        assign(skb, socket)
    }
}

/// Whether the proxy really has the connection whose answer this packet seems
/// to be; if so the packet is given to it. The connection table is only a hint:
/// its entry may have outlived the socket, and the same addresses and ports may
/// now belong to the pod itself.
#[inline(never)]
pub fn takes_answer(skb: Skb, packet: &Packet) -> bool {
    // SAFETY: as in `hand_over_tcp`.
    unsafe {
        if packet.protocol == protocol::UDP {
            return takes_datagram(skb, packet);
        }
        if packet.protocol != protocol::TCP || packet.opens() {
            return false;
        }
        let socket = lookup_tcp(
            skb,
            (packet.src, packet.src_port),
            (packet.dst, packet.dst_port),
        );
        if socket.is_null() {
            return false;
        }
        let state = (*socket).state;
        let fits = state != LISTEN && (!packet.accepts() || state == SYN_SENT);
        if fits && state != TIME_WAIT {
            return assign(skb, socket).is_ok();
        }
        bpf_sk_release(socket.cast());
        fits
    }
}

/// Whether the proxy holds a connection that this packet continues.
#[inline(always)]
pub fn holds(skb: Skb, packet: &Packet) -> bool {
    !matches!(state(skb, packet), NO_SOCKET | LISTEN | TIME_WAIT)
}

/// As [`holds`], or held one until a moment ago.
#[inline(always)]
pub fn held(skb: Skb, packet: &Packet) -> bool {
    !matches!(state(skb, packet), NO_SOCKET | LISTEN)
}

/// State of the socket for this packet.
#[inline(never)]
fn state(skb: Skb, packet: &Packet) -> u32 {
    // SAFETY: as in `hand_over_tcp`.
    unsafe {
        let socket = lookup_tcp(
            skb,
            (packet.src, packet.src_port),
            (packet.dst, packet.dst_port),
        );
        if socket.is_null() {
            return NO_SOCKET;
        }
        let state = (*socket).state;
        bpf_sk_release(socket.cast());
        state
    }
}

/// # Safety
/// As for [`lookup_tcp`].
#[inline(always)]
unsafe fn takes_datagram(skb: Skb, packet: &Packet) -> bool {
    // SAFETY: checked for null, and released or assigned.
    unsafe {
        let socket = lookup_udp(
            skb,
            (packet.src, packet.src_port),
            (packet.dst, packet.dst_port),
        );
        if socket.is_null() {
            return false;
        }
        // A socket bound to any address is a server of the node's.
        if (*socket).src_ip4 != packet.dst {
            bpf_sk_release(socket.cast());
            return false;
        }
        assign(skb, socket).is_ok()
    }
}

/// Assigns and releases the socket.
///
/// # Safety
/// `socket` was looked up by this program and not yet released.
#[inline(always)]
unsafe fn assign(skb: Skb, socket: *mut bpf_sock) -> Outcome {
    // SAFETY: by contract.
    unsafe {
        let result = bpf_sk_assign(skb.raw().cast(), socket.cast(), 0);
        bpf_sk_release(socket.cast());
        if result == 0 {
            Ok(())
        } else {
            Err(DropReason::ProxyAssignFailed)
        }
    }
}

/// # Safety
/// The socket has to be checked for null and released.
#[inline(always)]
unsafe fn lookup_tcp(skb: Skb, from: (u32, u16), to: (u32, u16)) -> *mut bpf_sock {
    let mut tuple = tuple(from, to);
    // SAFETY: the tuple lives on the stack, its size is that of the IPv4 arm.
    unsafe {
        bpf_skc_lookup_tcp(
            skb.raw().cast(),
            &raw mut tuple,
            size_of::<Ipv4Tuple>() as u32,
            BPF_F_CURRENT_NETNS as u64,
            0,
        )
    }
}

/// # Safety
/// As for [`lookup_tcp`].
#[inline(always)]
unsafe fn lookup_udp(skb: Skb, from: (u32, u16), to: (u32, u16)) -> *mut bpf_sock {
    let mut tuple = tuple(from, to);
    // SAFETY: as in `lookup_tcp`.
    unsafe {
        bpf_sk_lookup_udp(
            skb.raw().cast(),
            &raw mut tuple,
            size_of::<Ipv4Tuple>() as u32,
            BPF_F_CURRENT_NETNS as u64,
            0,
        )
    }
}

#[inline(always)]
fn tuple(from: (u32, u16), to: (u32, u16)) -> bpf_sock_tuple {
    // SAFETY: a union of plain integers.
    let mut tuple: bpf_sock_tuple = unsafe { mem::zeroed() };
    tuple.__bindgen_anon_1 = bpf_sock_tuple__bindgen_ty_1 {
        ipv4: Ipv4Tuple {
            saddr: from.0,
            daddr: to.0,
            sport: from.1,
            dport: to.1,
        },
    };
    tuple
}
