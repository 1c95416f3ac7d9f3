//! The node's address in place of a pod's.

use std::net::Ipv4Addr;

use weft_datapath::testing::{Bench, Packet, checksums_hold};
use weft_datapath::{Direction, DropReason, Verdict};

use crate::support::*;

/// Sends the pod's packet all the way out; what the uplink carries.
fn leave(bench: &mut Bench, packet: &[u8]) -> Vec<u8> {
    let inside = passes(bench, "from_pod", packet).packet;
    let outside = passes(bench, "to_net", &inside).packet;
    assert!(checksums_hold(&outside));
    outside
}

fn src(frame: &[u8]) -> (Ipv4Addr, u16) {
    let addr = Ipv4Addr::new(frame[26], frame[27], frame[28], frame[29]);
    (addr, u16::from_be_bytes([frame[34], frame[35]]))
}

fn dst(frame: &[u8]) -> (Ipv4Addr, u16) {
    let addr = Ipv4Addr::new(frame[30], frame[31], frame[32], frame[33]);
    (addr, u16::from_be_bytes([frame[36], frame[37]]))
}

#[test]
fn tcp_leaves_with_the_nodes_address_and_comes_back() {
    let mut bench = bench();
    set_policy(
        &mut bench,
        &[entry(Direction::Egress, 2, 80, Verdict::Allow)],
    );
    let (addr, port) = src(&leave(&mut bench, &sent((WORLD, 80), SYN)));
    assert_eq!(addr, NODE);
    assert!(port >= 61000, "{port}");
    assert_eq!(
        src(&leave(&mut bench, &sent((WORLD, 80), ACK))),
        (addr, port)
    );
    let answer = Packet::tcp((WORLD, 80), (NODE, port), SYN_ACK).build();
    let run = passes(&mut bench, "from_net", &answer);
    assert_eq!(dst(&run.packet), (POD, 40000));
    assert!(checksums_hold(&run.packet));
    passes(&mut bench, "to_pod", &run.packet);
    // From anybody else, or to another port, it is the node's.
    for (peer, port) in [((REMOTE, 80), port), ((WORLD, 80), port ^ 1)] {
        let packet = Packet::tcp(peer, (NODE, port), SYN_ACK).build();
        assert_eq!(dst(&passes(&mut bench, "from_net", &packet).packet).0, NODE);
    }
}

#[test]
fn udp_and_pings_too() {
    let mut bench = bench();
    let query = Packet::udp((POD, 40000), (WORLD, 53))
        .from_mac(pod().mac)
        .build();
    let (addr, port) = src(&leave(&mut bench, &query));
    assert_eq!(addr, NODE);
    let answer = Packet::udp((WORLD, 53), (NODE, port)).build();
    assert_eq!(
        dst(&passes(&mut bench, "from_net", &answer).packet),
        (POD, 40000)
    );

    let ping = Packet::icmp(POD, WORLD, 8, [0x12, 0x34, 0, 1])
        .from_mac(pod().mac)
        .build();
    let outside = leave(&mut bench, &ping);
    assert_eq!(src(&outside).0, NODE);
    let [high, low] = [outside[38], outside[39]];
    assert!(u16::from_be_bytes([high, low]) >= 61000);
    let pong = Packet::icmp(WORLD, NODE, 0, [high, low, 0, 1]).build();
    let inside = passes(&mut bench, "from_net", &pong).packet;
    assert_eq!(inside[30..34], POD.octets());
    assert_eq!(inside[38..40], [0x12, 0x34]);
    assert!(checksums_hold(&inside));
}

#[test]
fn an_error_about_a_masked_flow_finds_its_pod() {
    let mut bench = bench();
    set_policy(
        &mut bench,
        &[entry(Direction::Egress, 2, 80, Verdict::Allow)],
    );
    let outside = leave(&mut bench, &sent((WORLD, 80), SYN));
    let router = Ipv4Addr::new(198, 51, 100, 1);
    let error = Packet::unreachable(router, &outside).build();
    let inside = passes(&mut bench, "from_net", &error).packet;
    assert_eq!(inside[30..34], POD.octets());
    let quoted = &inside[14 + 20 + 8..];
    assert_eq!(quoted[12..16], POD.octets());
    assert_eq!(quoted[20..22], 40000_u16.to_be_bytes());
    assert!(checksums_hold(&inside));
}

#[test]
fn towards_pods_the_address_stays() {
    let mut bench = bench();
    let outside = leave(&mut bench, &sent((REMOTE, 80), SYN));
    assert_eq!(src(&outside), (POD, 40000));
}

#[test]
fn other_nodes_see_the_node() {
    let mut bench = bench();
    let outside = leave(&mut bench, &sent((OTHER_NODE, 22), SYN));
    assert_eq!(src(&outside).0, NODE);
}

#[test]
fn two_pods_never_share_a_port_towards_one_peer() {
    let mut bench = bench_with(|config| config.snat_ports = 62000..=62015);
    let mut ports = std::collections::HashSet::new();
    let mut exhausted = 0;
    for port in 40000..40064 {
        let packet = Packet::tcp((POD, port), (WORLD, 80), SYN)
            .from_mac(pod().mac)
            .build();
        let inside = passes(&mut bench, "from_pod", &packet).packet;
        let run = bench.run("to_net", &inside).unwrap();
        match run.outcome {
            weft_datapath::testing::Outcome::Pass => {
                assert!(ports.insert(src(&run.packet).1), "a port twice");
            }
            _ => exhausted += 1,
        }
    }
    assert!(
        ports.iter().all(|port| (62000..=62015).contains(port)),
        "{ports:?}"
    );
    assert!(
        ports.len() >= 12 && exhausted > 0,
        "{} {exhausted}",
        ports.len()
    );
    // Towards another peer the ports are free again.
    let packet = Packet::tcp((POD, 40000), (Ipv4Addr::new(203, 0, 113, 11), 80), SYN);
    leave(&mut bench, &packet.from_mac(pod().mac).build());
}

#[test]
fn what_cannot_be_masked_stays_in() {
    let mut bench = bench();
    let gre = Packet::raw(POD, WORLD, 47, vec![1; 8])
        .from_mac(pod().mac)
        .build();
    passes(&mut bench, "from_pod", &gre);
    drops(&mut bench, "to_net", &gre, DropReason::NatProtocol);
}
