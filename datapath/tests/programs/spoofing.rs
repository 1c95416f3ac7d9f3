//! Packets that claim to be somebody else's.

use std::net::{IpAddr, Ipv4Addr};

use weft_datapath::DropReason;
use weft_datapath::testing::Packet;

use crate::support::*;

#[test]
fn a_pod_sends_from_its_own_addresses_only() {
    let mut bench = bench();
    let from = |src| Packet::tcp((src, 40000), (WORLD, 80), SYN);
    let spoofed = from(REMOTE).from_mac(pod().mac).build();
    let event = drops(
        &mut bench,
        "from_pod",
        &spoofed,
        DropReason::InvalidSourceIp,
    );
    assert_eq!((event.src, event.endpoint), (IpAddr::from(REMOTE), POD_ID));
    let wrong_mac = from(POD).from_mac([2, 9, 9, 9, 9, 9]).build();
    drops(
        &mut bench,
        "from_pod",
        &wrong_mac,
        DropReason::InvalidSourceMac,
    );
}

#[test]
fn unannounced_pods_neither_send_nor_receive() {
    let mut bench = bench();
    let unknown = Ipv4Addr::new(10, 244, 1, 99);
    let from = |dst| Packet::tcp((unknown, 40000), (dst, 80), SYN).build();
    // Its veth has no programs yet; these see its packets.
    drops(&mut bench, "to_pod", &from(POD), DropReason::UnknownSender);
    drops(
        &mut bench,
        "to_net",
        &from(WORLD),
        DropReason::UnknownSender,
    );
    drops(
        &mut bench,
        "to_overlay",
        &from(REMOTE),
        DropReason::UnknownSender,
    );
    drops(
        &mut bench,
        "from_pod",
        &sent((unknown, 80), SYN),
        DropReason::NoEndpoint,
    );
    let incoming = Packet::tcp((REMOTE, 5000), (unknown, 80), SYN).build();
    drops(&mut bench, "from_net", &incoming, DropReason::NoEndpoint);
    // Its veth has programs, the maps do not know it.
    bench.datapath.detach_endpoint(POD).unwrap();
    drops(
        &mut bench,
        "from_pod",
        &sent((WORLD, 80), SYN),
        DropReason::UnknownSender,
    );
    drops(
        &mut bench,
        "to_pod",
        &received((REMOTE, 5000), 80, SYN),
        DropReason::NoEndpoint,
    );
}

#[test]
fn a_known_address_without_a_flow_does_not_leave() {
    let mut bench = bench();
    // Only `from_pod` opens flows, and it did not see this packet.
    drops(
        &mut bench,
        "to_net",
        &sent((WORLD, 80), SYN),
        DropReason::UnknownSender,
    );
}

#[test]
fn nobody_outside_claims_to_be_inside() {
    let mut bench = bench();
    for src in [NODE, POD] {
        drops(
            &mut bench,
            "from_net",
            &received((src, 5000), 80, SYN),
            DropReason::InvalidSourceIp,
        );
        let packet = received((src, 5000), 80, SYN);
        drops(
            &mut bench,
            "from_overlay",
            &packet,
            DropReason::InvalidSourceIp,
        );
    }
}

#[test]
fn with_an_overlay_remote_pods_come_through_it() {
    let mut bench = bench_with(|config| config.overlay = Some(8472));
    let packet = received((REMOTE, 5000), 80, SYN);
    drops(&mut bench, "from_net", &packet, DropReason::InvalidSourceIp);
    passes(&mut bench, "from_overlay", &packet);
    // Nodes and the world do not.
    passes(
        &mut bench,
        "from_net",
        &received((OTHER_NODE, 5000), 80, SYN),
    );
    passes(&mut bench, "from_net", &received((WORLD, 5000), 80, SYN));
}

#[test]
fn a_pod_cannot_forge_overlay_packets() {
    let mut bench = bench_with(|config| config.overlay = Some(8472));
    let to = |dst, port| {
        Packet::udp((POD, 40000), (dst, port))
            .from_mac(pod().mac)
            .build()
    };
    drops(
        &mut bench,
        "from_pod",
        &to(OTHER_NODE, 8472),
        DropReason::Encapsulation,
    );
    drops(
        &mut bench,
        "from_pod",
        &to(NODE, 8472),
        DropReason::Encapsulation,
    );
    // A node has addresses that nobody announced, and listens to broadcasts.
    for unknown in [WORLD, std::net::Ipv4Addr::BROADCAST] {
        let packet = to(unknown, 8472);
        drops(&mut bench, "from_pod", &packet, DropReason::Encapsulation);
    }
    passes(&mut bench, "from_pod", &to(OTHER_NODE, 53));
    passes(&mut bench, "from_pod", &to(WORLD, 53));
}
