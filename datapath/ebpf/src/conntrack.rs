//! Flows: who began, what was decided, what was already reported.

use core::ptr::NonNull;

use weft_datapath_common::{
    Config, CtEntry, CtKey, DropReason, Leg, SEEN_GOES_ON, SEEN_LAST_ACK, config_flags, ct_flags,
    protocol, tcp,
};

use crate::flow::Flow;
use crate::packet::Packet;
use crate::{helpers, maps};

/// TCP flags that are worth a report when they show up for the first time.
const REPORTED_FLAGS: u8 = tcp::FIN | tcp::SYN | tcp::RST | tcp::PSH | tcp::ACK;

/// The clock of the entries.
#[inline(always)]
pub fn now() -> u64 {
    helpers::coarse_time()
}

/// A flow's entry in the map.
///
/// Other CPUs may write it at the same time. Every field stands for itself and
/// is written whole, so the worst that a race costs is one report too many.
#[derive(Clone, Copy)]
pub struct Entry(NonNull<CtEntry>);

macro_rules! read {
    ($($(#[$doc:meta])* $field:ident: $type:ty;)*) => {
        $(
            $(#[$doc])*
            #[inline(always)]
            pub fn $field(self) -> $type {
                // SAFETY: the kernel keeps a looked-up value alive while the
                // program runs.
                unsafe { (*self.0.as_ptr()).$field }
            }
        )*
    };
}

macro_rules! write {
    ($($(#[$doc:meta])* $set:ident, $field:ident: $type:ty;)*) => {
        $(
            $(#[$doc])*
            #[inline(always)]
            pub fn $set(self, value: $type) {
                // SAFETY: as for reading.
                unsafe { (*self.0.as_ptr()).$field = value }
            }
        )*
    };
}

impl Entry {
    read! {
        /// `ct_flags`.
        flags: u32;
        /// Policy epoch of the last judgement.
        epoch: u32;
        /// Rule that allowed.
        rule: u32;
        /// The proxy's port, host order.
        proxy_port: u16;
        /// Address to translate to.
        xlate_addr: u32;
        /// Port to translate to.
        xlate_port: u16;
        /// FIN and RST seen.
        closing: u8;
        /// Time of the last packet.
        last_seen: u64;
    }

    write! {
        /// Sets `ct_flags`.
        set_flags, flags: u32;
        /// Sets the epoch of the last judgement.
        set_epoch, epoch: u32;
        /// Sets the rule that decided.
        set_rule, rule: u32;
        /// Sets the proxy's port, host order.
        set_proxy_port, proxy_port: u16;
        /// Sets the address to translate to.
        set_xlate_addr, xlate_addr: u32;
        /// Sets the port to translate to.
        set_xlate_port, xlate_port: u16;
        /// Sets what was seen of FIN and RST.
        set_closing, closing: u8;
        /// Sets the time of the last packet.
        set_last_seen, last_seen: u64;
    }

    /// Whether all these flags are set.
    #[inline(always)]
    pub fn has(self, flags: u32) -> bool {
        self.flags() & flags == flags
    }

    /// Makes answers come from this service; with zeroes, from where they come.
    #[inline(always)]
    pub fn answer_as(self, addr: u32, port: u16) {
        if self.xlate_addr() == addr && self.xlate_port() == port {
            return;
        }
        self.set_xlate_addr(addr);
        self.set_xlate_port(port);
        let flags = self.flags() & !ct_flags::NAT;
        self.set_flags(if addr == 0 {
            flags
        } else {
            flags | ct_flags::NAT
        });
    }

    /// Whether the packet goes against the direction in which the flow was
    /// opened.
    #[inline(always)]
    pub fn is_reply(self, packet: &Packet) -> bool {
        self.has(ct_flags::FROM_LOW) != key(packet, Leg::Direct).1
    }

    /// Notes that a packet came by.
    #[inline(always)]
    pub fn touch(self, now: u64, packet: &Packet) {
        self.set_last_seen(now);
        let closing = packet.tcp_flags & (tcp::FIN | tcp::RST);
        if closing != 0 {
            self.set_closing(self.closing() | closing);
        }
    }

    #[inline(always)]
    fn side(self, reply: bool) -> (*mut u8, *mut u32) {
        let entry = self.0.as_ptr();
        // Written out: the verifier bounds no index that it cannot see.
        // SAFETY: fields of a live map value; no reference is made.
        unsafe {
            if reply {
                (&raw mut (*entry).seen[1], &raw mut (*entry).reported[1])
            } else {
                (&raw mut (*entry).seen[0], &raw mut (*entry).reported[0])
            }
        }
    }

    /// Whether the packet tells something new about the flow: a TCP flag not
    /// seen before in its direction, or that the flow still lives after the
    /// report interval.
    #[inline(always)]
    pub fn has_news(self, config: &Config, packet: &Packet, reply: bool, now: u64) -> bool {
        if config.flags & config_flags::REPORT_ALL != 0 {
            return true;
        }
        let (seen, reported) = self.side(reply);
        // SAFETY: as in `side`.
        let (seen, reported) = unsafe { (*seen, *reported) };
        let seconds = (now / 1_000_000_000) as u32;
        self.news(packet) & !seen != 0
            || reported == 0
            || seconds.wrapping_sub(reported) >= config.report_interval
    }

    /// As [`Entry::has_news`]; from now on it is no news any more.
    #[inline(always)]
    pub fn take_news(self, config: &Config, packet: &Packet, reply: bool, now: u64) -> bool {
        if !self.has_news(config, packet, reply, now) {
            return false;
        }
        let (seen, reported) = self.side(reply);
        let seconds = (now / 1_000_000_000) as u32;
        // SAFETY: as in `side`.
        unsafe {
            *seen |= self.news(packet);
            if packet.protocol != protocol::TCP
                && *reported != 0
                && seconds.wrapping_sub(*reported) >= config.report_interval
            {
                *seen |= SEEN_GOES_ON;
            }
            *reported = seconds;
        }
        true
    }

    #[inline(always)]
    fn news(self, packet: &Packet) -> u8 {
        if packet.protocol != protocol::TCP {
            return 0;
        }
        let flags = packet.tcp_flags & REPORTED_FLAGS;
        if flags == tcp::ACK && self.closing() != 0 {
            return tcp::ACK | SEEN_LAST_ACK;
        }
        flags
    }
}

/// Key of the packet's flow, and whether the packet's source is its low end.
#[inline(always)]
pub fn key(packet: &Packet, leg: Leg) -> (CtKey, bool) {
    CtKey::new(
        (packet.src, packet.src_port),
        (packet.dst, packet.dst_port),
        packet.protocol,
        leg,
    )
}

/// The flow to which the packet belongs.
#[inline(always)]
pub fn lookup(packet: &Packet, leg: Leg) -> Option<Entry> {
    maps::conntrack(&key(packet, leg).0).map(Entry)
}

/// Forgets the packet's flow.
#[inline(always)]
pub fn remove(packet: &Packet, leg: Leg) {
    maps::remove_conntrack(&key(packet, leg).0);
}

/// Remembers a client's choice of a backend, or that the proxy on `proxy_port`
/// balances.
#[inline(always)]
pub fn insert_choice(
    packet: &Packet,
    backend: (u32, u16),
    proxy_port: u16,
    now: u64,
) -> Result<(), DropReason> {
    let (key, from_low) = key(packet, Leg::Direct);
    let mut entry = blank(from_low, now);
    entry.flags |= ct_flags::SERVICE;
    (entry.xlate_addr, entry.xlate_port) = backend;
    entry.proxy_port = proxy_port;
    match maps::insert_conntrack(&key, &entry) {
        true => Ok(()),
        false => Err(DropReason::ConntrackInsertFailed),
    }
}

/// Opens a flow, as `flow` was judged, in the direction of its packet.
#[inline(always)]
pub fn open(flow: &Flow, leg: Leg, flags: u32, now: u64) -> Result<Entry, DropReason> {
    let (key, from_low) = key(&flow.packet, leg);
    let mut entry = blank(from_low, now);
    entry.flags |= flags;
    entry.rule = flow.rule;
    entry.proxy_port = flow.proxy_port;
    (entry.xlate_addr, entry.xlate_port) = (flow.service, flow.service_port);
    if !maps::insert_conntrack(&key, &entry) {
        return Err(DropReason::ConntrackInsertFailed);
    }
    match maps::conntrack(&key) {
        Some(entry) => Ok(Entry(entry)),
        None => Err(DropReason::ConntrackInsertFailed),
    }
}

#[inline(always)]
fn blank(from_low: bool, now: u64) -> CtEntry {
    CtEntry {
        last_seen: now,
        flags: if from_low { ct_flags::FROM_LOW } else { 0 },
        epoch: maps::epoch(),
        rule: 0,
        xlate_addr: 0,
        xlate_port: 0,
        proxy_port: 0,
        seen: [0; 2],
        closing: 0,
        pad: 0,
        reported: [0; 2],
    }
}
