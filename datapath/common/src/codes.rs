//! Numbers that travel to users: the ones that Cilium's monitor and Hubble use,
//! so that their tools print our events.

/// Reserved security identities.
pub mod identity {
    /// Not known.
    pub const UNKNOWN: u32 = 0;
    /// This node.
    pub const HOST: u32 = 1;
    /// Outside the cluster.
    pub const WORLD: u32 = 2;
    /// Another node of the cluster.
    pub const REMOTE_NODE: u32 = 6;
}

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $name:literal, $text:literal;)*) => {
        /// Why a packet was dropped.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DropReason { $($(#[$doc])* $variant = $code,)* }

        impl DropReason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The reason with this number.
            pub fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }

            /// Name in Hubble's `DropReason` enumeration.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// As `hubble observe` prints it.
            pub fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

drop_reasons! {
    /// The packet's source MAC is not the pod's.
    InvalidSourceMac = 130, "INVALID_SOURCE_MAC", "Invalid source mac";
    /// The packet's source address is not its sender's.
    InvalidSourceIp = 132, "INVALID_SOURCE_IP", "Invalid source ip";
    /// No rule allows it.
    PolicyDenied = 133, "POLICY_DENIED", "Policy denied";
    /// Header fields contradict each other.
    InvalidPacket = 134, "INVALID_PACKET_DROPPED", "Invalid packet";
    /// The transport header is cut short or nonsense.
    TruncatedHeader = 135, "CT_TRUNCATED_OR_INVALID_HEADER", "CT: Truncated or invalid header";
    /// IPv6 of a pod that is under policy.
    UnsupportedL3 = 139, "UNSUPPORTED_L3_PROTOCOL", "Unsupported L3 protocol";
    /// The packet could not be rewritten.
    WriteFailed = 141, "ERROR_WRITING_TO_PACKET", "Error writing to packet";
    /// Sent to an address of this node's pods that no pod has.
    NoEndpoint = 152, "NO_MATCHING_LOCAL_CONTAINER_FOUND", "No matching local container found";
    /// The connection table refused an entry.
    ConntrackInsertFailed = 155, "CT_MAP_INSERTION_FAILED", "CT: Map insertion failed";
    /// A fragment: it carries no ports to judge by.
    Fragment = 157, "IP_FRAGMENTATION_NOT_SUPPORTED", "IP fragmentation not supported";
    /// The service has no backend, or no such port.
    NoBackend = 158, "SERVICE_BACKEND_NOT_FOUND", "Service backend not found";
    /// A reply from a side that never saw the connection.
    UnknownConnection = 163, "UNKNOWN_CONNECTION_TRACKING_STATE", "Unknown connection tracking state";
    /// Neither IP nor ARP.
    UnsupportedL2 = 166, "UNSUPPORTED_L2_PROTOCOL", "Unsupported L2 protocol";
    /// All ports for masquerading towards this peer are taken.
    NatExhausted = 167, "NO_MAPPING_FOR_NAT_MASQUERADE", "No mapping for NAT masquerade";
    /// Only TCP, UDP and ICMP echo can leave with the node's address.
    NatProtocol = 168, "UNSUPPORTED_PROTOCOL_FOR_NAT_MASQUERADE", "Unsupported protocol for NAT masquerade";
    /// A pod forging overlay packets.
    Encapsulation = 170, "ENCAPSULATION_TRAFFIC_IS_PROHIBITED", "Encapsulation traffic is prohibited";
    /// From a pod that the agent has not announced.
    UnknownSender = 172, "UNKNOWN_SENDER", "Unknown sender";
    /// Nobody listens on the proxy port.
    ProxyNotListening = 178, "SOCKET_LOOKUP_FAILED", "Socket lookup failed";
    /// The proxy's socket could not be given the packet.
    ProxyAssignFailed = 179, "SOCKET_ASSIGN_FAILED", "Socket assign failed";
    /// The proxy speaks TCP and UDP only.
    ProxyProtocol = 180, "PROXY_REDIRECTION_NOT_SUPPORTED_FOR_PROTOCOL", "Proxy redirection not supported for protocol";
    /// A rule denies it.
    PolicyDeny = 181, "POLICY_DENY", "Policy denied by denylist";
    /// A VLAN tag from a pod.
    Vlan = 182, "VLAN_FILTERED", "VLAN traffic disallowed by VLAN filter";
}

impl DropReason {
    /// Number of the reason.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $code:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant = $code,)* }

        impl $name {
            /// The value with this number.
            pub fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }

            /// Number of the value.
            pub const fn code(self) -> u8 {
                self as u8
            }

            /// As `hubble observe` prints it.
            pub fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

numbered! {
    /// Where a packet was seen. The number is the event's sub-type.
    TracePoint {
        /// Delivered to a pod.
        ToEndpoint = 0, "to-endpoint";
        /// Handed to the proxy.
        ToProxy = 1, "to-proxy";
        /// Handed to this node.
        ToHost = 2, "to-host";
        /// Handed to the node's IP stack, which routes it on.
        ToStack = 3, "to-stack";
        /// Encapsulated for another node.
        ToOverlay = 4, "to-overlay";
        /// Left a pod.
        FromEndpoint = 5, "from-endpoint";
        /// Left the proxy.
        FromProxy = 6, "from-proxy";
        /// Came out of the overlay.
        FromOverlay = 9, "from-overlay";
        /// Came from the network.
        FromNetwork = 10, "from-network";
        /// Went to the network.
        ToNetwork = 11, "to-network";
    }
}

numbered! {
    /// What the deciding policy entry named.
    MatchType {
        /// Nothing: default deny.
        None = 0, "none";
        /// The peer.
        L3Only = 1, "L3-Only";
        /// The peer, the protocol and the port.
        L3L4 = 2, "L3-L4";
        /// The protocol and the port.
        L4Only = 3, "L4-Only";
        /// Everything.
        All = 4, "all";
        /// The peer and the protocol.
        L3Proto = 5, "L3-Proto";
        /// The protocol.
        ProtoOnly = 6, "Proto-Only";
    }
}

impl MatchType {
    /// From [`crate::PolicyValue::matched`] and whether the entry names an
    /// identity.
    #[inline(always)]
    pub fn of(matched: u8, names_identity: bool) -> Self {
        match (matched, names_identity) {
            (0, true) => Self::L3Only,
            (0, false) => Self::All,
            (1..=8, true) => Self::L3Proto,
            (1..=8, false) => Self::ProtoOnly,
            (_, true) => Self::L3L4,
            (_, false) => Self::L4Only,
        }
    }
}

numbered! {
    /// Translation points of a service's connection.
    XlatePoint {
        /// To the service, before the backend's address is put in.
        PreForward = 1, "pre-xlate-fwd";
        /// To the backend.
        PostForward = 2, "post-xlate-fwd";
        /// From the backend, before the service's address is put back.
        PreReverse = 3, "pre-xlate-rev";
        /// From the service.
        PostReverse = 4, "post-xlate-rev";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drop_reasons_survive_the_wire() {
        for reason in DropReason::ALL {
            assert_eq!(DropReason::from_code(reason.code()), Some(*reason));
            assert!(!reason.text().is_empty() && !reason.name().is_empty());
        }
        assert_eq!(DropReason::from_code(0), None);
        assert_eq!(DropReason::PolicyDenied.code(), 133);
    }

    #[test]
    fn match_types_follow_what_was_named() {
        assert_eq!(MatchType::of(0, false), MatchType::All);
        assert_eq!(MatchType::of(8, true), MatchType::L3Proto);
        assert_eq!(MatchType::of(24, true), MatchType::L3L4);
        assert_eq!(MatchType::of(17, false), MatchType::L4Only);
    }
}
