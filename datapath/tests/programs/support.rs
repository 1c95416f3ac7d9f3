//! A node with a pod, and packets for it.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use weft_datapath::testing::{Bench, Outcome, Packet, Run, SMALL_TABLES, endpoint};
use weft_datapath::{
    Address, Config, Direction, DropReason, Endpoint, Event, EventKind, PolicyEntry, Verdict,
};

pub const NODE: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 2);
pub const OTHER_NODE: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 3);
pub const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 10);
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 10);
pub const WORLD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
pub const REMOTE_IDENTITY: u32 = 400;
pub const POD_IDENTITY: u32 = 300;
pub const POD_ID: u32 = 7;
pub const PROXY_PORT: u16 = 15001;
pub const TO_PROXY: u32 = 0x200;
pub const FROM_PROXY: u32 = 0xa00;
pub const JUDGED: u32 = 0xf00;

pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;
pub const SYN_ACK: u8 = 0x12;
pub const PSH_ACK: u8 = 0x18;
pub const FIN_ACK: u8 = 0x11;

/// A node with one pod, a remote pod and a remote node, and no policy. Packets
/// stay on the stack's way: there is no other end to redirect to.
pub fn bench() -> Bench {
    bench_with(|_| {})
}

pub fn bench_with(change: impl Fn(&mut Config)) -> Bench {
    let mut config = Config::new(NODE, "10.244.1.0/24".parse().unwrap());
    config.redirect_peer = false;
    config.tables = SMALL_TABLES;
    change(&mut config);
    let mut bench = Bench::new(&config).expect("loading eBPF programs needs root and bpffs");
    let mut ipcache = bench.datapath.ipcache().unwrap();
    let entries = [
        (
            NODE,
            Address {
                identity: 1,
                node: None,
            },
        ),
        (
            OTHER_NODE,
            Address {
                identity: 6,
                node: None,
            },
        ),
        (
            REMOTE,
            Address {
                identity: REMOTE_IDENTITY,
                node: Some(OTHER_NODE),
            },
        ),
    ];
    let entries = entries.map(|(addr, address)| (Ipv4Net::from(addr), address));
    ipcache.apply(&entries).unwrap();
    bench.announce(&pod()).unwrap();
    bench
}

pub fn pod() -> Endpoint {
    endpoint(POD_ID, POD_IDENTITY, POD)
}

/// The pod with default deny in both directions.
pub fn denied_pod() -> Endpoint {
    Endpoint {
        default_deny_ingress: true,
        default_deny_egress: true,
        policed: true,
        ..pod()
    }
}

/// An entry for exactly this peer and TCP port, as rule 11.
pub fn entry(direction: Direction, peer: u32, port: u16, verdict: Verdict) -> PolicyEntry {
    PolicyEntry {
        identity: peer,
        direction,
        protocol: 6,
        port,
        port_bits: 16,
        verdict,
        priority: if matches!(verdict, Verdict::Redirect(_)) {
            90
        } else {
            0
        },
        matched: 24,
        rule: 11,
    }
}

/// Sets the pod's policy and default deny, and has flows judged again.
pub fn set_policy(bench: &mut Bench, entries: &[PolicyEntry]) {
    bench
        .datapath
        .policy()
        .unwrap()
        .apply(POD_ID, entries)
        .unwrap();
    bench.announce(&denied_pod()).unwrap();
}

/// A segment that the pod sends.
pub fn sent(dst: (Ipv4Addr, u16), flags: u8) -> Vec<u8> {
    Packet::tcp((POD, 40000), dst, flags)
        .from_mac(pod().mac)
        .build()
}

/// A segment for the pod.
pub fn received(src: (Ipv4Addr, u16), dst_port: u16, flags: u8) -> Vec<u8> {
    Packet::tcp(src, (POD, dst_port), flags).build()
}

pub fn passes(bench: &mut Bench, program: &'static str, packet: &[u8]) -> Run {
    let run = bench.run(program, packet).unwrap();
    assert_eq!(
        run.outcome,
        Outcome::Pass,
        "{program}: {:?}",
        bench.events()
    );
    // Of a known packet nothing is left to do on its way out.
    let done = program == "from_pod" && run.mark == JUDGED;
    assert!(run.mark == 0 || done, "{program}: {:#x}", run.mark);
    run
}

/// Asserts that the packet is dropped and reported with this reason, once.
pub fn drops(bench: &mut Bench, program: &'static str, packet: &[u8], reason: DropReason) -> Event {
    bench.events();
    let run = bench.run(program, packet).unwrap();
    let events = bench.events();
    assert_eq!(run.outcome, Outcome::Drop, "{program}: {events:?}");
    let mut drops = events
        .iter()
        .filter(|event| matches!(event.kind, EventKind::Drop(_)));
    let event = drops.next().expect("a drop event");
    assert_eq!(event.kind, EventKind::Drop(reason), "{program}");
    assert_eq!(drops.next(), None, "one event per drop");
    event.clone()
}

pub fn kinds(events: &[Event]) -> Vec<EventKind> {
    events.iter().map(|event| event.kind).collect()
}
