//! Connection tracking.

/// Key of a flow, the same for both of its directions: the smaller end
/// (address, then port, as raw numbers) comes first, and [`ct_flags::FROM_LOW`]
/// in the entry remembers who began.
///
/// One lookup so finds a flow whichever way the packet goes.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, Hash)]
pub struct CtKey {
    /// Address of the smaller end.
    pub low_addr: u32,
    /// Address of the greater end.
    pub high_addr: u32,
    /// Port of the smaller end. ICMP echo: the identifier on the asking side, 0
    /// on the other; other ICMP: the type and 0xff on both.
    pub low_port: u16,
    /// Port of the greater end.
    pub high_port: u16,
    /// IP protocol.
    pub protocol: u8,
    /// [`Leg`].
    pub leg: u8,
    /// Zero.
    pub pad: u16,
}

impl CtKey {
    /// The flow's key, and whether the packet's source is its low end.
    #[inline(always)]
    pub fn new(src: (u32, u16), dst: (u32, u16), protocol: u8, leg: Leg) -> (Self, bool) {
        let from_low = src.0 < dst.0 || (src.0 == dst.0 && src.1 <= dst.1);
        let (low, high) = if from_low { (src, dst) } else { (dst, src) };
        let key = Self {
            low_addr: low.0,
            high_addr: high.0,
            low_port: low.1,
            high_port: high.1,
            protocol,
            leg: leg as u8,
            pad: 0,
        };
        (key, from_low)
    }
}

/// Which of two connections with the same addresses and ports is meant.
///
/// The proxy connects on with the pod's own address, so its connection's tuple
/// can equal the pod's.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// What the pods see.
    Direct = 0,
    /// From the proxy to the destination.
    Upstream = 1,
}

/// State of a flow.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct CtEntry {
    /// `CLOCK_MONOTONIC` of the last packet, nanoseconds.
    pub last_seen: u64,
    /// [`ct_flags`].
    pub flags: u32,
    /// Policy epoch at which the flow was judged.
    pub epoch: u32,
    /// Rule that allowed it.
    pub rule: u32,
    /// [`ct_flags::NAT`]: the service's address, to put back into replies.
    /// [`ct_flags::SERVICE`]: the backend's.
    pub xlate_addr: u32,
    /// Port that belongs to `xlate_addr`.
    pub xlate_port: u16,
    /// Port of the proxy's listener, host order, with [`ct_flags::PROXY`].
    pub proxy_port: u16,
    /// TCP flags seen, [0] from the initiator, [1] from the other end. Other
    /// protocols: [`SEEN_GOES_ON`].
    pub seen: [u8; 2],
    /// FIN and RST of either side.
    pub closing: u8,
    /// Zero.
    pub pad: u8,
    /// Second (of `CLOCK_MONOTONIC`) of the last report, per direction as in
    /// `seen`.
    pub reported: [u32; 2],
}

/// Flags of a [`CtEntry`].
pub mod ct_flags {
    /// The initiator is the key's low end.
    pub const FROM_LOW: u32 = 1;
    /// Redirected to the proxy.
    pub const PROXY: u32 = 2;
    /// It was the destination's policy that redirected.
    pub const PROXY_INGRESS: u32 = 4;
    /// Replies get a service's address back.
    pub const NAT: u32 = 8;
    /// A pod that reaches itself through a service.
    pub const HAIRPIN: u32 = 16;
    /// Not a flow but a client's choice of a service's backend.
    pub const SERVICE: u32 = 32;
    /// Was allowed once; the policy of `epoch` denies it.
    pub const REVOKED: u32 = 64;
    /// The reverse translation was reported.
    pub const XLATE_REPORTED: u32 = 128;
    /// Leaves the node with the node's address.
    pub const MASQUERADE: u32 = 256;
    /// A TCP connection that began without the proxy and now needs it, with
    /// [`PROXY`]: reset, because nobody can take it over in the middle.
    pub const CUT: u32 = 512;
}

/// Bit of [`CtEntry::seen`] for "an acknowledgement after the first FIN", in
/// the place of URG.
pub const SEEN_LAST_ACK: u8 = 0x20;

/// Bit of [`CtEntry::seen`] for "still alive after a report interval", of
/// protocols that have no connections: more than a question and its answer.
pub const SEEN_GOES_ON: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_share_a_key() {
        let (a, b) = ((0x0100_000a, 40000), (0x0200_000a, 80));
        let (forward, forward_low) = CtKey::new(a, b, 6, Leg::Direct);
        let (reverse, reverse_low) = CtKey::new(b, a, 6, Leg::Direct);
        assert_eq!(forward, reverse);
        assert_ne!(forward_low, reverse_low);
    }

    #[test]
    fn one_address_is_ordered_by_port() {
        let (a, b) = ((7, 80), (7, 40000));
        assert_eq!(
            CtKey::new(a, b, 6, Leg::Direct).0,
            CtKey::new(b, a, 6, Leg::Direct).0
        );
    }

    #[test]
    fn legs_differ() {
        let (a, b) = ((1, 1), (2, 2));
        assert_ne!(
            CtKey::new(a, b, 6, Leg::Direct).0,
            CtKey::new(a, b, 6, Leg::Upstream).0
        );
    }

    #[test]
    fn layouts_have_no_hidden_padding() {
        assert_eq!(size_of::<CtKey>(), 16);
        assert_eq!(size_of::<CtEntry>(), 40);
    }
}
