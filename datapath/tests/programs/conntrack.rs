//! What is remembered of flows.

use weft_datapath::testing::{Bench, Outcome, Packet, SMALL_TABLES};
use weft_datapath::{Action, Direction, DropReason, EventKind, MatchType, TracePoint, Verdict};

use crate::support::*;

fn answer(flags: u8) -> Vec<u8> {
    received((REMOTE, 80), 40000, flags)
}

fn allow_egress(bench: &mut Bench) {
    set_policy(
        bench,
        &[entry(
            Direction::Egress,
            REMOTE_IDENTITY,
            80,
            Verdict::Allow,
        )],
    );
}

#[test]
fn answers_need_no_rule() {
    let mut bench = bench();
    allow_egress(&mut bench);
    drops(
        &mut bench,
        "from_net",
        &answer(SYN_ACK),
        DropReason::PolicyDenied,
    );
    passes(&mut bench, "from_pod", &sent((REMOTE, 80), SYN));
    passes(&mut bench, "from_net", &answer(SYN_ACK));
    passes(&mut bench, "from_pod", &sent((REMOTE, 80), ACK));
    passes(&mut bench, "from_net", &answer(PSH_ACK));
}

#[test]
fn a_syn_is_never_an_answer() {
    let mut bench = bench();
    allow_egress(&mut bench);
    passes(&mut bench, "from_pod", &sent((REMOTE, 80), SYN));
    drops(
        &mut bench,
        "from_net",
        &answer(SYN),
        DropReason::PolicyDenied,
    );
    // And changes nothing for the connection.
    passes(&mut bench, "from_net", &answer(SYN_ACK));
}

#[test]
fn an_epoch_cuts_what_is_no_longer_allowed_in_both_directions() {
    let mut bench = bench();
    allow_egress(&mut bench);
    passes(&mut bench, "from_pod", &sent((REMOTE, 80), SYN));
    passes(&mut bench, "from_net", &answer(SYN_ACK));
    set_policy(
        &mut bench,
        &[entry(Direction::Ingress, 0, 40000, Verdict::Allow)],
    );
    // The server goes on sending. Taken for a new flow it would be allowed.
    drops(
        &mut bench,
        "from_net",
        &answer(PSH_ACK),
        DropReason::PolicyDenied,
    );
    drops(
        &mut bench,
        "from_net",
        &answer(PSH_ACK),
        DropReason::PolicyDenied,
    );
    drops(
        &mut bench,
        "from_pod",
        &sent((REMOTE, 80), ACK),
        DropReason::PolicyDenied,
    );
    let flows = bench.datapath.conntrack().unwrap().entries().unwrap();
    assert!(flows.iter().any(|flow| flow.revoked), "{flows:?}");
    // Allowed again, it lives on.
    allow_egress(&mut bench);
    passes(&mut bench, "from_net", &answer(PSH_ACK));
}

#[test]
fn an_epoch_leaves_alone_what_is_still_allowed() {
    let mut bench = bench();
    allow_egress(&mut bench);
    passes(&mut bench, "from_pod", &sent((REMOTE, 80), SYN));
    passes(&mut bench, "from_net", &answer(SYN_ACK));
    passes(&mut bench, "from_pod", &sent((REMOTE, 80), ACK));
    bench.datapath.bump_epoch().unwrap();
    bench.events();
    passes(&mut bench, "from_net", &answer(ACK));
    passes(&mut bench, "from_pod", &sent((REMOTE, 80), ACK));
    assert_eq!(kinds(&bench.events()), []);
}

#[test]
fn a_new_redirect_catches_an_old_connection() {
    let mut bench = bench();
    allow_egress(&mut bench);
    passes(&mut bench, "from_pod", &sent((REMOTE, 80), SYN));
    passes(&mut bench, "from_net", &answer(SYN_ACK));
    let redirect = Verdict::Redirect(PROXY_PORT);
    set_policy(
        &mut bench,
        &[entry(Direction::Egress, REMOTE_IDENTITY, 80, redirect)],
    );
    // The destination no longer reaches the pod, nor the pod the destination.
    drops(
        &mut bench,
        "from_net",
        &answer(PSH_ACK),
        DropReason::PolicyDenied,
    );
    let packet = sent((REMOTE, 80), PSH_ACK);
    let drop = drops(&mut bench, "from_pod", &packet, DropReason::PolicyDenied);
    assert_eq!((drop.rule, drop.endpoint), (11, POD_ID));
    let run = bench.run("from_pod", &packet).unwrap();
    assert_eq!((run.outcome, run.mark), (Outcome::Drop, TO_PROXY));
    // One that the table lost is no other.
    let another = Packet::tcp((POD, 40001), (REMOTE, 80), PSH_ACK)
        .from_mac(pod().mac)
        .build();
    drops(&mut bench, "from_pod", &another, DropReason::PolicyDenied);
}

#[test]
fn a_full_table_tells_what_it_pushed_out() {
    let mut bench = bench();
    let mut conntrack = bench.datapath.conntrack().unwrap();
    let empty = conntrack.gc().unwrap().conntrack;
    assert_eq!((empty.entries, empty.evicted), (0, 0));
    let open = |bench: &mut Bench, ports: std::ops::Range<u16>| {
        for port in ports {
            let packet = Packet::tcp((POD, port), (WORLD, 80), SYN);
            let packet = packet.from_mac(pod().mac).build();
            passes(bench, "from_pod", &packet);
        }
    };
    open(&mut bench, 10_000..11_000);
    let some = conntrack.gc().unwrap().conntrack;
    assert_eq!((some.entries, some.evicted), (1000, 0));
    // Neither the same again nor what user space removes is an eviction.
    open(&mut bench, 10_000..11_000);
    bench.datapath.detach_endpoint(POD).unwrap();
    bench.announce(&pod()).unwrap();
    let none = conntrack.gc().unwrap().conntrack;
    assert_eq!((none.entries, none.evicted), (0, 0));
    open(&mut bench, 10_000..20_000);
    let full = conntrack.gc().unwrap().conntrack;
    assert_eq!(full.capacity, SMALL_TABLES.conntrack);
    assert!(full.entries <= full.capacity as usize, "{full:?}");
    assert_eq!(full.entries as u64 + full.evicted, 10_000, "{full:?}");
    assert_eq!(full.refused, 0);
}

/// A question and its answer are forgotten before an exchange that goes on.
#[test]
fn datagrams_that_go_on_are_told_from_a_question_and_its_answer() {
    let mut bench = bench_with(|config| config.report_interval = std::time::Duration::ZERO);
    let question = Packet::udp((POD, 40000), (REMOTE, 53))
        .from_mac(pod().mac)
        .build();
    let answer = Packet::udp((REMOTE, 53), (POD, 40000)).build();
    let goes_on = |bench: &Bench| {
        let flows = bench.datapath.conntrack().unwrap().entries().unwrap();
        (flows[0].answered, flows[0].goes_on)
    };
    passes(&mut bench, "from_pod", &question);
    assert_eq!(goes_on(&bench), (false, false));
    passes(&mut bench, "from_net", &answer);
    passes(&mut bench, "to_pod", &answer);
    assert_eq!(goes_on(&bench), (true, false));
    passes(&mut bench, "to_pod", &answer);
    assert_eq!(goes_on(&bench), (true, true));
}

#[test]
fn a_removed_address_leaves_nothing_behind() {
    let mut bench = bench();
    allow_egress(&mut bench);
    passes(&mut bench, "from_pod", &sent((REMOTE, 80), SYN));
    passes(&mut bench, "from_net", &answer(SYN_ACK));
    bench.datapath.detach_endpoint(POD).unwrap();
    drops(
        &mut bench,
        "from_net",
        &answer(PSH_ACK),
        DropReason::NoEndpoint,
    );
    let mut conntrack = bench.datapath.conntrack().unwrap();
    assert_eq!(conntrack.forget().unwrap(), 1);
    assert_eq!(conntrack.entries().unwrap(), []);
    let successor = weft_datapath::Endpoint {
        id: 8,
        identity: 301,
        ..denied_pod()
    };
    bench.announce(&successor).unwrap();
    drops(
        &mut bench,
        "from_net",
        &answer(PSH_ACK),
        DropReason::PolicyDenied,
    );
}

#[test]
fn reports_follow_the_flags() {
    let mut bench = bench();
    let flags = |bench: &mut Bench| -> Vec<(EventKind, u8, Option<bool>)> {
        bench
            .events()
            .iter()
            .map(|event| (event.kind, event.tcp_flags, event.reply))
            .collect()
    };
    let to_stack = |flags| (EventKind::Trace(TracePoint::ToStack), flags, Some(false));
    bench.events();
    for sent_flags in [SYN, ACK, PSH_ACK, PSH_ACK, ACK, PSH_ACK, FIN_ACK, ACK, ACK] {
        passes(&mut bench, "from_pod", &sent((WORLD, 80), sent_flags));
    }
    assert_eq!(
        flags(&mut bench),
        [SYN, ACK, PSH_ACK, FIN_ACK, ACK].map(to_stack)
    );
}

#[test]
fn into_the_overlay_is_reported_where_it_happens() {
    let mut bench = bench_with(|config| config.overlay = Some(8472));
    bench.events();
    for flags in [SYN, ACK, PSH_ACK, PSH_ACK] {
        passes(&mut bench, "from_pod", &sent((REMOTE, 80), flags));
        passes(&mut bench, "to_overlay", &sent((REMOTE, 80), flags));
    }
    let events = bench.events();
    let seen: Vec<_> = events.iter().map(|event| event.tcp_flags).collect();
    assert_eq!(seen, [SYN, ACK, PSH_ACK]);
    for event in &events {
        assert_eq!(event.kind, EventKind::Trace(TracePoint::ToOverlay));
        assert_eq!(
            (event.dst_identity, event.endpoint),
            (REMOTE_IDENTITY, POD_ID)
        );
        assert_eq!(event.direction, Direction::Egress);
    }
}

#[test]
fn an_error_about_a_flow_passes_any_other_is_judged() {
    let mut bench = bench();
    let udp = |port| {
        Packet::udp((POD, 40000), (REMOTE, port))
            .from_mac(pod().mac)
            .build()
    };
    let mut allow = entry(Direction::Egress, REMOTE_IDENTITY, 53, Verdict::Allow);
    allow.protocol = 17;
    set_policy(&mut bench, &[allow]);
    passes(&mut bench, "from_pod", &udp(53));
    passes(
        &mut bench,
        "from_net",
        &Packet::unreachable(REMOTE, &udp(53)).build(),
    );
    // A router on the way may report as well.
    passes(
        &mut bench,
        "from_net",
        &Packet::unreachable(OTHER_NODE, &udp(53)).build(),
    );
    let unrelated = Packet::unreachable(REMOTE, &udp(54)).build();
    drops(&mut bench, "from_net", &unrelated, DropReason::PolicyDenied);
}

#[test]
fn a_probe_of_the_node_is_no_way_in_for_others() {
    let mut bench = bench();
    set_policy(&mut bench, &[]);
    passes(&mut bench, "to_pod", &received((NODE, 5000), 80, SYN));
    drops(
        &mut bench,
        "from_net",
        &received((NODE, 5000), 80, ACK),
        DropReason::InvalidSourceIp,
    );
    let verdict = EventKind::PolicyVerdict {
        action: Action::Deny,
        matched: MatchType::None,
    };
    bench.events();
    let run = bench
        .run("from_net", &received((REMOTE, 5000), 80, SYN))
        .unwrap();
    assert_eq!(run.outcome, Outcome::Drop);
    assert!(kinds(&bench.events()).contains(&verdict));
}

#[test]
fn sweeping_keeps_live_flows() {
    let mut bench = bench();
    passes(&mut bench, "from_pod", &sent((WORLD, 80), SYN));
    let report = bench.datapath.conntrack().unwrap().gc().unwrap();
    assert_eq!((report.kept, report.removed), (1, 0));
}

#[test]
fn without_aggregation_every_packet_is_told() {
    let mut bench = bench_with(|config| {
        config.aggregation = weft_datapath::Aggregation::None;
        config.overlay = Some(8472);
    });
    bench.events();
    for _ in 0..3 {
        passes(&mut bench, "from_pod", &sent((WORLD, 80), ACK));
        let (came, left) = (TracePoint::FromEndpoint, TracePoint::ToStack);
        assert_eq!(kinds(&bench.events()), [came, left].map(EventKind::Trace));
        passes(
            &mut bench,
            "from_overlay",
            &received((REMOTE, 5000), 80, ACK),
        );
        let events = bench.events();
        assert_eq!(kinds(&events), [EventKind::Trace(TracePoint::FromOverlay)]);
        assert_eq!(
            (events[0].src_identity, events[0].reply),
            (REMOTE_IDENTITY, None)
        );
    }
}
