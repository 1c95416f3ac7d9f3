use weft_core::model::{self, EndpointId};
use weft_core::policy::http::HttpRule;
use weft_core::policy::{PeerRule, PeerSet};
use weft_datapath::Direction;

use super::*;

const PROXY: Verdict = Verdict::Redirect(15001);
const CLOSED: Verdict = Verdict::Redirect(CLOSED_PORT);
const EP: u32 = 7;

fn entry(identity: u32, port: u16, verdict: Verdict) -> PolicyEntry {
    PolicyEntry {
        identity,
        direction: Direction::Ingress,
        protocol: 6,
        port,
        port_bits: 16,
        verdict,
        priority: if verdict == PROXY { 90 } else { 0 },
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

/// The rules of one ingress port: for everybody, these requests.
fn port(number: u16, method: &str) -> PortPolicy {
    PortPolicy {
        endpoint: EndpointId(EP),
        direction: model::Direction::Ingress,
        first: number,
        last: number,
        rules: [PeerRule {
            peers: PeerSet::Any,
            deny: false,
            http: [HttpRule {
                method: Some(method.into()),
                ..HttpRule::default()
            }]
            .into(),
            rule: None,
        }]
        .into(),
    }
}

/// A gate, and the rules and filters that its endpoint is to have.
struct Rig {
    gate: Gate,
    rules: Vec<PortPolicy>,
    chains: Vec<Chain>,
    held: Option<Vec<PolicyEntry>>,
    now: Instant,
}

impl Rig {
    /// With a proxy that was offered the rules of port 80 as snapshot 1.
    fn new(held: &[PolicyEntry]) -> Self {
        let mut rig = Self {
            gate: Gate::default(),
            rules: vec![port(80, "GET")],
            chains: vec![],
            held: Some(held.to_vec()),
            now: Instant::now(),
        };
        rig.publish(1, "one", &[port(80, "GET")]);
        rig.gate.proxy(true, "", 0);
        rig
    }

    fn publish(&mut self, number: u64, version: &str, ports: &[PortPolicy]) {
        let coverage = Coverage::of([EP], ports);
        self.gate.published(number, version, coverage);
    }

    fn check(&mut self, wanted: &[PolicyEntry]) -> Gated {
        let held = self.held.as_deref();
        let judged = Judged {
            ports: &self.rules,
            chains: &self.chains,
        };
        self.gate.check(EP, wanted, judged, held, self.now)
    }

    /// The entries until the proxy answers.
    fn held_back(&mut self, wanted: &[PolicyEntry]) -> Vec<PolicyEntry> {
        match self.check(wanted) {
            Gated::Hold { entries, until } => {
                // As promised (docs/ARCHITECTURE.md, "Fail closed").
                assert!(until <= self.now + Duration::from_millis(80));
                entries
            }
            other => panic!("not held back: {other:?}"),
        }
    }

    /// The entries when there is nothing to wait for, and whether they are all
    /// that is wanted.
    fn written(&mut self, wanted: &[PolicyEntry]) -> (Vec<PolicyEntry>, bool) {
        match self.check(wanted) {
            Gated::Write { entries, complete } => (entries, complete),
            other => panic!("held back: {other:?}"),
        }
    }
}

#[test]
fn a_new_redirect_waits_for_the_proxy_and_its_traffic_is_treated_as_before() {
    let wanted = [entry(300, 80, PROXY)];
    let mut rig = Rig::new(&[everything()]);
    // But what is not allowed at all any more goes at once.
    assert_eq!(
        rig.held_back(&wanted),
        [PolicyEntry {
            matched: 0,
            ..entry(300, 80, Verdict::Allow)
        }]
    );
    rig.gate.proxy(true, "one", 1);
    assert_eq!(rig.written(&wanted), (wanted.to_vec(), true));
}

#[test]
fn without_an_answer_in_time_the_port_is_closed() {
    let wanted = [entry(300, 80, PROXY), entry(301, 443, Verdict::Allow)];
    let mut rig = Rig::new(&[everything()]);
    rig.held_back(&wanted);
    rig.now += PATIENCE;
    let (entries, complete) = rig.written(&wanted);
    assert!(!complete);
    let closed = entry(300, 80, PROXY);
    let closed = PolicyEntry {
        verdict: CLOSED,
        ..closed
    };
    assert_eq!(entries, [closed, entry(301, 443, Verdict::Allow)]);
    // The closed port is no redirect to the proxy: it opens with the answer.
    rig.held = Some(entries);
    rig.gate.proxy(true, "one", 1);
    assert_eq!(rig.written(&wanted), (wanted.to_vec(), true));
}

#[test]
fn a_proxy_that_is_away_is_not_waited_for() {
    let mut rig = Rig::new(&[]);
    rig.held = None;
    rig.gate.proxy(false, "", 0);
    let (entries, complete) = rig.written(&[entry(300, 80, PROXY)]);
    assert!(!complete);
    assert_eq!(entries[0].verdict, CLOSED);
}

#[test]
fn what_the_kernel_redirects_already_stays_although_the_proxy_is_away() {
    let wanted = [entry(300, 80, PROXY)];
    let mut rig = Rig::new(&wanted);
    rig.gate = Gate::default();
    assert_eq!(rig.written(&wanted), (wanted.to_vec(), true));
}

#[test]
fn what_a_proxy_has_lost_the_rules_of_is_closed_until_it_has_them_again() {
    let wanted = [entry(300, 80, PROXY), entry(300, 443, Verdict::Allow)];
    let mut rig = Rig::new(&wanted);
    rig.gate = Gate::default();
    rig.publish(1, "without", &[]);
    rig.publish(2, "with", &[port(80, "GET")]);
    rig.gate.proxy(true, "with", 2);
    assert_eq!(rig.written(&wanted), (wanted.to_vec(), true));
    // It comes back with what it had before.
    rig.gate.proxy(true, "without", 1);
    let (entries, complete) = rig.written(&wanted);
    assert_eq!((entries[0].verdict, complete), (CLOSED, false));
    assert_eq!(entries[1], wanted[1]);
    rig.held = Some(entries);
    rig.gate.proxy(true, "with", 2);
    assert_eq!(rig.written(&wanted), (wanted.to_vec(), true));
}

#[test]
fn while_one_port_waits_what_is_revoked_goes_at_once() {
    let wanted = [entry(300, 80, PROXY), entry(302, 22, Verdict::Deny)];
    let mut rig = Rig::new(&[
        entry(300, 80, Verdict::Allow),
        entry(301, 443, Verdict::Allow),
        entry(302, 22, Verdict::Allow),
    ]);
    assert_eq!(
        rig.held_back(&wanted),
        [
            entry(300, 80, Verdict::Allow),
            entry(302, 22, Verdict::Deny)
        ]
    );
}

#[test]
fn while_one_port_waits_what_was_denied_is_not_let_through() {
    let denied = entry(300, 80, Verdict::Deny);
    let mut rig = Rig::new(&[everything(), denied]);
    // Neither by the port that waits, nor by one that has no rule any more.
    assert_eq!(
        rig.held_back(&[entry(0, 80, PROXY)]),
        [
            PolicyEntry {
                matched: 0,
                ..entry(0, 80, Verdict::Allow)
            },
            denied,
        ]
    );
    assert_eq!(rig.held_back(&[entry(300, 80, PROXY)]), [denied]);
}

#[test]
fn while_one_port_waits_what_becomes_open_is_opened() {
    let mut rig = Rig::new(&[entry(300, 81, PROXY)]);
    let wanted = [entry(300, 80, PROXY), entry(300, 81, Verdict::Allow)];
    // The proxy gets a snapshot without rules for it.
    assert_eq!(
        rig.held_back(&wanted),
        [entry(300, 81, Verdict::Allow)],
        "and what nothing allowed before is not allowed yet"
    );
}

#[test]
fn rules_for_one_port_do_not_cover_another() {
    let mut rig = Rig::new(&[]);
    rig.gate.proxy(true, "one", 1);
    rig.rules.push(port(81, "GET"));
    rig.held_back(&[entry(300, 81, PROXY)]);
    // Nor the same port of another endpoint.
    let wanted = [entry(300, 80, PROXY)];
    let judged = Judged {
        ports: &rig.rules,
        chains: &[],
    };
    let gated = rig.gate.check(EP + 1, &wanted, judged, Some(&[]), rig.now);
    assert!(matches!(gated, Gated::Hold { .. }));
}

#[test]
fn other_rules_for_the_port_do_not_do() {
    let mut rig = Rig::new(&[]);
    rig.gate.proxy(true, "one", 1);
    rig.rules = vec![port(80, "PUT")];
    assert_eq!(rig.held_back(&[entry(300, 80, PROXY)]), []);
}

#[test]
fn every_snapshot_that_the_proxy_may_be_running_counts() {
    let wanted = [entry(300, 80, PROXY)];
    let mut rig = Rig::new(&[]);
    rig.gate.proxy(true, "one", 1);
    // Removed, and added again before the proxy has answered: it may have gone
    // on to the one without.
    rig.publish(2, "two", &[]);
    rig.held_back(&wanted);
    rig.publish(3, "one", &[port(80, "GET")]);
    rig.held_back(&wanted);
    rig.gate.proxy(true, "two", 2);
    rig.held_back(&wanted);
    rig.gate.proxy(true, "one", 3);
    assert_eq!(rig.written(&wanted), (wanted.to_vec(), true));
}

#[test]
fn a_proxy_that_is_far_behind_counts_as_new() {
    let wanted = [entry(300, 80, PROXY)];
    let mut rig = Rig::new(&[]);
    rig.gate.proxy(true, "one", 1);
    assert_eq!(rig.written(&wanted), (wanted.to_vec(), true));
    for number in 2..=u64::try_from(REMEMBERED).expect("few") + 2 {
        rig.publish(number, &number.to_string(), &[port(80, "GET")]);
    }
    rig.held_back(&wanted);
}

#[test]
fn a_pod_is_ready_once_the_proxy_knows_it_or_is_late() {
    let now = Instant::now();
    let mut gate = Rig::new(&[]).gate;
    let until = gate.introduced(EP, now).expect_err("not acknowledged");
    assert_eq!(gate.introduced(EP, until), Ok(()), "late");
    assert!(gate.introduced(EP, now).is_err());
    gate.proxy(true, "one", 1);
    assert_eq!(gate.introduced(EP, now), Ok(()), "known");
    assert!(gate.introduced(EP + 1, now).is_err(), "another");
    gate.proxy(false, "", 1);
    assert_eq!(gate.introduced(EP + 1, now), Ok(()), "nobody to wait for");
}

#[test]
fn what_is_closed_for_good_waits_for_nobody() {
    let wanted = [entry(300, 80, CLOSED)];
    let mut rig = Rig::new(&[everything()]);
    rig.rules.clear();
    assert_eq!(rig.written(&wanted), (wanted.to_vec(), true));
}

/// Entries of single ports that are held, and redirects of all ports for many
/// peers: the one by the other is more than a pod may have.
#[test]
fn where_traffic_cannot_be_treated_as_before_its_ports_are_closed() {
    let open = |port| entry(0, port, Verdict::Allow);
    let held: Vec<_> = (0..2_000).map(|number| open(2 * number + 1)).collect();
    let mut rig = Rig::new(&held);
    let range = |identity| PolicyEntry {
        port_bits: 0,
        ..entry(identity, 0, PROXY)
    };
    let wanted: Vec<_> = (300..800).map(range).collect();
    let (entries, complete) = rig.written(&wanted);
    assert!(!complete);
    assert_eq!(entries.len(), wanted.len());
    assert!(entries.iter().all(|entry| entry.verdict == CLOSED));
}
