//! What the eBPF programs and user space agree on: keys, values and events.
//!
//! Addresses and ports in keys and values are in **network byte order**,
//! exactly as they lie in the packet, unless a field says otherwise; every
//! other number is in the machine's own order. All types are `repr(C)`, without
//! implicit padding (a test holds their sizes), because the kernel compares
//! keys byte by byte.
#![no_std]
#![deny(unsafe_code)]

mod codes;
mod conntrack;
mod counter;
mod event;
mod maps;
#[cfg(feature = "user")]
mod user;

pub use codes::{DropReason, MatchType, TracePoint, XlatePoint, identity};
pub use conntrack::{CtEntry, CtKey, Leg, SEEN_GOES_ON, SEEN_LAST_ACK, ct_flags};
pub use counter::{COUNTERS, Counter};
pub use event::{EventKind, RawEvent, action, direction, event_flags};
pub use maps::{
    Backend, Config, EndpointEntry, IpcacheEntry, NatEntry, NatKey, PolicyKey, PolicyValue,
    ServiceKey, ServiceValue, config_flags, endpoint_flags, nat_kind, policy_flags,
};

/// Version of every pinned map's layout; it names the folder that holds the
/// pins.
///
/// Raise it with any change to a type or a map's kind: a pin of another layout
/// cannot be reused, and the kernel would refuse to load the programs. Another
/// size is no other layout.
pub const LAYOUT_VERSION: u32 = 3;

/// Bits of a policy key before the protocol: endpoint, identity, direction.
pub const POLICY_FIXED_BITS: u32 = 72;

/// Policy entries that the map of all pods of a node has room for.
pub const POLICY_ENTRIES: u32 = 262_144;

/// Addresses and ranges whose identity the kernel has room for.
pub const IPCACHE_ENTRIES: u32 = 262_144;

/// In a policy entry's place for the proxy's port: the traffic is the proxy's,
/// which does not have the rules for it yet. Until it has, nothing passes in
/// either direction's name. Nothing may listen for the proxy there.
pub const CLOSED_PORT: u16 = 1;

/// IP protocol numbers that the datapath knows.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// TCP flag bits as in the header's byte 13.
pub mod tcp {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Aborts a connection.
    pub const RST: u8 = 0x04;
    /// Carries data to be pushed to the application.
    pub const PSH: u8 = 0x08;
    /// Acknowledges.
    pub const ACK: u8 = 0x10;
}

/// Names of the pinned maps.
pub mod map_names {
    /// [`crate::EndpointEntry`] by ifindex of the host veth.
    pub const ENDPOINT_BY_IFINDEX: &str = "EP_BY_IF";
    /// [`crate::EndpointEntry`] by address.
    pub const ENDPOINT_BY_ADDR: &str = "EP_BY_IP";
    /// Longest prefix match from address to [`crate::IpcacheEntry`].
    pub const IPCACHE: &str = "IPCACHE";
    /// Longest prefix match from [`crate::PolicyKey`] to
    /// [`crate::PolicyValue`].
    pub const POLICY: &str = "POLICY";
    /// [`crate::CtEntry`] by [`crate::CtKey`].
    pub const CONNTRACK: &str = "CT";
    /// [`crate::NatEntry`] by [`crate::NatKey`].
    pub const NAT: &str = "NAT";
    /// [`crate::ServiceValue`] by [`crate::ServiceKey`].
    pub const SERVICES: &str = "SVC";
    /// [`crate::Backend`] by slot.
    pub const BACKENDS: &str = "BACKEND";
    /// One [`crate::Config`].
    pub const CONFIG: &str = "CONFIG";
    /// The policy epoch, one `u32`.
    pub const EPOCH: &str = "EPOCH";
    /// Ring buffer of [`crate::RawEvent`].
    pub const EVENTS: &str = "EVENTS";
    /// Events that found the ring full, per CPU.
    pub const LOST: &str = "LOST";
    /// A number for each [`crate::Counter`], per CPU.
    pub const COUNTERS: &str = "COUNTERS";
}
