//! What reading tables costs that are as full as those of a busy node: the
//! sweep, and forgetting the connections of pods that are gone. Prints a line
//! for each; needs root and strace.
#![expect(clippy::expect_used, reason = "benchmark")]

use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use weft_datapath::testing::{Bench, Filled, bpf_calls, endpoint, fill};
use weft_datapath::{Config, Conntrack};

const NODE: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 2);
const PODS: u8 = 100;
const ENTRIES: usize = 500_000;
/// Pods that go at once.
const TOGETHER: u8 = 20;

fn pod(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 1, 10 + number)
}

/// A node whose pods have many connections.
fn stage() -> (Bench, Filled) {
    let config = Config::new(NODE, "10.244.1.0/24".parse().expect("a network"));
    let mut bench = Bench::new(&config).expect("eBPF programs need root");
    let pods: Vec<Ipv4Addr> = (0..PODS).map(pod).collect();
    for (id, addr) in (1..).zip(&pods) {
        bench.announce(&endpoint(id, 300, *addr)).expect("room");
    }
    let filled = fill(&bench.datapath, &pods, ENTRIES).expect("room");
    (bench, filled)
}

fn remove(bench: &mut Bench, conntrack: &mut Conntrack, pods: std::ops::Range<u8>) {
    for number in pods {
        let removed = bench.datapath.detach_endpoint(pod(number));
        removed.expect("removed");
    }
    assert_ne!(conntrack.forget().expect("forgotten"), 0);
}

/// Runs it and prints what it took.
fn measure(what: &str, run: impl FnOnce()) {
    let cpu_before = cpu();
    let start = Instant::now();
    run();
    let took = start.elapsed();
    let cpu = cpu() - cpu_before;
    println!("{what}: {took:.1?}, {cpu:.0?} of processor time");
}

/// Runs it under strace and prints the calls.
fn count(what: &str, run: impl FnOnce()) {
    let (calls, ()) = bpf_calls(run).expect("strace");
    println!("{what}: {calls} bpf calls");
}

/// Processor time of this process, to the clock tick.
fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").expect("proc");
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks: u64 = after_name
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|number| number.parse::<u64>().ok())
        .sum();
    // USER_HZ is 100 everywhere.
    Duration::from_millis(ticks * 10)
}

fn main() {
    let (mut bench, filled) = stage();
    let mut conntrack = bench.datapath.conntrack().expect("maps");
    println!("{filled:?}, {PODS} pods");
    measure("a sweep", || {
        let removed = conntrack.gc().expect("a sweep").removed;
        assert_eq!(removed, 0, "nothing has timed out");
    });
    measure("one pod gone", || remove(&mut bench, &mut conntrack, 0..1));
    measure(&format!("{TOGETHER} pods gone"), || {
        remove(&mut bench, &mut conntrack, 1..1 + TOGETHER);
    });
    count("a sweep", || {
        conntrack.gc().expect("a sweep");
    });
    count("one pod gone", || {
        remove(&mut bench, &mut conntrack, 50..51)
    });
    count(&format!("{TOGETHER} pods gone"), || {
        remove(&mut bench, &mut conntrack, 60..60 + TOGETHER);
    });
}
