mod transitions;

use weft_core::model::Direction;
use weft_core::model::{EndpointId, Labels, NamedPorts, NumericIdentity};
use weft_core::policy::{Decision, EntryKey, EntryValue, HttpLoad, MapEntry, Priority, RuleId};

use super::testing::Recorder;
use super::*;
use crate::endpoint::Interface;
use crate::state::ObjectKey;
use weft_datapath::{CLOSED_PORT, Verdict};

const IP: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 10);
const PROXY: u16 = 15001;

fn endpoint(id: u32, identity: u32) -> LocalEndpoint {
    LocalEndpoint {
        id,
        key: ObjectKey::new("default", "p"),
        uid: "u".into(),
        ip: IP,
        interface: Interface {
            ifindex: 7,
            mac: [2; 6],
            host_mac: [3; 6],
        },
        identity: NumericIdentity(identity),
        labels: Labels::default(),
        ports: NamedPorts::default(),
    }
}

fn policy(id: u32, ingress_denies: bool, decision: Decision) -> EndpointPolicy {
    EndpointPolicy {
        id: EndpointId(id),
        ingress_default_deny: ingress_denies,
        egress_default_deny: false,
        policed: ingress_denies,
        entries: [MapEntry {
            key: EntryKey {
                direction: Direction::Ingress,
                identity: NumericIdentity(300),
                protocol: 6,
                port: 80,
                prefix_len: 96,
            },
            value: EntryValue {
                decision,
                priority: Priority::PLAIN,
                prefix_len: 96,
                rule: RuleId(1),
            },
        }]
        .into(),
        ports: vec![],
        http_closed: false,
        http_load: HttpLoad::default(),
        excess: vec![],
    }
}

/// A programmer with its kernel and gate.
#[derive(Default)]
struct Bench {
    kernel: Recorder,
    programmer: Programmer,
    gate: Gate,
}

impl Bench {
    fn run(
        &mut self,
        detach: &[Ipv4Addr],
        what: Option<(LocalEndpoint, EndpointPolicy)>,
    ) -> Outcome {
        self.run_at(detach, what, Instant::now())
    }

    fn run_at(
        &mut self,
        detach: &[Ipv4Addr],
        what: Option<(LocalEndpoint, EndpointPolicy)>,
        now: Instant,
    ) -> Outcome {
        let mut endpoints = BTreeMap::new();
        let mut policies = BTreeMap::new();
        if let Some((endpoint, policy)) = what {
            policies.insert(endpoint.id, policy);
            endpoints.insert(endpoint.ip, endpoint);
        }
        let chains = Chains::new();
        let wanted = Wanted {
            chains: &chains,
            detach,
            endpoints: &endpoints,
            policies: &policies,
            addresses: &BTreeMap::new(),
            services: &BTreeMap::new(),
        };
        self.programmer
            .run(&mut self.kernel, &wanted, &mut self.gate, PROXY, now)
    }
}

#[test]
fn a_new_pod_finds_its_rules_before_its_programs_run() {
    let mut bench = Bench::default();
    let outcome = bench.run(
        &[],
        Some((endpoint(7, 300), policy(7, true, Decision::Allow))),
    );
    assert_eq!(
        bench.kernel.take(),
        [
            "policy 7",
            "addresses",
            "services",
            "attach 7=300 in",
            "epoch"
        ]
    );
    assert!(outcome.changed && outcome.failed.is_empty());
    assert_eq!(bench.programmer.epoch(), 1);
}

#[test]
fn nothing_new_leaves_the_epoch_alone() {
    let mut bench = Bench::default();
    let same = || Some((endpoint(7, 300), policy(7, true, Decision::Allow)));
    bench.run(&[], same());
    bench.kernel.take();
    assert!(!bench.run(&[], same()).changed);
    assert!(!bench.kernel.take().contains(&"epoch".to_owned()));
}

#[test]
fn default_deny_comes_before_the_entries_and_goes_after_them() {
    let mut bench = Bench::default();
    bench.run(
        &[],
        Some((endpoint(7, 300), policy(7, false, Decision::Allow))),
    );
    bench.kernel.take();
    bench.run(
        &[],
        Some((endpoint(7, 300), policy(7, true, Decision::Deny))),
    );
    assert_eq!(
        bench.kernel.take(),
        [
            "update 7=300 in",
            "policy 7",
            "addresses",
            "services",
            "epoch"
        ]
    );
    bench.run(
        &[],
        Some((endpoint(7, 300), policy(7, false, Decision::Allow))),
    );
    assert_eq!(
        bench.kernel.take(),
        ["policy 7", "addresses", "services", "update 7=300", "epoch"]
    );
}

#[test]
fn a_pod_whose_entries_are_refused_is_not_left_open() {
    let mut bench = Bench::default();
    bench.run(
        &[],
        Some((endpoint(7, 300), policy(7, false, Decision::Allow))),
    );
    bench.kernel.take();
    bench.kernel.fail = Some("policy");
    bench.run(
        &[],
        Some((endpoint(7, 300), policy(7, true, Decision::Deny))),
    );
    let calls = bench.kernel.take();
    assert!(
        calls.contains(&"update 7=300 in eg".to_owned()),
        "{calls:?}"
    );
    // What was written of the entries counts from now on.
    assert!(calls.contains(&"epoch".to_owned()), "{calls:?}");
}

#[test]
fn a_policy_without_default_deny_is_told_to_the_kernel() {
    let mut bench = Bench::default();
    let wanted = |policed| EndpointPolicy {
        policed,
        ..policy(7, false, Decision::Deny)
    };
    bench.run(&[], Some((endpoint(7, 300), wanted(false))));
    bench.kernel.take();
    bench.run(&[], Some((endpoint(7, 300), wanted(true))));
    let calls = bench.kernel.take();
    assert!(
        calls.contains(&"update 7=300 policed".to_owned()),
        "{calls:?}"
    );
    bench.run(&[], Some((endpoint(7, 300), wanted(false))));
    assert!(bench.kernel.take().contains(&"update 7=300".to_owned()));
}

#[test]
fn what_is_gone_goes_before_its_address_is_anybody_elses() {
    let mut bench = Bench::default();
    bench.run(
        &[],
        Some((endpoint(7, 300), policy(7, true, Decision::Allow))),
    );
    bench.kernel.take();
    bench.run(
        &[IP],
        Some((endpoint(8, 301), policy(8, true, Decision::Allow))),
    );
    assert_eq!(
        bench.kernel.take(),
        [
            "detach 10.244.1.10",
            "policy 8",
            "addresses",
            "services",
            "attach 8=301 in",
            "forget 7",
            "epoch"
        ]
    );
}

#[test]
fn a_removal_that_failed_is_tried_again() {
    let mut bench = Bench::default();
    bench.run(
        &[],
        Some((endpoint(7, 300), policy(7, true, Decision::Allow))),
    );
    bench.kernel.fail = Some("detach");
    let outcome = bench.run(&[IP], None);
    assert!(outcome.trouble.is_some() && outcome.again.is_some());
    bench.kernel.fail = None;
    bench.kernel.take();
    bench.run(&[], None);
    assert_eq!(bench.kernel.take()[0], "detach 10.244.1.10");
}

#[test]
fn an_endpoint_whose_entries_cannot_be_written_is_not_attached() {
    let mut bench = Bench::default();
    bench.kernel.fail = Some("policy");
    let outcome = bench.run(
        &[],
        Some((endpoint(7, 300), policy(7, true, Decision::Allow))),
    );
    assert!(outcome.failed.contains_key(&7));
    assert!(
        !bench
            .kernel
            .take()
            .iter()
            .any(|call| call.starts_with("attach"))
    );
}

#[test]
fn a_redirect_waits_for_the_proxy_then_closes() {
    let mut bench = Bench::default();
    bench.gate.proxy(true, "", 0);
    let now = Instant::now();
    bench.run_at(
        &[],
        Some((endpoint(7, 300), policy(7, false, Decision::Allow))),
        now,
    );
    bench.kernel.take();
    let wanted = || Some((endpoint(7, 300), policy(7, true, Decision::Redirect)));
    let outcome = bench.run_at(&[], wanted(), now);
    assert!(outcome.held.contains(&7));
    assert_eq!(bench.kernel.entries[&7][0].verdict, Verdict::Allow);
    // All else is as wanted.
    assert!(bench.kernel.take().contains(&"update 7=300 in".to_owned()));
    let late = outcome.again.expect("a time to come again");
    bench.run_at(&[], wanted(), late);
    assert_eq!(
        bench.kernel.entries[&7][0].verdict,
        Verdict::Redirect(CLOSED_PORT)
    );
}

#[test]
fn a_restart_takes_over_without_touching_entries_that_are_right() {
    let wanted = || Some((endpoint(7, 300), policy(7, true, Decision::Redirect)));
    let mut redirected = map_entries(&policy(7, true, Decision::Redirect), PROXY);
    redirected.sort_by_key(|entry| entry.port);
    let held = flagged(&endpoint(7, 300), &policy(7, true, Decision::Redirect));
    let mut restarted = Bench {
        programmer: Programmer::restore([held], BTreeMap::from([(7, redirected.clone())])),
        ..Bench::default()
    };
    let outcome = restarted.run(&[], wanted());
    // The proxy's port stays although this process has not heard of the proxy.
    assert_eq!(restarted.kernel.entries[&7], redirected);
    assert!(outcome.held.is_empty());
    assert!(
        restarted
            .kernel
            .take()
            .contains(&"attach 7=300 in".to_owned())
    );
}

#[test]
fn entries_of_an_endpoint_that_never_came_back_are_removed() {
    let mut bench = Bench {
        programmer: Programmer::restore([], BTreeMap::from([(9, vec![])])),
        ..Bench::default()
    };
    bench.run(&[], None);
    assert!(bench.kernel.take().contains(&"forget 9".to_owned()));
}
