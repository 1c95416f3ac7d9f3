//! Addresses of services, in and out.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

use weft_datapath::testing::{Bench, Outcome, Packet, checksums_hold};
use weft_datapath::{Direction, DropReason, EventKind, Service, TracePoint, Verdict, XlatePoint};

use crate::support::*;

const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 77);

fn service(port: u16, protocol: u8, backends: &[(Ipv4Addr, u16)]) -> Service {
    Service {
        vip: VIP,
        port,
        protocol,
        backends: backends.to_vec(),
        redirect: None,
    }
}

fn with_services(bench: &mut Bench, services: &[Service]) {
    bench.datapath.services().unwrap().apply(services).unwrap();
}

fn ends(frame: &[u8]) -> (SocketAddrV4, SocketAddrV4) {
    let addr = |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    (
        SocketAddrV4::new(addr(26), port(34)),
        SocketAddrV4::new(addr(30), port(36)),
    )
}

#[test]
fn a_connection_goes_to_a_backend_and_answers_come_from_the_service() {
    let mut bench = bench();
    with_services(&mut bench, &[service(80, 6, &[(REMOTE, 8080)])]);
    bench.events();
    let run = passes(&mut bench, "from_pod", &sent((VIP, 80), SYN));
    assert_eq!(ends(&run.packet).1, SocketAddrV4::new(REMOTE, 8080));
    assert!(checksums_hold(&run.packet));
    let events = bench.events();
    assert_eq!(
        kinds(&events),
        [
            EventKind::Translation(XlatePoint::PreForward),
            EventKind::Translation(XlatePoint::PostForward),
            EventKind::Trace(TracePoint::ToStack),
        ]
    );
    assert_eq!((events[0].dst, events[0].dst_port), (IpAddr::from(VIP), 80));
    assert_eq!(
        (events[1].dst, events[1].dst_port),
        (IpAddr::from(REMOTE), 8080)
    );
    assert_eq!(events[1].service, Some(SocketAddrV4::new(VIP, 80)));

    let run = passes(&mut bench, "from_pod", &sent((VIP, 80), ACK));
    assert_eq!(ends(&run.packet).1, SocketAddrV4::new(REMOTE, 8080));
    bench.events();
    let answer = received((REMOTE, 8080), 40000, SYN_ACK);
    passes(&mut bench, "from_net", &answer);
    let run = passes(&mut bench, "to_pod", &answer);
    assert_eq!(ends(&run.packet).0, SocketAddrV4::new(VIP, 80));
    assert!(checksums_hold(&run.packet));
    let data = received((REMOTE, 8080), 40000, PSH_ACK);
    passes(&mut bench, "to_pod", &data);
    passes(&mut bench, "to_pod", &data);
    let translations: Vec<_> = bench
        .events()
        .into_iter()
        .filter(|event| matches!(event.kind, EventKind::Translation(_)))
        .collect();
    assert_eq!(
        kinds(&translations),
        [EventKind::Translation(XlatePoint::PreReverse)]
    );
    assert_eq!(
        (translations[0].src, translations[0].src_port),
        (IpAddr::from(POD), 40000)
    );
    assert_eq!(translations[0].dst, IpAddr::from(REMOTE));
}

#[test]
fn policy_judges_the_backend() {
    let mut bench = bench();
    with_services(&mut bench, &[service(80, 6, &[(REMOTE, 8080)])]);
    set_policy(
        &mut bench,
        &[entry(
            Direction::Egress,
            REMOTE_IDENTITY,
            8080,
            Verdict::Allow,
        )],
    );
    passes(&mut bench, "from_pod", &sent((VIP, 80), SYN));
    set_policy(
        &mut bench,
        &[entry(Direction::Egress, 2, 80, Verdict::Allow)],
    );
    drops(
        &mut bench,
        "from_pod",
        &sent((VIP, 80), SYN),
        DropReason::PolicyDenied,
    );
}

#[test]
fn a_repeated_syn_meets_the_same_backend_and_all_backends_are_met() {
    let mut bench = bench();
    let backends: Vec<_> = (1..=4).map(|port| (REMOTE, port)).collect();
    with_services(&mut bench, &[service(80, 6, &backends)]);
    let mut met = std::collections::HashSet::new();
    for port in 40000..40064 {
        let syn = Packet::tcp((POD, port), (VIP, 80), SYN)
            .from_mac(pod().mac)
            .build();
        let first = ends(&passes(&mut bench, "from_pod", &syn).packet).1;
        assert_eq!(ends(&passes(&mut bench, "from_pod", &syn).packet).1, first);
        met.insert(first.port());
    }
    assert_eq!(met.len(), 4);
}

#[test]
fn datagrams_are_translated_both_ways() {
    let mut bench = bench();
    with_services(&mut bench, &[service(53, 17, &[(REMOTE, 5353)])]);
    let query = Packet::udp((POD, 40000), (VIP, 53))
        .from_mac(pod().mac)
        .build();
    let run = passes(&mut bench, "from_pod", &query);
    assert_eq!(ends(&run.packet).1, SocketAddrV4::new(REMOTE, 5353));
    assert!(checksums_hold(&run.packet));
    let answer = Packet::udp((REMOTE, 5353), (POD, 40000)).build();
    let run = passes(&mut bench, "to_pod", &answer);
    assert_eq!(ends(&run.packet).0, SocketAddrV4::new(VIP, 53));
    assert!(checksums_hold(&run.packet));
    let mut unchecked = answer.clone();
    unchecked[40..42].fill(0);
    let run = passes(&mut bench, "to_pod", &unchecked);
    assert_eq!(run.packet[40..42], [0, 0], "no checksum stays none");
}

#[test]
fn a_removed_datagram_backend_loses_its_clients() {
    let mut bench = bench();
    let mut services = bench.datapath.services().unwrap();
    services.apply(&[service(53, 17, &[(REMOTE, 1)])]).unwrap();
    let query = Packet::udp((POD, 40000), (VIP, 53))
        .from_mac(pod().mac)
        .build();
    assert_eq!(
        ends(&passes(&mut bench, "from_pod", &query).packet)
            .1
            .port(),
        1
    );
    services.apply(&[service(53, 17, &[(REMOTE, 2)])]).unwrap();
    bench.datapath.conntrack().unwrap().forget().unwrap();
    assert_eq!(
        ends(&passes(&mut bench, "from_pod", &query).packet)
            .1
            .port(),
        2
    );
}

#[test]
fn no_backend_and_unknown_ports_are_refused() {
    let mut bench = bench();
    with_services(
        &mut bench,
        &[service(80, 6, &[]), service(81, 6, &[(REMOTE, 81)])],
    );
    drops(
        &mut bench,
        "from_pod",
        &sent((VIP, 80), SYN),
        DropReason::NoBackend,
    );
    drops(
        &mut bench,
        "from_pod",
        &sent((VIP, 82), SYN),
        DropReason::NoBackend,
    );
    let ping = Packet::icmp(POD, VIP, 8, [0; 4])
        .from_mac(pod().mac)
        .build();
    drops(&mut bench, "from_pod", &ping, DropReason::NoBackend);
    // Nobody answers in a service's name.
    let forged = received((VIP, 80), 40000, SYN);
    drops(&mut bench, "from_net", &forged, DropReason::InvalidSourceIp);
}

#[test]
fn a_pod_reaches_itself() {
    let mut bench = bench();
    with_services(&mut bench, &[service(80, 6, &[(POD, 8080)])]);
    set_policy(&mut bench, &[]);
    let run = passes(&mut bench, "from_pod", &sent((VIP, 80), SYN));
    let hairpin = Ipv4Addr::new(169, 254, 42, 1);
    let seen = (
        SocketAddrV4::new(hairpin, 40000),
        SocketAddrV4::new(POD, 8080),
    );
    assert_eq!(ends(&run.packet), seen);
    assert!(checksums_hold(&run.packet));
    passes(&mut bench, "to_pod", &run.packet);
    let answer = Packet::tcp((POD, 8080), (hairpin, 40000), SYN_ACK)
        .from_mac(pod().mac)
        .build();
    let run = passes(&mut bench, "from_pod", &answer);
    let seen = (SocketAddrV4::new(VIP, 80), SocketAddrV4::new(POD, 40000));
    assert_eq!(ends(&run.packet), seen);
    assert!(checksums_hold(&run.packet));
    passes(&mut bench, "to_pod", &run.packet);
}

#[test]
fn a_service_of_the_proxy_keeps_its_address() {
    let mut bench = bench();
    let service = Service {
        redirect: Some(PROXY_PORT),
        ..service(80, 6, &[(REMOTE, 8080)])
    };
    with_services(&mut bench, &[service]);
    set_policy(&mut bench, &[]);
    bench.events();
    // Not judged here: the proxy does that for the backend that it chooses.
    let packet = sent((VIP, 80), SYN);
    let run = bench.run("from_pod", &packet).unwrap();
    assert_eq!((run.outcome, run.mark), (Outcome::Drop, TO_PROXY));
    assert_eq!(ends(&run.packet).1, SocketAddrV4::new(VIP, 80));
    assert_eq!(
        kinds(&bench.events()),
        [EventKind::Drop(DropReason::ProxyNotListening)]
    );
    // Its answers reach the pod.
    let answer = received((VIP, 80), 40000, SYN_ACK);
    let run = bench.run_marked("to_pod", &answer, FROM_PROXY, 1).unwrap();
    assert_eq!(run.outcome, Outcome::Pass);
}

#[test]
fn an_error_for_a_client_speaks_of_the_service() {
    let mut bench = bench();
    with_services(&mut bench, &[service(53, 17, &[(REMOTE, 5353)])]);
    let query = Packet::udp((POD, 40000), (VIP, 53))
        .from_mac(pod().mac)
        .build();
    let translated = passes(&mut bench, "from_pod", &query).packet;
    let error = Packet::unreachable(REMOTE, &translated).build();
    passes(&mut bench, "from_net", &error);
    let run = passes(&mut bench, "to_pod", &error);
    let quoted = &run.packet[14 + 20 + 8..];
    assert_eq!(
        (&quoted[16..20], &quoted[22..24]),
        (&VIP.octets()[..], &53_u16.to_be_bytes()[..])
    );
    assert!(checksums_hold(&run.packet));
}

#[test]
fn a_new_handle_finds_what_an_old_one_wrote() {
    let mut bench = bench();
    let wanted = [
        service(80, 6, &[(REMOTE, 1), (REMOTE, 2)]),
        service(53, 17, &[(REMOTE, 3)]),
    ];
    let added = bench.datapath.services().unwrap().apply(&wanted).unwrap();
    assert_eq!((added.added, added.updated, added.removed), (2, 0, 0));
    let mut services = bench.datapath.services().unwrap();
    assert!(services.apply(&wanted).unwrap().is_empty());
    assert_eq!(services.apply(&wanted[..1]).unwrap().removed, 1);
    assert_eq!(services.apply(&[]).unwrap().removed, 1);
    passes(&mut bench, "from_pod", &sent((VIP, 80), SYN));
}
