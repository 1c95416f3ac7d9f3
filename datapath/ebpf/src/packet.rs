//! Reading the headers of an IPv4 packet.
#![forbid(unsafe_code)]

use weft_datapath_common::{DropReason, protocol, tcp};

use crate::skb::{ETH_LEN, Skb};

/// ICMP types with a meaning here.
pub mod icmp_type {
    /// Answer to a ping.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Ping.
    pub const ECHO: u8 = 8;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
}

/// "More fragments" and the fragment offset: a packet with any of them is a
/// fragment.
const FRAGMENT_BITS: u16 = 0x3fff;

/// What the programs need of a packet. Addresses and ports in network order.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Packet {
    /// Source address.
    pub src: u32,
    /// Destination address.
    pub dst: u32,
    /// Source port, or what stands for it in ICMP.
    pub src_port: u16,
    /// Destination port, or what stands for it in ICMP.
    pub dst_port: u16,
    /// Where the transport header starts.
    pub l4: u32,
    /// IP protocol.
    pub protocol: u8,
    /// TCP flags.
    pub tcp_flags: u8,
    /// ICMP type.
    pub icmp_type: u8,
    /// ICMP code.
    pub icmp_code: u8,
}

/// An IPv4 header without options.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ipv4Header {
    version_ihl: u8,
    _tos: u8,
    total_len: u16,
    _id: u16,
    fragment: u16,
    _ttl: u8,
    protocol: u8,
    _checksum: u16,
    src: u32,
    dst: u32,
}

impl Ipv4Header {
    /// Bytes of the header with its options, if it can be one.
    #[inline(always)]
    fn len(&self) -> Option<u32> {
        let words = u32::from(self.version_ihl & 0x0f);
        (self.version_ihl >> 4 == 4 && words >= 5).then_some(words * 4)
    }
}

impl Packet {
    /// Reads an IPv4 packet. The addresses are there even when the rest is
    /// refused.
    #[inline(always)]
    pub fn parse(&mut self, skb: Skb) -> Result<(), DropReason> {
        let header: Ipv4Header = skb.load(ETH_LEN)?;
        self.src = header.src;
        self.dst = header.dst;
        self.protocol = header.protocol;
        let header_len = header.len().ok_or(DropReason::InvalidPacket)?;
        let payload_len = payload_len(skb, &header, header_len)?;
        if u16::from_be(header.fragment) & FRAGMENT_BITS != 0 {
            return Err(DropReason::Fragment);
        }
        self.l4 = ETH_LEN + header_len;
        self.parse_transport(skb, payload_len)
    }

    #[inline(always)]
    fn parse_transport(&mut self, skb: Skb, payload_len: u32) -> Result<(), DropReason> {
        match self.protocol {
            protocol::TCP => {
                let words: [u16; 8] = skb.load(self.l4)?;
                (self.src_port, self.dst_port) = (words[0], words[1]);
                let offset_flags = u16::from_be(words[6]);
                self.tcp_flags = offset_flags as u8;
                let header_len = u32::from(offset_flags >> 12) * 4;
                if header_len < 20 || header_len > payload_len {
                    return Err(DropReason::TruncatedHeader);
                }
            }
            protocol::UDP | protocol::SCTP => {
                let words: [u16; 4] = skb.load(self.l4)?;
                if payload_len < 8 {
                    return Err(DropReason::TruncatedHeader);
                }
                (self.src_port, self.dst_port) = (words[0], words[1]);
            }
            protocol::ICMP => {
                let words: [u16; 4] = skb.load(self.l4)?;
                if payload_len < 8 {
                    return Err(DropReason::TruncatedHeader);
                }
                [self.icmp_type, self.icmp_code] = words[0].to_ne_bytes();
                (self.src_port, self.dst_port) = icmp_ports(self.icmp_type, words[2]);
            }
            _ => {}
        }
        Ok(())
    }

    /// Reads the start of a packet that an ICMP error quotes: header and first
    /// eight bytes.
    #[inline(always)]
    pub fn parse_quoted(&mut self, skb: Skb, offset: u32) -> Result<(), DropReason> {
        let header: Ipv4Header = skb.load(offset)?;
        let header_len = header.len().ok_or(DropReason::InvalidPacket)?;
        self.l4 = offset + header_len;
        let words: [u16; 4] = skb.load(self.l4)?;
        (self.src, self.dst, self.protocol) = (header.src, header.dst, header.protocol);
        (self.src_port, self.dst_port) = match header.protocol {
            protocol::TCP | protocol::UDP | protocol::SCTP => (words[0], words[1]),
            protocol::ICMP => icmp_ports(words[0].to_ne_bytes()[0], words[2]),
            _ => (0, 0),
        };
        Ok(())
    }

    /// Whether it opens a TCP connection.
    #[inline(always)]
    pub fn opens(&self) -> bool {
        self.protocol == protocol::TCP && self.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN
    }

    /// Whether it accepts a TCP connection.
    #[inline(always)]
    pub fn accepts(&self) -> bool {
        self.protocol == protocol::TCP
            && self.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN | tcp::ACK
    }

    /// Whether it reports a problem with another packet, which it quotes.
    #[inline(always)]
    pub fn is_icmp_error(&self) -> bool {
        self.protocol == protocol::ICMP
            && matches!(
                self.icmp_type,
                icmp_type::UNREACHABLE | icmp_type::TIME_EXCEEDED | icmp_type::PARAMETER_PROBLEM
            )
    }

    /// The port that policies speak of.
    #[inline(always)]
    pub fn policy_port(&self) -> u16 {
        if self.protocol == protocol::ICMP {
            u16::from(self.icmp_type).to_be()
        } else {
            self.dst_port
        }
    }

    /// Turns the packet into its answer, or an answer into what it answers.
    #[inline(always)]
    pub fn swap(&mut self) {
        (self.src, self.dst) = (self.dst, self.src);
        (self.src_port, self.dst_port) = (self.dst_port, self.src_port);
        if self.protocol == protocol::ICMP {
            self.icmp_type = match self.icmp_type {
                icmp_type::ECHO_REPLY => icmp_type::ECHO,
                icmp_type::ECHO => icmp_type::ECHO_REPLY,
                other => other,
            };
        }
    }
}

/// What tells ICMP flows apart: the identifier on the asking side of an echo,
/// and for any other type the type itself, on both sides, so that it never
/// passes for part of an echo.
#[inline(always)]
fn icmp_ports(kind: u8, identifier: u16) -> (u16, u16) {
    match kind {
        icmp_type::ECHO => (identifier, 0),
        icmp_type::ECHO_REPLY => (0, identifier),
        _ => {
            let port = u16::from_ne_bytes([kind, 0xff]);
            (port, port)
        }
    }
}

/// Bytes behind the IPv4 header, as the header says and the packet holds.
#[inline(always)]
fn payload_len(skb: Skb, header: &Ipv4Header, header_len: u32) -> Result<u32, DropReason> {
    let held = skb.len().saturating_sub(ETH_LEN);
    let mut total = u32::from(u16::from_be(header.total_len));
    // A segmentation-offloaded packet above 64 KiB cannot say its length.
    if total == 0 && held > u32::from(u16::MAX) {
        total = held;
    }
    if total > held || total < header_len {
        return Err(DropReason::InvalidPacket);
    }
    Ok(total - header_len)
}
