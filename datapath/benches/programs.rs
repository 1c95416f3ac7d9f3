//! What the programs cost each packet of an established connection that an L4 policy allows, at
//! either end. Prints a line per program; needs root.
#![expect(clippy::expect_used, reason = "benchmark")]

use std::net::Ipv4Addr;

use weft_datapath::testing::{Bench, Outcome, Packet, endpoint};
use weft_datapath::{Address, Config, Direction, Endpoint, Marks, PolicyEntry, Verdict};

const NODE: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 2);
const OTHER_NODE: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 3);
const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 10);
const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 10);
const REMOTE_IDENTITY: u32 = 400;
const PORT: u16 = 80;

const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;

const RUNS: u32 = 1_000_000;
const ROUNDS: usize = 5;

fn allow(direction: Direction) -> PolicyEntry {
    PolicyEntry {
        identity: REMOTE_IDENTITY,
        direction,
        protocol: 6,
        port: PORT,
        port_bits: 16,
        verdict: Verdict::Allow,
        priority: 0,
        matched: 24,
        rule: 1,
    }
}

/// A pod behind an L4 policy in both directions, and a pod of another node.
fn stage() -> Bench {
    let mut config = Config::new(NODE, "10.244.1.0/24".parse().expect("a network"));
    // There is no other end to redirect to.
    config.redirect_peer = false;
    let mut bench = Bench::new(&config).expect("eBPF programs need root");
    let remote = Address {
        identity: REMOTE_IDENTITY,
        node: Some(OTHER_NODE),
    };
    let mut addresses = bench.datapath.ipcache().expect("a map");
    addresses.apply(&[(REMOTE.into(), remote)]).expect("room");
    let pod = Endpoint {
        default_deny_ingress: true,
        default_deny_egress: true,
        policed: true,
        ..endpoint(7, 300, POD)
    };
    let entries = [allow(Direction::Ingress), allow(Direction::Egress)];
    let mut policy = bench.datapath.policy().expect("a map");
    policy.apply(pod.id, &entries).expect("room");
    bench.announce(&pod).expect("room");
    bench
}

fn main() {
    let mut bench = stage();
    let mac = endpoint(7, 300, POD).mac;
    let sent = |flags| {
        Packet::tcp((POD, 40000), (REMOTE, PORT), flags)
            .from_mac(mac)
            .build()
    };
    let received = |flags| Packet::tcp((REMOTE, PORT), (POD, 40000), flags).build();
    for (program, packet) in [("from_pod", sent(SYN)), ("to_pod", received(SYN_ACK))] {
        let run = bench.run(program, &packet).expect("a run");
        assert_eq!(run.outcome, Outcome::Pass, "{:?}", bench.events());
    }
    let judged = Marks::default().judged;
    for (program, packet, mark) in [
        ("from_pod", sent(ACK), 0),
        ("to_net", sent(ACK), 0),
        ("to_net", sent(ACK), judged),
        ("from_net", received(ACK), 0),
        ("to_pod", received(ACK), 0),
    ] {
        let mut rounds: Vec<u64> = (0..ROUNDS)
            .map(|_round| {
                let run = bench
                    .run_marked(program, &packet, mark, RUNS)
                    .expect("runs");
                assert_eq!(run.outcome, Outcome::Pass, "{:?}", bench.events());
                run.nanos
            })
            .collect();
        rounds.sort_unstable();
        println!(
            "{program}, mark {mark:#x}: {} ns a packet",
            rounds[ROUNDS / 2]
        );
    }
}
