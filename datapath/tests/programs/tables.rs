//! Reading whole tables: what it costs, and what is forgotten when.

use std::net::Ipv4Addr;

use weft_datapath::testing::{Packet, SMALL_TABLES, TempBpffs, bpf_calls, endpoint, fill};
use weft_datapath::{Config, Datapath, DropReason, TableSizes};

use crate::support::*;

const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 11);

fn addresses(count: u8) -> Vec<Ipv4Addr> {
    (0..count)
        .map(|low| Ipv4Addr::new(10, 244, 1, 20 + low))
        .collect()
}

/// The bounds of what is promised: a batch has thousands of entries, and pods
/// that go together share the pass.
#[test]
fn a_pass_takes_few_calls_however_many_pods_go() {
    const ENTRIES: usize = 50_000;
    let mut bench = bench_with(|config| {
        config.tables = TableSizes {
            conntrack: 65_536,
            nat: 32_768,
        };
    });
    let pods = addresses(50);
    let filled = fill(&bench.datapath, &pods, ENTRIES).unwrap();
    let mut conntrack = bench.datapath.conntrack().unwrap();
    let (calls, report) = bpf_calls(|| conntrack.gc().unwrap()).unwrap();
    assert_eq!(report.kept, filled.conntrack + filled.nat);
    assert!(calls < 60, "{calls} calls for a sweep of {filled:?}");
    let mut forgotten = 0;
    for (together, bound) in [(1, 60), (20, 120)] {
        for pod in &pods[forgotten..][..together] {
            bench.datapath.detach_endpoint(*pod).unwrap();
        }
        let (calls, removed) = bpf_calls(|| conntrack.forget().unwrap()).unwrap();
        let per_pod = (filled.conntrack + filled.nat) / pods.len();
        assert!(removed >= together * (per_pod - 4), "{removed} entries");
        assert!(calls < bound, "{calls} calls for {together} pods");
        forgotten += together;
    }
    let flows = conntrack.entries().unwrap();
    assert!(!flows.is_empty());
    let gone = &pods[..forgotten];
    assert!(flows.iter().all(|flow| !gone.contains(flow.src.ip())));
}

#[test]
fn an_address_is_nobodys_before_its_flows_are_forgotten() {
    let mut bench = bench();
    passes(&mut bench, "from_pod", &sent((REMOTE, 80), SYN));
    bench.datapath.detach_endpoint(POD).unwrap();
    let conntrack = bench.datapath.conntrack().unwrap();
    assert_eq!(conntrack.entries().unwrap().len(), 1);
    bench.announce(&endpoint(9, 301, POD)).unwrap();
    assert_eq!(conntrack.entries().unwrap(), []);
    // Once is enough: what its next owner opens stays.
    passes(&mut bench, "from_pod", &sent_by(9, SYN));
    bench.announce(&endpoint(9, 302, POD)).unwrap();
    assert_eq!(bench.datapath.conntrack().unwrap().forget().unwrap(), 0);
    assert_eq!(conntrack.entries().unwrap().len(), 1);
}

fn sent_by(id: u32, flags: u8) -> Vec<u8> {
    Packet::tcp((POD, 40000), (REMOTE, 80), flags)
        .from_mac(endpoint(id, 0, POD).mac)
        .build()
}

/// Until its flows are forgotten they lead nowhere: the stack would take the
/// packet to whoever has the address by then.
#[test]
fn a_known_flow_ends_with_its_pod() {
    let mut bench = bench();
    bench.announce(&endpoint(8, 301, NEIGHBOUR)).unwrap();
    // Again, to be the one behind the interface.
    bench.announce(&pod()).unwrap();
    let packet = |flags| sent((NEIGHBOUR, 80), flags);
    passes(&mut bench, "from_pod", &packet(SYN));
    passes(&mut bench, "from_pod", &packet(ACK));
    bench.datapath.detach_endpoint(NEIGHBOUR).unwrap();
    let ack = packet(ACK);
    drops(&mut bench, "from_pod", &ack, DropReason::NoEndpoint);
    let refused = Packet::unreachable(POD, &received((NEIGHBOUR, 80), 40000, ACK))
        .from_mac(pod().mac)
        .build();
    drops(&mut bench, "from_pod", &refused, DropReason::NoEndpoint);
}

#[test]
fn what_a_loader_did_not_come_to_forget_the_next_one_does() {
    let bpffs = TempBpffs::new().unwrap();
    let pins = bpffs.path().join("node");
    let mut config = Config::new(NODE, "10.244.1.0/24".parse().unwrap());
    config.tables = SMALL_TABLES;
    let mut first = Datapath::load(&pins, &config).unwrap();
    let pods = addresses(2);
    let filled = fill(&first, &pods, 100).unwrap();
    first.detach_endpoint(pods[0]).unwrap();
    drop(first);
    let second = Datapath::load(&pins, &config).unwrap();
    let mut conntrack = second.conntrack().unwrap();
    assert_ne!(conntrack.forget().unwrap(), 0);
    let left = conntrack.entries().unwrap();
    assert_eq!(left.len(), filled.conntrack / 2);
    assert!(left.iter().all(|flow| *flow.src.ip() == pods[1]));
    assert_eq!(conntrack.forget().unwrap(), 0, "done");
}
