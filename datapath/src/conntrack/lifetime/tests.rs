use std::net::{Ipv4Addr, SocketAddrV4};

use super::*;
use crate::config::raw_addr;

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 1_000_000 * SECOND;

fn end(text: &str) -> SocketAddrV4 {
    text.parse().unwrap()
}

fn tracked(src: &str, dst: &str, idle: u64, entry: CtEntry) -> (CtKey, CtEntry) {
    let raw = |end: SocketAddrV4| (raw_addr(*end.ip()), end.port().to_be());
    let (key, from_low) = CtKey::new(raw(end(src)), raw(end(dst)), protocol::TCP, Leg::Direct);
    let flags = entry.flags | if from_low { ct_flags::FROM_LOW } else { 0 };
    let last_seen = NOW - idle * SECOND;
    (
        key,
        CtEntry {
            flags,
            last_seen,
            ..entry
        },
    )
}

/// Which of these a sweep leaves.
fn kept(flows: &[(CtKey, CtEntry)]) -> Vec<bool> {
    let mut sweep = Sweep::new(NOW);
    let ended: Vec<bool> = flows
        .iter()
        .map(|(key, entry)| sweep.ends(key, entry))
        .collect();
    let orphans = sweep.orphans();
    let stays = |((key, _), ended): (&(CtKey, CtEntry), bool)| !ended && !orphans.contains(key);
    flows.iter().zip(ended).map(stays).collect()
}

/// Whether a sweep that finds these flows leaves an entry of masquerading.
fn keeps_nat(flows: &[(CtKey, CtEntry)], (key, entry): &(NatKey, NatEntry)) -> bool {
    let mut sweep = Sweep::new(NOW);
    for (key, entry) in flows {
        sweep.ends(key, entry);
    }
    !sweep.ends_nat(key, entry)
}

const ANSWERED: CtEntry = CtEntry {
    seen: [tcp::SYN, tcp::SYN | tcp::ACK],
    ..BLANK
};
const CLOSED: CtEntry = CtEntry {
    closing: tcp::FIN,
    ..ANSWERED
};
const BLANK: CtEntry = CtEntry {
    last_seen: 0,
    flags: 0,
    epoch: 0,
    rule: 0,
    xlate_addr: 0,
    xlate_port: 0,
    proxy_port: 0,
    seen: [0; 2],
    closing: 0,
    pad: 0,
    reported: [0; 2],
};

#[test]
fn timeouts_follow_the_connections_state() {
    let (a, b) = ("10.0.0.1:40000", "10.0.0.2:80");
    for (entry, idle, stays) in [
        (BLANK, 59, true),
        (BLANK, 61, false),
        (ANSWERED, 3600, true),
        (ANSWERED, 7 * 3600, false),
        (CLOSED, 9, true),
        (CLOSED, 11, false),
    ] {
        assert_eq!(
            kept(&[tracked(a, b, idle, entry)]),
            [stays],
            "{entry:?} {idle}"
        );
    }
}

#[test]
fn what_has_no_connection_is_forgotten_soon() {
    let answered = CtEntry {
        reported: [1, 1],
        ..BLANK
    };
    let goes_on = CtEntry {
        seen: [SEEN_GOES_ON; 2],
        ..answered
    };
    for protocol in [protocol::UDP, protocol::ICMP] {
        for (entry, idle, stays) in [
            (BLANK, 29, true),
            (BLANK, 31, false),
            (answered, 19, true),
            (answered, 21, false),
            (goes_on, 59, true),
            (goes_on, 61, false),
        ] {
            let (key, entry) = tracked("10.0.0.1:40000", "10.0.0.2:53", idle, entry);
            let key = CtKey { protocol, ..key };
            assert_eq!(kept(&[(key, entry)]), [stays], "{entry:?} {idle}");
        }
    }
}

#[test]
fn a_choice_lives_with_its_connection() {
    let service = end("10.96.0.1:80");
    let choice = CtEntry {
        flags: ct_flags::SERVICE,
        ..BLANK
    };
    let translated = CtEntry {
        flags: ct_flags::NAT,
        xlate_addr: raw_addr(*service.ip()),
        xlate_port: service.port().to_be(),
        ..ANSWERED
    };
    let choice = tracked("10.0.0.1:40000", "10.96.0.1:80", 3600, choice);
    let flow = |idle| tracked("10.0.0.1:40000", "10.0.0.2:8080", idle, translated);
    assert_eq!(kept(&[choice, flow(3600)]), [true, true]);
    assert_eq!(kept(&[choice, flow(7 * 3600)]), [false, false]);
    assert_eq!(kept(&[choice]), [false]);
    let itself = tracked("169.254.42.1:40000", "10.0.0.1:8080", 3600, translated);
    assert_eq!(kept(&[choice, itself]), [true, true]);
}

#[test]
fn masquerading_lives_with_its_flow() {
    let masqueraded = CtEntry {
        flags: ct_flags::MASQUERADE,
        ..ANSWERED
    };
    let flow = |idle, entry| tracked("10.0.0.1:40000", "203.0.113.1:80", idle, entry);
    let (key, entry) = flow(3600, ANSWERED);
    let upstream = CtKey {
        leg: Leg::Upstream as u8,
        ..key
    };
    let out = (
        nat_key(nat_kind::OUT, "10.0.0.1", 40000),
        nat_entry("172.18.0.2", 61000, 3600),
    );
    let back = (
        nat_key(nat_kind::IN, "172.18.0.2", 61000),
        nat_entry("10.0.0.1", 40000, 3600),
    );
    for side in [out, back] {
        assert!(keeps_nat(&[flow(3600, masqueraded)], &side));
        assert!(keeps_nat(&[(upstream, entry)], &side), "the proxy's");
        assert!(!keeps_nat(&[flow(7 * 3600, masqueraded)], &side));
        assert!(!keeps_nat(&[], &side));
    }
    // The flow's own entry may be written a moment later.
    let young = nat_entry("172.18.0.2", 61000, 1);
    assert!(keeps_nat(&[], &(out.0, young)));
}

fn nat_key(kind: u8, addr: &str, port: u16) -> NatKey {
    NatKey {
        addr: raw_addr(addr.parse().unwrap()),
        peer: raw_addr(Ipv4Addr::new(203, 0, 113, 1)),
        port: port.to_be(),
        peer_port: 80_u16.to_be(),
        protocol: protocol::TCP,
        kind,
        pad: 0,
    }
}

fn nat_entry(addr: &str, port: u16, idle: u64) -> NatEntry {
    NatEntry {
        last_seen: NOW - idle * SECOND,
        addr: raw_addr(addr.parse().unwrap()),
        port: port.to_be(),
        pad: 0,
    }
}
