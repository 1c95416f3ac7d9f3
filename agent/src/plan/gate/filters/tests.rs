use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_core::filter::{FailPolicy, OnError, Phase};
use weft_core::model::{self, EndpointId};
use weft_core::policy::{PeerRule, PeerSet, PortPolicy};
use weft_datapath::{CLOSED_PORT, Direction, Verdict};

use super::*;
use crate::plan::filters::testing::spec;
use crate::plan::gate::{Gate, Gated, Judged};

const PROXY: Verdict = Verdict::Redirect(15001);
const CLOSED: Verdict = Verdict::Redirect(CLOSED_PORT);
const EP: u32 = 7;

fn entry(port: u16, port_bits: u8) -> PolicyEntry {
    PolicyEntry {
        identity: 300,
        direction: Direction::Ingress,
        protocol: 6,
        port,
        port_bits,
        verdict: PROXY,
        priority: 50,
        matched: 24,
        rule: 1,
    }
}

/// Filters by name; those with a capital letter may be left out.
fn chain(first: u16, last: u16, filters: &[&str]) -> Chain {
    let step = |name: &&str| {
        let mut filter = spec(name);
        if name.starts_with(char::is_uppercase) {
            filter.on_error = OnError::all(FailPolicy::Open);
        }
        Step {
            phase: Phase::AfterPolicy,
            filter: Arc::new(filter),
        }
    };
    Chain {
        direction: model::Direction::Ingress,
        first,
        last,
        steps: filters.iter().map(step).collect(),
    }
}

fn outward(chain: Chain) -> Chain {
    Chain {
        direction: model::Direction::Egress,
        ..chain
    }
}

fn coverage(chains: &[Chain]) -> Coverage {
    let open = PortPolicy {
        endpoint: EndpointId(EP),
        direction: model::Direction::Ingress,
        first: 0,
        last: u16::MAX,
        rules: [PeerRule {
            peers: PeerSet::Any,
            deny: false,
            http: [].into(),
            rule: None,
        }]
        .into(),
    };
    Coverage::of([EP], [&open]).with_chains([(EP, chains.to_vec())].into())
}

fn alike(held: &[Chain], wanted: &[Chain], entry: &PolicyEntry) -> bool {
    coverage(held).filters_alike(EP, entry, wanted)
}

#[test]
fn the_same_filters_on_every_port_of_an_entry() {
    let whole = [chain(80, 95, &["a", "b"])];
    let parts = [chain(80, 87, &["a", "b"]), chain(88, 95, &["a", "b"])];
    let range = entry(80, 12);
    assert!(alike(&whole, &whole, &range));
    assert!(alike(&parts, &whole, &range) && alike(&whole, &parts, &range));
    for other in [
        vec![],
        vec![chain(80, 95, &["b", "a"])],
        vec![chain(80, 95, &["a"])],
        vec![chain(80, 94, &["a", "b"])],
        vec![chain(81, 95, &["a", "b"])],
        vec![chain(80, 87, &["a", "b"]), chain(89, 95, &["a", "b"])],
        vec![chain(80, 95, &["a", "b", "C"])],
        vec![outward(chain(80, 95, &["a", "b"]))],
    ] {
        assert!(!alike(&other, &whole, &range), "{other:?}");
        assert!(!alike(&whole, &other, &range), "{other:?}");
    }
    // Nothing is met beyond.
    assert!(alike(&whole, &whole, &entry(0, 0)));
    assert!(alike(&whole, &[], &entry(96, 16)) && alike(&whole, &[], &entry(79, 16)));
    assert!(alike(&[], &[], &range));
    let other = coverage(&whole);
    assert!(!other.filters_alike(EP + 1, &range, &whole));
}

#[test]
fn a_newer_version_is_the_same_filter() {
    let old = [chain(80, 80, &["a"])];
    let mut step = old[0].steps[0].clone();
    let mut newer = (*step.filter).clone();
    newer.config = Arc::from(&b"{}"[..]);
    step.filter = Arc::new(newer);
    let new = [Chain {
        steps: [step].into(),
        ..old[0].clone()
    }];
    assert!(alike(&old, &new, &entry(80, 16)));
}

#[test]
fn what_must_not_be_left_out_has_to_be_there() {
    let wanted = [chain(80, 80, &["a", "B"])];
    let has = |held: &[Chain]| coverage(held).has_filters(EP, &entry(80, 16), &wanted);
    assert!(has(&wanted));
    assert!(has(&[chain(80, 80, &["a"])]) && has(&[chain(0, 90, &["z", "a"])]));
    assert!(!has(&[]) && !has(&[chain(80, 80, &["B"])]) && !has(&[chain(81, 90, &["a", "B"])]));
    assert!(fails_closed(&wanted, &entry(80, 16)) && fails_closed(&wanted, &entry(0, 0)));
    assert!(!fails_closed(&wanted, &entry(81, 16)));
    assert!(!fails_closed(&[chain(80, 80, &["B"])], &entry(80, 16)));
    assert!(!fails_closed(&[outward(wanted[0].clone())], &entry(80, 16)));
}

/// A gate in front of a proxy that has these filters.
struct Rig {
    gate: Gate,
    ports: Vec<PortPolicy>,
    now: Instant,
}

impl Rig {
    fn new(chains: &[Chain]) -> Self {
        let mut gate = Gate::default();
        let coverage = coverage(chains);
        let ports = coverage.policies().cloned().collect();
        gate.published(1, "one", coverage);
        gate.proxy(true, "one", 1);
        gate.filters(Some(true));
        Self {
            gate,
            ports,
            now: Instant::now(),
        }
    }

    /// The verdict that is written for port 80, and whether it is as wanted.
    fn check(&mut self, chains: &[Chain], held: Option<Verdict>) -> (Option<Verdict>, bool) {
        let held = held.map(|verdict| PolicyEntry {
            verdict,
            ..entry(80, 16)
        });
        let judged = Judged {
            ports: &self.ports,
            chains,
        };
        let wanted = [entry(80, 16)];
        let gated = self
            .gate
            .check(EP, &wanted, judged, held.as_slice().into(), self.now);
        let (entries, complete) = match gated {
            Gated::Write { entries, complete } => (entries, complete),
            Gated::Hold { entries, .. } => (entries, false),
        };
        (entries.first().map(|entry| entry.verdict), complete)
    }
}

#[test]
fn a_port_opens_when_the_proxy_has_its_filters() {
    let wanted = [chain(80, 80, &["a"])];
    let mut rig = Rig::new(&[]);
    let allowed = Some(Verdict::Allow);
    assert_eq!(rig.check(&wanted, allowed), (allowed, false), "as before");
    rig.now += Duration::from_millis(80);
    assert_eq!(rig.check(&wanted, allowed), (Some(CLOSED), false));
    rig.gate.published(2, "two", coverage(&wanted));
    assert_eq!(rig.check(&wanted, Some(CLOSED)), (Some(CLOSED), false));
    rig.gate.proxy(true, "two", 2);
    assert_eq!(rig.check(&wanted, Some(CLOSED)), (Some(PROXY), true));
}

#[test]
fn what_is_redirected_waits_for_a_filter_that_must_not_be_left_out() {
    let mut rig = Rig::new(&[chain(80, 80, &["a"])]);
    let redirected = Some(PROXY);
    // One that may be left out, and one less, are the proxy's business.
    for wanted in [
        &[chain(80, 80, &["B", "a"])][..],
        &[chain(80, 80, &["B"])],
        &[],
    ] {
        assert_eq!(
            rig.check(wanted, redirected),
            (redirected, true),
            "{wanted:?}"
        );
    }
    let more = [chain(80, 80, &["a", "c"])];
    assert_eq!(
        rig.check(&more, redirected),
        (redirected, false),
        "as before"
    );
    rig.now += Duration::from_millis(80);
    assert_eq!(rig.check(&more, redirected), (Some(CLOSED), false));
    rig.gate.published(2, "two", coverage(&more));
    rig.gate.proxy(true, "two", 2);
    assert_eq!(rig.check(&more, Some(CLOSED)), (redirected, true));
}

#[test]
fn a_proxy_without_filters_opens_no_port_that_needs_them() {
    let wanted = [chain(80, 80, &["a"])];
    let mut rig = Rig::new(&wanted);
    rig.gate.filters(Some(false));
    for held in [None, Some(Verdict::Allow), Some(PROXY)] {
        assert_eq!(rig.check(&wanted, held), (Some(CLOSED), false), "{held:?}");
    }
    // HTTP rules brought it there, and the filter may be left out.
    let may = [chain(80, 80, &["A"])];
    assert_eq!(rig.check(&may, Some(PROXY)), (Some(PROXY), true));
    rig.gate.filters(Some(true));
    assert_eq!(rig.check(&wanted, Some(CLOSED)), (Some(PROXY), true));
}
