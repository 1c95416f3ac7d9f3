//! Packets as they should not be, and what is not IPv4.

use weft_datapath::DropReason;
use weft_datapath::testing::Packet;

use crate::support::*;

const IP: usize = 14;
const TCP: usize = IP + 20;

#[test]
fn fragments_are_dropped() {
    let mut bench = bench();
    let packet = |field| {
        Packet::udp((POD, 40000), (WORLD, 53))
            .from_mac(pod().mac)
            .fragment(field)
            .build()
    };
    let (first, later, dont) = (packet(0x2000), packet(0x0010), packet(0x4000));
    drops(&mut bench, "from_pod", &first, DropReason::Fragment);
    drops(&mut bench, "from_pod", &later, DropReason::Fragment);
    passes(&mut bench, "from_pod", &dont);
    let incoming = Packet::udp((WORLD, 53), (POD, 40000))
        .fragment(0x2000)
        .build();
    let event = drops(&mut bench, "from_net", &incoming, DropReason::Fragment);
    assert_eq!(event.src, std::net::IpAddr::from(WORLD));
    // The node's own fragments are the node's business.
    let own = Packet::udp((WORLD, 53), (NODE, 40000))
        .fragment(0x2000)
        .build();
    passes(&mut bench, "from_net", &own);
}

#[test]
fn malformed_headers_are_dropped() {
    let mut bench = bench();
    let valid = sent((WORLD, 80), SYN);
    let broken = |at: usize, byte: u8| {
        let mut packet = valid.clone();
        packet[at] = byte;
        packet
    };
    passes(&mut bench, "from_pod", &valid);
    for (what, packet, reason) in [
        ("version 6", broken(IP, 0x65), DropReason::InvalidPacket),
        (
            "header of 16 bytes",
            broken(IP, 0x44),
            DropReason::InvalidPacket,
        ),
        (
            "longer than the packet",
            broken(IP + 3, 255),
            DropReason::InvalidPacket,
        ),
        (
            "shorter than its header",
            broken(IP + 3, 19),
            DropReason::InvalidPacket,
        ),
        (
            "TCP header of 16 bytes",
            broken(TCP + 12, 0x40),
            DropReason::TruncatedHeader,
        ),
        (
            "TCP header beyond the packet",
            broken(TCP + 12, 0xf0),
            DropReason::TruncatedHeader,
        ),
        (
            "cut in the TCP header",
            {
                let mut packet = valid[..TCP + 8].to_vec();
                packet[IP + 3] = 28;
                packet
            },
            DropReason::TruncatedHeader,
        ),
    ] {
        println!("{what}");
        drops(&mut bench, "from_pod", &packet, reason);
    }
    let no_ports = Packet::raw(POD, WORLD, 17, vec![0; 4])
        .from_mac(pod().mac)
        .build();
    drops(
        &mut bench,
        "from_pod",
        &no_ports,
        DropReason::TruncatedHeader,
    );
}

#[test]
fn options_move_the_ports() {
    let mut bench = bench();
    set_policy(
        &mut bench,
        &[entry(
            weft_datapath::Direction::Egress,
            2,
            80,
            weft_datapath::Verdict::Allow,
        )],
    );
    let packet = |port| {
        Packet::tcp((POD, 40000), (WORLD, port), SYN)
            .from_mac(pod().mac)
            .options(10)
            .build()
    };
    passes(&mut bench, "from_pod", &packet(80));
    drops(
        &mut bench,
        "from_pod",
        &packet(81),
        DropReason::PolicyDenied,
    );
}

#[test]
fn arp_passes_other_protocols_do_not() {
    let mut bench = bench();
    let mut frame = vec![0; 64];
    frame[12..14].copy_from_slice(&[0x08, 0x06]);
    passes(&mut bench, "from_pod", &frame);
    passes(&mut bench, "to_pod", &frame);
    frame[12..14].copy_from_slice(&[0x88, 0xcc]);
    drops(&mut bench, "from_pod", &frame, DropReason::UnsupportedL2);
}

/// An IPv6 frame from `::` with this next header, hop limit, destination and
/// payload.
fn ipv6(next: u8, hops: u8, dst: [u8; 16], payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([
        0x86,
        0xdd,
        0x60,
        0,
        0,
        0,
        0,
        payload.len() as u8,
        next,
        hops,
    ]);
    frame.extend([0; 16]);
    frame.extend(dst);
    frame.extend(payload);
    frame
}

fn address(text: &str) -> [u8; 16] {
    text.parse::<std::net::Ipv6Addr>().unwrap().octets()
}

#[test]
fn ipv6_of_a_pod_without_policy_passes() {
    let mut bench = bench();
    passes(
        &mut bench,
        "from_pod",
        &ipv6(6, 64, address("2001:db8::1"), &[0; 20]),
    );
}

/// A denial or an HTTP rule without default deny holds for IPv4 only: IPv6 must
/// not be a way round.
#[test]
fn a_policy_without_default_deny_stops_ipv6() {
    let mut bench = bench();
    let policed = weft_datapath::Endpoint {
        policed: true,
        ..pod()
    };
    bench.announce(&policed).unwrap();
    for program in ["from_pod", "to_pod"] {
        let packet = ipv6(6, 64, address("2001:db8::1"), &[0; 20]);
        drops(&mut bench, program, &packet, DropReason::UnsupportedL3);
        let advertisement = [136, 0, 0, 0, 0, 0, 0, 0];
        let packet = ipv6(58, 255, address("fe80::1"), &advertisement);
        passes(&mut bench, program, &packet);
    }
    // IPv4 goes on as before.
    passes(&mut bench, "from_pod", &sent((WORLD, 80), SYN));
}

#[test]
fn a_policed_pod_gets_neighbour_discovery_only() {
    let mut bench = bench();
    set_policy(&mut bench, &[]);
    let (group, link_local) = (address("ff02::1:ff00:1"), address("fe80::1"));
    let solicitation = [135, 0, 0, 0, 0, 0, 0, 0];
    let listener_report = [58, 0, 5, 2, 0, 0, 0, 0, 143, 0, 0, 0, 0, 0, 0, 0];
    for program in ["from_pod", "to_pod"] {
        passes(&mut bench, program, &ipv6(58, 255, group, &solicitation));
        passes(
            &mut bench,
            program,
            &ipv6(58, 255, link_local, &[136, 0, 0, 0, 0, 0, 0, 0]),
        );
        passes(
            &mut bench,
            program,
            &ipv6(0, 1, address("ff02::16"), &listener_report),
        );
        for (what, packet) in [
            ("TCP", ipv6(6, 64, link_local, &[0; 20])),
            ("UDP to a group", ipv6(17, 1, address("ff02::fb"), &[0; 8])),
            (
                "echo",
                ipv6(58, 255, link_local, &[128, 0, 0, 0, 0, 0, 0, 0]),
            ),
            ("routed discovery", ipv6(58, 254, link_local, &solicitation)),
            (
                "discovery off the link",
                ipv6(58, 255, address("2001:db8::1"), &solicitation),
            ),
            (
                "hidden behind options",
                ipv6(0, 1, link_local, &[6, 0, 0, 0, 0, 0, 0, 0, 143]),
            ),
        ] {
            println!("{program} {what}");
            let event = drops(&mut bench, program, &packet, DropReason::UnsupportedL3);
            assert!(event.src.is_ipv6() && event.dst.is_ipv6(), "{event:?}");
            assert_eq!(event.endpoint, POD_ID);
        }
    }
}
