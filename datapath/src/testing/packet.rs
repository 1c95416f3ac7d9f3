//! Frames for tests.

use std::net::Ipv4Addr;

const ETH_LEN: usize = 14;
const IP_LEN: usize = 20;
const TTL: u8 = 64;

/// Builds IPv4 frames with valid checksums.
#[derive(Clone, Debug)]
pub struct Packet {
    src_mac: [u8; 6],
    src: Ipv4Addr,
    dst: Ipv4Addr,
    protocol: u8,
    fragment: u16,
    options: usize,
    transport: Vec<u8>,
}

impl Packet {
    /// A packet of some protocol with these bytes behind the IP header.
    pub fn raw(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, transport: Vec<u8>) -> Self {
        Self {
            src_mac: [0; 6],
            src,
            dst,
            protocol,
            fragment: 0,
            options: 0,
            transport,
        }
    }

    /// A TCP segment.
    pub fn tcp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), flags: u8) -> Self {
        let mut header = [0; 20];
        header[0..2].copy_from_slice(&src.1.to_be_bytes());
        header[2..4].copy_from_slice(&dst.1.to_be_bytes());
        header[12] = 5 << 4;
        header[13] = flags;
        Self::raw(src.0, dst.0, 6, header.to_vec())
    }

    /// A UDP datagram without data.
    pub fn udp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)) -> Self {
        let mut header = [0; 8];
        header[0..2].copy_from_slice(&src.1.to_be_bytes());
        header[2..4].copy_from_slice(&dst.1.to_be_bytes());
        header[5] = 8;
        Self::raw(src.0, dst.0, 17, header.to_vec())
    }

    /// An ICMP message: type, and four bytes that for an echo are identifier
    /// and sequence number.
    pub fn icmp(src: Ipv4Addr, dst: Ipv4Addr, kind: u8, rest: [u8; 4]) -> Self {
        let mut header = vec![kind, 0, 0, 0];
        header.extend(rest);
        Self::raw(src, dst, 1, header)
    }

    /// An ICMP "port unreachable" about a frame, for its sender.
    pub fn unreachable(src: Ipv4Addr, about: &[u8]) -> Self {
        let mut dst = [0; 4];
        dst.copy_from_slice(&about[26..30]);
        let mut packet = Self::icmp(src, dst.into(), 3, [0; 4]);
        packet.transport[1] = 3;
        packet
            .transport
            .extend(&about[ETH_LEN..ETH_LEN + IP_LEN + 8]);
        packet
    }

    /// Sent from this MAC.
    pub fn from_mac(mut self, mac: [u8; 6]) -> Self {
        self.src_mac = mac;
        self
    }

    /// With this flags-and-offset field in the IP header.
    pub fn fragment(mut self, field: u16) -> Self {
        self.fragment = field;
        self
    }

    /// With so many words of IP options (no-operations).
    pub fn options(mut self, words: usize) -> Self {
        self.options = words;
        self
    }

    /// The frame.
    pub fn build(&self) -> Vec<u8> {
        let mut frame = vec![0; ETH_LEN];
        frame[6..12].copy_from_slice(&self.src_mac);
        frame[12..14].copy_from_slice(&0x0800_u16.to_be_bytes());
        let header_len = IP_LEN + 4 * self.options;
        let total = u16::try_from(header_len + self.transport.len()).unwrap_or(u16::MAX);
        let mut header = vec![1; header_len];
        header[..IP_LEN].fill(0);
        header[0] = 0x40 | (header_len / 4) as u8;
        header[2..4].copy_from_slice(&total.to_be_bytes());
        header[6..8].copy_from_slice(&self.fragment.to_be_bytes());
        header[8] = TTL;
        header[9] = self.protocol;
        header[12..16].copy_from_slice(&self.src.octets());
        header[16..20].copy_from_slice(&self.dst.octets());
        let sum = !fold(sum(&header));
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        frame.extend(header);
        frame.extend(self.checked_transport());
        frame
    }

    fn checked_transport(&self) -> Vec<u8> {
        let mut transport = self.transport.clone();
        let (offset, pseudo) = match self.protocol {
            1 => (2, 0),
            6 => (16, pseudo_header(self.src, self.dst, 6, transport.len())),
            17 => (6, pseudo_header(self.src, self.dst, 17, transport.len())),
            _ => return transport,
        };
        if transport.len() >= offset + 2 {
            let sum = !fold(pseudo + sum(&transport));
            transport[offset..offset + 2].copy_from_slice(&sum.to_be_bytes());
        }
        transport
    }
}

/// Whether the checksums of an IPv4 frame are right.
pub fn checksums_hold(frame: &[u8]) -> bool {
    let header_len = usize::from(frame[ETH_LEN] & 0x0f) * 4;
    let (header, transport) = frame[ETH_LEN..].split_at(header_len);
    let addr =
        |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
    let pseudo = match header[9] {
        protocol @ (6 | 17) => pseudo_header(addr(12), addr(16), protocol, transport.len()),
        _ => 0,
    };
    fold(sum(header)) == u16::MAX && fold(pseudo + sum(transport)) == u16::MAX
}

fn pseudo_header(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, len: usize) -> u32 {
    sum(&src.octets()) + sum(&dst.octets()) + u32::from(protocol) + len as u32
}

fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)))
        .sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > u32::from(u16::MAX) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
