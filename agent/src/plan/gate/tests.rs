use weft_core::model::{self, EndpointId};
use weft_core::policy::PeerSet;
use weft_datapath::Direction;

use super::*;

const PROXY: Verdict = Verdict::Redirect(15001);
const EP: u32 = 7;

fn entry(identity: u32, port: u16, verdict: Verdict) -> PolicyEntry {
    PolicyEntry {
        identity,
        direction: Direction::Ingress,
        protocol: 6,
        port,
        port_bits: 16,
        verdict,
        priority: 0,
        matched: 24,
        rule: 1,
    }
}

fn everything() -> PolicyEntry {
    PolicyEntry {
        protocol: 0,
        port: 0,
        port_bits: 0,
        matched: 0,
        ..entry(0, 0, Verdict::Allow)
    }
}

fn port_80() -> Coverage {
    let ports = [PortPolicy {
        endpoint: EndpointId(EP),
        direction: model::Direction::Ingress,
        first: 80,
        last: 80,
        rules: [weft_core::policy::PeerRule {
            peers: PeerSet::Any,
            deny: false,
            http: [].into(),
            rule: None,
        }]
        .into(),
    }];
    Coverage::of([EP], &ports)
}

fn gate(acked: bool) -> Gate {
    let mut gate = Gate::default();
    gate.published("one", port_80());
    gate.proxy(true, if acked { "one" } else { "" });
    gate
}

fn written(gated: Gated) -> (Vec<PolicyEntry>, bool) {
    match gated {
        Gated::Write { entries, complete } => (entries, complete),
        Gated::Hold { .. } => panic!("held: {gated:?}"),
    }
}

#[test]
fn a_new_redirect_waits_for_the_proxy_and_the_old_entries_stay_meanwhile() {
    let now = Instant::now();
    let wanted = [entry(300, 80, PROXY)];
    let held = [everything()];
    let mut gate = gate(false);
    let Gated::Hold { entries, until } = gate.check(EP, &wanted, Some(&held), now) else {
        panic!("written before the proxy had the rules");
    };
    assert_eq!(entries, held);
    // The proxy answers.
    gate.proxy(true, "one");
    let gated = gate.check(EP, &wanted, Some(&held), now);
    assert_eq!(written(gated), (wanted.to_vec(), true));
    assert!(until <= now + Duration::from_millis(100));
}

#[test]
fn without_an_answer_in_time_the_port_is_closed() {
    let now = Instant::now();
    let wanted = [entry(300, 80, PROXY), entry(301, 443, Verdict::Allow)];
    let mut gate = gate(false);
    gate.check(EP, &wanted, Some(&[everything()]), now);
    let (entries, complete) =
        written(gate.check(EP, &wanted, Some(&[everything()]), now + PATIENCE));
    assert!(!complete);
    assert_eq!(
        entries,
        [
            entry(300, 80, Verdict::Redirect(CLOSED_PORT)),
            entry(301, 443, Verdict::Allow)
        ]
    );
    // The closed port is no redirect to the proxy: it opens with the answer.
    gate.proxy(true, "one");
    let (opened, complete) = written(gate.check(EP, &wanted, Some(&entries), now));
    assert!(complete);
    assert_eq!(opened, wanted);
}

#[test]
fn a_proxy_that_is_away_is_not_waited_for() {
    let wanted = [entry(300, 80, PROXY)];
    let mut gate = gate(false);
    gate.proxy(false, "");
    let (entries, complete) = written(gate.check(EP, &wanted, None, Instant::now()));
    assert!(!complete);
    assert_eq!(entries[0].verdict, Verdict::Redirect(CLOSED_PORT));
}

#[test]
fn what_the_kernel_redirects_already_stays_although_the_proxy_is_away() {
    let wanted = [entry(300, 80, PROXY)];
    let mut gate = Gate::default();
    let gated = gate.check(EP, &wanted, Some(&wanted), Instant::now());
    assert_eq!(written(gated), (wanted.to_vec(), true));
}

#[test]
fn while_one_port_waits_what_is_revoked_goes_at_once() {
    let wanted = [entry(300, 80, PROXY), entry(302, 22, Verdict::Deny)];
    let held = [
        entry(300, 80, Verdict::Allow),
        entry(301, 443, Verdict::Allow),
        entry(302, 22, Verdict::Allow),
    ];
    let mut gate = gate(false);
    let Gated::Hold { entries, .. } = gate.check(EP, &wanted, Some(&held), Instant::now()) else {
        panic!("not held");
    };
    assert_eq!(
        entries,
        [
            entry(300, 80, Verdict::Allow),
            entry(302, 22, Verdict::Deny)
        ]
    );
}

#[test]
fn rules_for_one_port_do_not_cover_another() {
    let mut gate = gate(true);
    let wanted = [entry(300, 81, PROXY)];
    let gated = gate.check(EP, &wanted, Some(&[]), Instant::now());
    assert!(matches!(gated, Gated::Hold { .. }));
    // Nor the same port of another endpoint.
    let wanted = [entry(300, 80, PROXY)];
    let gated = gate.check(EP + 1, &wanted, Some(&[]), Instant::now());
    assert!(matches!(gated, Gated::Hold { .. }));
}

fn covering<const N: usize>(ports: [(u32, u8, u16, u16); N]) -> Coverage {
    Coverage {
        endpoints: BTreeSet::new(),
        ports: BTreeSet::from(ports),
    }
}

#[test]
fn a_range_covers_the_prefixes_inside_it() {
    let range = covering([(EP, Direction::Ingress as u8, 8000, 8999)]);
    let prefix = |port, port_bits| PolicyEntry {
        port,
        port_bits,
        ..entry(0, 0, PROXY)
    };
    assert!(range.holds(EP, &prefix(8192, 7)));
    assert!(range.holds(EP, &prefix(8000, 16)));
    assert!(!range.holds(EP, &prefix(8192, 3)));
    assert!(!range.holds(EP, &prefix(9000, 16)));
    let split = covering([
        (EP, Direction::Ingress as u8, 8000, 8079),
        (EP, Direction::Ingress as u8, 8080, 8080),
        (EP, Direction::Ingress as u8, 8081, 8999),
    ]);
    assert!(split.holds(EP, &prefix(8064, 10)));
    let gap = covering([
        (EP, Direction::Ingress as u8, 8000, 8079),
        (EP, Direction::Ingress as u8, 8081, 8999),
    ]);
    assert!(!gap.holds(EP, &prefix(8064, 10)));
}

#[test]
fn a_pod_is_ready_once_the_proxy_knows_it_or_is_late() {
    let now = Instant::now();
    let mut gate = gate(false);
    let until = gate.introduced(EP, now).expect_err("not acknowledged");
    assert_eq!(gate.introduced(EP, until), Ok(()), "late");
    assert!(gate.introduced(EP, now).is_err());
    gate.proxy(true, "one");
    assert_eq!(gate.introduced(EP, now), Ok(()), "known");
    assert!(gate.introduced(EP + 1, now).is_err(), "another");
    gate.proxy(false, "");
    assert_eq!(gate.introduced(EP + 1, now), Ok(()), "nobody to wait for");
}

/// All ways to combine a few of everything that makes entries overlap.
fn some_of_everything() -> Vec<PolicyEntry> {
    let mut all = Vec::new();
    for direction in [Direction::Ingress, Direction::Egress] {
        for identity in [0, 300, 301] {
            for (protocol, port, port_bits) in [
                (0, 0, 0),
                (6, 0, 0),
                (6, 80, 16),
                (6, 80, 13),
                (6, 81, 16),
                (6, 88, 13),
                (17, 80, 16),
            ] {
                all.push(PolicyEntry {
                    direction,
                    identity,
                    protocol,
                    port,
                    port_bits,
                    ..everything()
                });
            }
        }
    }
    all
}

/// Whether traffic of one may be traffic of the other, written down plainly.
fn overlap(one: &PolicyEntry, other: &PolicyEntry) -> bool {
    let ((first, last), (start, end)) = (ports(one), ports(other));
    one.direction == other.direction
        && (one.identity == other.identity || one.identity == 0 || other.identity == 0)
        && (one.protocol == other.protocol || one.protocol == 0 || other.protocol == 0)
        && first <= end
        && start <= last
}

#[test]
fn entries_that_share_traffic_are_found() {
    let all = some_of_everything();
    for one in &all {
        for pair in all.chunks(2) {
            let pair: Vec<_> = pair.iter().collect();
            let plainly = pair.iter().any(|other| overlap(one, other));
            assert_eq!(
                Spans::of(&pair).overlap(one),
                plainly,
                "{one:?} and {pair:?}"
            );
        }
    }
}

#[test]
fn what_is_closed_for_good_waits_for_nobody() {
    let wanted = [entry(300, 80, Verdict::Redirect(CLOSED_PORT))];
    let mut gate = gate(false);
    let gated = gate.check(EP, &wanted, Some(&[everything()]), Instant::now());
    assert_eq!(written(gated), (wanted.to_vec(), true));
}
