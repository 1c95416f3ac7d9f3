//! Keys and values of the maps that the agent writes.

/// A pod of this node. Value of both endpoint maps.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct EndpointEntry {
    /// Node-local number, from 1; the first word of the pod's policy keys.
    pub id: u32,
    /// Security identity.
    pub identity: u32,
    /// Address.
    pub addr: u32,
    /// Interface index of the host's end of the pod's veth, in the node's
    /// namespace.
    pub ifindex: u32,
    /// [`endpoint_flags`].
    pub flags: u32,
    /// MAC of the pod's end: the only source MAC it may send from.
    pub mac: [u8; 6],
    /// MAC of the host's end.
    pub host_mac: [u8; 6],
}

/// Flags of an [`EndpointEntry`].
pub mod endpoint_flags {
    /// What no ingress entry allows is denied.
    pub const DEFAULT_DENY_INGRESS: u32 = 1;
    /// What no egress entry allows is denied.
    pub const DEFAULT_DENY_EGRESS: u32 = 2;
    /// Some policy has a say about the pod, with or without default deny: IPv6,
    /// which the maps do not know, must not be a way round it.
    pub const POLICED: u32 = 4;
}

/// Whose address it is. Value of the IPCACHE.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct IpcacheEntry {
    /// Security identity.
    pub identity: u32,
    /// Address of the other node that hosts this pod; 0 for everything that is
    /// not a pod of another node.
    pub node: u32,
}

/// Key of the POLICY map, 96 bits for a longest-prefix match.
///
/// A prefix covers at least [`crate::POLICY_FIXED_BITS`]; 8 more for a
/// protocol, up to 16 more for a port (a shorter port prefix is a power-of-two
/// range).
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash)]
pub struct PolicyKey {
    /// [`EndpointEntry::id`] of the subject.
    pub endpoint: u32,
    /// Identity of the peer; 0 for any.
    pub identity: u32,
    /// [`crate::direction`].
    pub direction: u8,
    /// IP protocol; meaningless when the prefix ends before it.
    pub protocol: u8,
    /// Destination port, or the ICMP type as a port.
    pub port: u16,
}

/// What the policy says for a key.
///
/// Of the two entries found (the peer's identity, and any) the one with deny
/// wins, then the higher priority, then the longer `matched`, then the one that
/// names the identity.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct PolicyValue {
    /// The rule that decided, a number of the agent's.
    pub rule: u32,
    /// Port of the proxy's listener, host order; 0: not redirected.
    pub proxy_port: u16,
    /// [`policy_flags`].
    pub flags: u8,
    /// Bits of protocol and port that the deciding rule named: 0, 8, or 9 to
    /// 24. The key may be longer, when a shorter entry was folded into it.
    pub matched: u8,
    /// Higher wins: 0 for plain entries, above for redirects.
    pub priority: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// Flags of a [`PolicyValue`].
pub mod policy_flags {
    /// Denied by a rule.
    pub const DENY: u8 = 1;
}

/// Key of the services: what the client dials.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash)]
pub struct ServiceKey {
    /// Virtual address.
    pub addr: u32,
    /// Port; 0 together with protocol 0 stands for "this address is a
    /// service's".
    pub port: u16,
    /// IP protocol, widened.
    pub protocol: u16,
}

/// A service's backends.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct ServiceValue {
    /// First slot in the BACKENDS map.
    pub first: u32,
    /// Number of slots from there.
    pub count: u32,
    /// Port of the proxy's listener, host order: the proxy balances this
    /// service. 0: the kernel does.
    pub proxy_port: u16,
    /// Zero.
    pub pad: u16,
}

/// One backend of a service.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Address.
    pub addr: u32,
    /// Port.
    pub port: u16,
    /// Zero.
    pub pad: u16,
}

/// Key of the masquerading map: a flow as one of its two sides sees it.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash)]
pub struct NatKey {
    /// Our side: the pod ([`nat_kind::OUT`]) or the node ([`nat_kind::IN`]).
    pub addr: u32,
    /// The host outside.
    pub peer: u32,
    /// Our side's port, or the ICMP echo identifier.
    pub port: u16,
    /// The host outside's port, 0 for ICMP.
    pub peer_port: u16,
    /// IP protocol.
    pub protocol: u8,
    /// [`nat_kind`].
    pub kind: u8,
    /// Zero.
    pub pad: u16,
}

/// Which way a [`NatKey`] looks.
pub mod nat_kind {
    /// From pod to node: key holds the pod's side.
    pub const OUT: u8 = 0;
    /// From node back to pod: key holds the node's side.
    pub const IN: u8 = 1;
}

/// What to write in place of a [`NatKey`]'s `addr` and `port`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct NatEntry {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub last_seen: u64,
    /// Address.
    pub addr: u32,
    /// Port or ICMP echo identifier.
    pub port: u16,
    /// Zero.
    pub pad: u16,
}

/// Settings of a node.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Config {
    /// The node's own address.
    pub node: u32,
    /// Network of this node's pods.
    pub pod_net: u32,
    /// Mask of that network.
    pub pod_mask: u32,
    /// Address that the proxy's listeners are bound to.
    pub listener: u32,
    /// Source address of a pod that reaches itself through a service.
    pub hairpin: u32,
    /// Bits of the packet mark that are ours, host order.
    pub mark_mask: u32,
    /// Mark of packets for the proxy.
    pub mark_to_proxy: u32,
    /// Mark of packets sent by the proxy.
    pub mark_from_proxy: u32,
    /// Mark of packets that are judged and need nothing more on this node.
    pub mark_judged: u32,
    /// [`config_flags`].
    pub flags: u32,
    /// Seconds after which a flow that goes on is reported again.
    pub report_interval: u32,
    /// UDP port of the overlay, network order; 0 without overlay.
    pub overlay_port: u16,
    /// First port for masquerading, host order.
    pub snat_first: u16,
    /// Last port for masquerading, host order.
    pub snat_last: u16,
    /// First local port of the proxy's upstream connections, host order.
    pub upstream_first: u16,
    /// Last local port of the proxy's upstream connections, host order.
    pub upstream_last: u16,
    /// Zero.
    pub pad: u16,
}

/// Flags of [`Config`].
pub mod config_flags {
    /// Deliver to pods of this node past the host's stack.
    pub const REDIRECT_PEER: u32 = 1;
    /// Give traffic from pods to the outside the node's address.
    pub const MASQUERADE: u32 = 2;
    /// Report every packet instead of what is new about a flow.
    pub const REPORT_ALL: u32 = 4;
    /// Pods of other nodes are reached through the overlay device.
    pub const OVERLAY: u32 = 8;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_no_hidden_padding() {
        assert_eq!(size_of::<EndpointEntry>(), 32);
        assert_eq!(size_of::<IpcacheEntry>(), 8);
        assert_eq!(size_of::<PolicyKey>(), 12);
        assert_eq!(size_of::<PolicyValue>(), 12);
        assert_eq!(size_of::<ServiceKey>(), 8);
        assert_eq!(size_of::<ServiceValue>(), 12);
        assert_eq!(size_of::<Backend>(), 8);
        assert_eq!(size_of::<NatKey>(), 16);
        assert_eq!(size_of::<NatEntry>(), 16);
        assert_eq!(size_of::<Config>(), 56);
    }
}
