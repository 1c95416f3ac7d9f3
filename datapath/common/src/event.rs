//! What the programs report through the ring buffer.

/// One event.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct RawEvent {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time: u64,
    /// Source, IPv4 as `::ffff:a.b.c.d`, each word in network order.
    pub src: [u32; 4],
    /// Destination, likewise.
    pub dst: [u32; 4],
    /// Identity of the source, 0 if not known.
    pub src_identity: u32,
    /// Identity of the destination, 0 if not known.
    pub dst_identity: u32,
    /// Endpoint that observes or whose policy was asked.
    pub endpoint: u32,
    /// Rule that decided, 0 if none.
    pub rule: u32,
    /// Interface on which the packet was seen.
    pub ifindex: u32,
    /// Address of the service, on translations.
    pub service: u32,
    /// Port of the service.
    pub service_port: u16,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Port of the proxy's listener, host order.
    pub proxy_port: u16,
    /// [`EventKind`].
    pub kind: u8,
    /// By kind: [`crate::DropReason`], [`crate::TracePoint`],
    /// [`crate::MatchType`] or [`crate::XlatePoint`].
    pub code: u8,
    /// [`action`], on policy verdicts.
    pub action: u8,
    /// [`direction`].
    pub direction: u8,
    /// IP protocol.
    pub protocol: u8,
    /// TCP flags, or the ICMP type.
    pub tcp_flags: u8,
    /// ICMP code.
    pub icmp_code: u8,
    /// [`event_flags`].
    pub flags: u8,
}

/// Kinds of [`RawEvent`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A packet was dropped.
    Drop = 1,
    /// A packet passed an observation point.
    Trace = 2,
    /// A policy was asked.
    PolicyVerdict = 3,
    /// A service's address was put in or taken out.
    Translation = 4,
}

/// Traffic directions, from the endpoint's point of view; bytes of policy keys.
pub mod direction {
    /// Towards the endpoint.
    pub const INGRESS: u8 = 1;
    /// From the endpoint.
    pub const EGRESS: u8 = 2;
}

/// Outcomes of a policy verdict.
pub mod action {
    /// Denied.
    pub const DENY: u8 = 0;
    /// Allowed.
    pub const ALLOW: u8 = 1;
    /// Allowed as far as layer 4 goes; the proxy judges on.
    pub const REDIRECT: u8 = 2;
}

/// Flags of [`RawEvent`].
pub mod event_flags {
    /// The packet goes against the direction in which the flow was opened.
    pub const REPLY: u8 = 1;
    /// Whether it is a reply is known.
    pub const REPLY_KNOWN: u8 = 2;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_has_no_hidden_padding() {
        assert_eq!(size_of::<RawEvent>(), 80);
    }
}
