//! Which entry decides.

use std::net::IpAddr;

use weft_datapath::testing::{Bench, Outcome, Packet};
use weft_datapath::{
    Action, Direction, DropReason, EventKind, MatchType, POLICY_ENTRIES, PolicyEntry, TracePoint,
    Verdict,
};

use crate::support::*;

#[test]
fn without_policy_everything_passes_and_no_verdict_is_reported() {
    let mut bench = bench();
    passes(&mut bench, "from_pod", &sent((WORLD, 80), SYN));
    assert_eq!(
        kinds(&bench.events()),
        [EventKind::Trace(TracePoint::ToStack)]
    );
    passes(&mut bench, "from_net", &received((REMOTE, 5000), 80, SYN));
    assert_eq!(kinds(&bench.events()), []);
}

#[test]
fn default_deny_drops_with_verdict_and_drop() {
    let mut bench = bench();
    set_policy(&mut bench, &[]);
    bench.events();
    let packet = received((REMOTE, 5000), 80, SYN);
    assert_eq!(
        bench.run("from_net", &packet).unwrap().outcome,
        Outcome::Drop
    );
    let events = bench.events();
    let verdict = EventKind::PolicyVerdict {
        action: Action::Deny,
        matched: MatchType::None,
    };
    assert_eq!(
        kinds(&events),
        [verdict, EventKind::Drop(DropReason::PolicyDenied)]
    );
    for event in events {
        assert_eq!((event.src, event.src_port), (IpAddr::from(REMOTE), 5000));
        assert_eq!((event.dst, event.dst_port), (IpAddr::from(POD), 80));
        assert_eq!(
            (event.src_identity, event.dst_identity),
            (REMOTE_IDENTITY, POD_IDENTITY)
        );
        assert_eq!(
            (event.endpoint, event.direction),
            (POD_ID, Direction::Ingress)
        );
        assert_eq!((event.tcp_flags, event.reply), (SYN, None));
    }
}

fn allow(peer: u32, port: u16) -> PolicyEntry {
    entry(Direction::Ingress, peer, port, Verdict::Allow)
}

/// A pod that nobody asks about takes all that is left of the map.
fn crowd_out(bench: &mut Bench) -> u32 {
    let crowd: Vec<_> = (1000..264_000).map(|peer| allow(peer, 80)).collect();
    let other = POD_ID + 1;
    let mut policy = bench.datapath.policy().unwrap();
    let held = policy.len();
    assert!(policy.apply(other, &crowd).is_err());
    let full = policy.usage();
    let room = POLICY_ENTRIES as usize;
    assert_eq!((full.entries, full.capacity), (room, POLICY_ENTRIES));
    assert_eq!(full.refused, (held + crowd.len() - room) as u64);
    other
}

#[test]
fn without_room_for_new_entries_old_permissions_go_all_the_same() {
    let mut bench = bench();
    set_policy(&mut bench, &[allow(REMOTE_IDENTITY, 80)]);
    let other = crowd_out(&mut bench);
    passes(&mut bench, "from_net", &received((REMOTE, 5000), 80, SYN));
    let replaced = [allow(901, 80), allow(902, 80)];
    let applied = bench.datapath.policy().unwrap().apply(POD_ID, &replaced);
    assert!(applied.is_err(), "room was made for one, not for two");
    drops(
        &mut bench,
        "from_net",
        &received((REMOTE, 5001), 80, SYN),
        DropReason::PolicyDenied,
    );
    bench.datapath.policy().unwrap().apply(other, &[]).unwrap();
    set_policy(&mut bench, &replaced);
}

#[test]
fn without_room_for_a_deny_nothing_is_allowed_in_its_place() {
    let mut bench = bench();
    let peer = PolicyEntry {
        protocol: 0,
        port: 0,
        port_bits: 0,
        matched: 0,
        ..allow(REMOTE_IDENTITY, 0)
    };
    set_policy(&mut bench, &[peer, allow(901, 80)]);
    let other = crowd_out(&mut bench);
    let apply = |bench: &mut Bench, entries: &[PolicyEntry]| {
        let applied = bench.datapath.policy().unwrap().apply(POD_ID, entries);
        bench.announce(&denied_pod()).unwrap();
        applied
    };
    let held = |bench: &mut Bench| bench.datapath.policy().unwrap().entries(POD_ID);
    let ask = |bench: &mut Bench, port| {
        let packet = received((REMOTE, 5000 + port), port, SYN);
        bench.run("from_net", &packet).unwrap().outcome
    };
    let deny = |port| entry(Direction::Ingress, REMOTE_IDENTITY, port, Verdict::Deny);
    let redirect = |port| {
        let to = Verdict::Redirect(PROXY_PORT);
        entry(Direction::Ingress, REMOTE_IDENTITY, port, to)
    };
    // Another value of an entry finds room: there is one of its key already.
    let changed = PolicyEntry {
        verdict: Verdict::Deny,
        ..allow(901, 80)
    };
    apply(&mut bench, &[peer, changed]).unwrap();
    assert_eq!(ask(&mut bench, 81), Outcome::Pass);
    // A deny more does not, until what is allowed makes room for it.
    assert!(apply(&mut bench, &[peer, changed, deny(80)]).is_err());
    assert_eq!(ask(&mut bench, 80), Outcome::Drop);
    assert!(held(&mut bench).contains(&deny(80)));
    assert_eq!(ask(&mut bench, 81), Outcome::Drop, "the allow gave way");
    // More denies and redirects than there is room for: nothing is left.
    let many = [peer, changed, deny(80), deny(81), redirect(82), deny(83)];
    assert!(apply(&mut bench, &many).is_err());
    assert_eq!(held(&mut bench), []);
    for port in [80, 82, 84] {
        assert_eq!(ask(&mut bench, port), Outcome::Drop, "{port}");
    }
    // All of it is there once there is room.
    bench.datapath.policy().unwrap().apply(other, &[]).unwrap();
    apply(&mut bench, &many).unwrap();
    assert_eq!(ask(&mut bench, 80), Outcome::Drop);
    assert_eq!(ask(&mut bench, 84), Outcome::Pass);
}

/// A pod that denies nothing by default has an entry that allows everything, and
/// what denies are exceptions to it.
#[test]
fn without_room_old_denies_stay_in_force_until_the_pod_denies_by_default() {
    let mut bench = bench();
    let everything = PolicyEntry {
        protocol: 0,
        port: 0,
        port_bits: 0,
        matched: 0,
        ..allow(0, 0)
    };
    let deny = |port| entry(Direction::Ingress, REMOTE_IDENTITY, port, Verdict::Deny);
    let apply = |bench: &mut Bench, entries: &[PolicyEntry]| {
        bench.datapath.policy().unwrap().apply(POD_ID, entries)
    };
    let ask = |bench: &mut Bench, port| {
        let packet = received((REMOTE, 5000 + port), port, SYN);
        bench.run("from_net", &packet).unwrap().outcome
    };
    apply(&mut bench, &[everything, deny(80), deny(81)]).unwrap();
    let other = crowd_out(&mut bench);
    assert_eq!(ask(&mut bench, 80), Outcome::Drop);
    assert_eq!(ask(&mut bench, 90), Outcome::Pass);
    // Two denies more than there is room for. The pod's flags are as they were.
    let denies = [deny(80), deny(82), deny(83), deny(84), deny(85)];
    let wanted: Vec<_> = denies.into_iter().chain([everything]).collect();
    assert!(apply(&mut bench, &wanted).is_err());
    for port in [80, 81, 82] {
        assert_eq!(ask(&mut bench, port), Outcome::Drop, "{port}");
    }
    bench.datapath.policy().unwrap().apply(other, &[]).unwrap();
    apply(&mut bench, &wanted).unwrap();
    assert_eq!(ask(&mut bench, 82), Outcome::Drop);
    assert_eq!(ask(&mut bench, 81), Outcome::Pass);
}

#[test]
fn an_allowed_peer_and_port_pass_others_do_not() {
    let mut bench = bench();
    set_policy(
        &mut bench,
        &[
            entry(Direction::Ingress, REMOTE_IDENTITY, 80, Verdict::Allow),
            entry(Direction::Egress, REMOTE_IDENTITY, 443, Verdict::Allow),
        ],
    );
    bench.events();
    passes(&mut bench, "from_net", &received((REMOTE, 5000), 80, SYN));
    let events = bench.events();
    let verdict = EventKind::PolicyVerdict {
        action: Action::Allow,
        matched: MatchType::L3L4,
    };
    assert_eq!(kinds(&events), [verdict]);
    assert_eq!((events[0].rule, events[0].reply), (11, Some(false)));
    drops(
        &mut bench,
        "from_net",
        &received((REMOTE, 5000), 81, SYN),
        DropReason::PolicyDenied,
    );
    drops(
        &mut bench,
        "from_net",
        &received((WORLD, 5000), 80, SYN),
        DropReason::PolicyDenied,
    );
    passes(&mut bench, "from_pod", &sent((REMOTE, 443), SYN));
    drops(
        &mut bench,
        "from_pod",
        &sent((REMOTE, 80), SYN),
        DropReason::PolicyDenied,
    );
    drops(
        &mut bench,
        "from_pod",
        &sent((WORLD, 443), SYN),
        DropReason::PolicyDenied,
    );
}

#[test]
fn a_deny_entry_wins_and_says_so() {
    let mut bench = bench();
    let deny = PolicyEntry {
        port_bits: 0,
        matched: 8,
        ..entry(Direction::Ingress, REMOTE_IDENTITY, 0, Verdict::Deny)
    };
    let allow_any = entry(Direction::Ingress, 0, 80, Verdict::Redirect(PROXY_PORT));
    set_policy(&mut bench, &[deny, allow_any]);
    let packet = received((REMOTE, 5000), 80, SYN);
    let event = drops(&mut bench, "from_net", &packet, DropReason::PolicyDeny);
    assert_eq!(event.rule, 11);
}

#[test]
fn a_redirect_without_a_listener_fails_closed() {
    let mut bench = bench();
    let redirect = Verdict::Redirect(PROXY_PORT);
    set_policy(
        &mut bench,
        &[
            entry(Direction::Ingress, REMOTE_IDENTITY, 80, redirect),
            entry(Direction::Egress, 2, 80, redirect),
        ],
    );
    for (program, packet) in [
        ("from_net", received((REMOTE, 5000), 80, SYN)),
        ("from_pod", sent((WORLD, 80), SYN)),
    ] {
        bench.events();
        let run = bench.run(program, &packet).unwrap();
        assert_eq!(
            (run.outcome, run.mark),
            (Outcome::Drop, TO_PROXY),
            "{program}"
        );
        let events = bench.events();
        let matched = MatchType::L3L4;
        assert_eq!(
            kinds(&events),
            [
                EventKind::PolicyVerdict {
                    action: Action::Redirect,
                    matched
                },
                EventKind::Drop(DropReason::ProxyNotListening),
            ]
        );
        assert_eq!(events[0].proxy_port, PROXY_PORT);
    }
}

#[test]
fn port_prefixes_are_ranges() {
    let mut bench = bench();
    let range = PolicyEntry {
        port_bits: 13,
        matched: 21,
        ..entry(Direction::Egress, 0, 8000, Verdict::Allow)
    };
    set_policy(&mut bench, &[range]);
    for (port, allowed) in [(7999, false), (8000, true), (8007, true), (8008, false)] {
        let packet = sent((WORLD, port), SYN);
        let wanted = if allowed {
            Outcome::Pass
        } else {
            Outcome::Drop
        };
        assert_eq!(
            bench.run("from_pod", &packet).unwrap().outcome,
            wanted,
            "{port}"
        );
    }
}

#[test]
fn other_protocols_are_judged_without_a_port_and_icmp_by_its_type() {
    let mut bench = bench();
    let protocol = |protocol, port, port_bits| PolicyEntry {
        protocol,
        port_bits,
        ..entry(Direction::Egress, 0, port, Verdict::Allow)
    };
    set_policy(&mut bench, &[protocol(47, 0, 16), protocol(1, 8, 16)]);
    let gre = |to| {
        Packet::raw(POD, to, 47, vec![1; 8])
            .from_mac(pod().mac)
            .build()
    };
    let icmp = |kind| {
        Packet::icmp(POD, REMOTE, kind, [0; 4])
            .from_mac(pod().mac)
            .build()
    };
    passes(&mut bench, "from_pod", &gre(REMOTE));
    passes(&mut bench, "from_pod", &icmp(8));
    drops(&mut bench, "from_pod", &icmp(13), DropReason::PolicyDenied);
    let esp = Packet::raw(POD, REMOTE, 50, vec![1; 8])
        .from_mac(pod().mac)
        .build();
    drops(&mut bench, "from_pod", &esp, DropReason::PolicyDenied);
}

#[test]
fn the_node_reaches_its_pods_and_they_answer() {
    let mut bench = bench();
    set_policy(&mut bench, &[]);
    bench.events();
    passes(&mut bench, "to_pod", &received((NODE, 5000), 80, SYN));
    assert_eq!(
        kinds(&bench.events()),
        [EventKind::Trace(TracePoint::ToEndpoint)]
    );
    let answer = Packet::tcp((POD, 80), (NODE, 5000), SYN_ACK)
        .from_mac(pod().mac)
        .build();
    passes(&mut bench, "from_pod", &answer);
    let own = Packet::tcp((POD, 40001), (NODE, 22), SYN)
        .from_mac(pod().mac)
        .build();
    drops(&mut bench, "from_pod", &own, DropReason::PolicyDenied);
}

#[test]
fn to_pod_judges_what_no_other_program_saw() {
    let mut bench = bench();
    set_policy(
        &mut bench,
        &[entry(Direction::Ingress, 2, 80, Verdict::Allow)],
    );
    passes(&mut bench, "to_pod", &received((WORLD, 5000), 80, SYN));
    drops(
        &mut bench,
        "to_pod",
        &received((WORLD, 5000), 81, SYN),
        DropReason::PolicyDenied,
    );
}

#[test]
fn the_proxy_is_admitted_whatever_the_policy() {
    let mut bench = bench();
    set_policy(&mut bench, &[]);
    let packet = received((REMOTE, 50000), 80, SYN);
    let run = bench.run_marked("to_pod", &packet, FROM_PROXY, 1).unwrap();
    assert_eq!(run.outcome, Outcome::Pass);
    // The request's record says that it arrived.
    let events = bench.events();
    assert!(events.is_empty(), "{events:?}");
}

#[test]
fn what_is_marked_for_the_proxy_goes_nowhere_else() {
    let mut bench = bench();
    for (program, packet) in [
        ("to_pod", received((REMOTE, 5000), 80, SYN)),
        ("to_net", sent((WORLD, 80), SYN)),
        ("to_overlay", sent((REMOTE, 80), SYN)),
    ] {
        let run = bench.run_marked(program, &packet, TO_PROXY, 1).unwrap();
        assert_eq!(run.outcome, Outcome::Drop, "{program}");
        let reason = EventKind::Drop(DropReason::ProxyAssignFailed);
        assert!(kinds(&bench.events()).contains(&reason), "{program}");
    }
}
