//! Filters come to the pods that they select, and what must not pass them by
//! waits for a proxy that has them.

use weft_core::filter::{FailPolicy, FilterSpec, ModuleDigest, OnError};
use weft_core::policy::{EndpointSelector, Operator, Requirement};

use super::*;
use crate::filter::{Attachment, ResolvedFilter, Subject};
use crate::plan::filters::testing::{filter, on, spec};
use crate::state::{Backend, EndpointSlice, Service, ServicePort, SlicePort};

fn empire() -> Subject {
    let org = Requirement::parse("org", Operator::In(vec!["empire".into()]));
    Subject::Pods(EndpointSelector::new(org))
}

fn open() -> FilterSpec {
    FilterSpec {
        on_error: OnError::all(FailPolicy::Open),
        ..spec("log")
    }
}

fn on_80(spec: FilterSpec) -> ResolvedFilter {
    filter(spec, &[on(empire(), &[(80, 80)])])
}

impl Rig {
    fn filters(&mut self, filters: &[ResolvedFilter]) {
        self.engine.filters(filters.into());
    }

    /// A proxy that has answered for everything, and knows filters or does not.
    fn proxy_with(&mut self, filters: bool, acked: &str) {
        self.engine.proxy(ProxyStatus {
            connected: true,
            acked: acked.into(),
            answered: 1000,
            filters: Some(filters),
            ..ProxyStatus::default()
        });
    }

    /// It accepts the newest snapshot.
    fn accept(&mut self) {
        let version = self.status.borrow().snapshot.clone();
        self.proxy_with(true, &version);
        self.pass();
    }

    fn snapshot(&self) -> Arc<weft_api::node::Snapshot> {
        self.control.newest().expect("a snapshot")
    }

    /// The names of filters in the newest snapshot, and how many chains it has.
    fn told(&self) -> (Vec<String>, usize) {
        let snapshot = self.snapshot();
        let names = snapshot.filters.iter().map(|filter| filter.name.clone());
        (names.collect(), snapshot.chains.len())
    }
}

#[tokio::test]
async fn a_pod_without_policies_is_filtered_when_the_proxy_can() {
    let mut rig = Rig::with_endpoint().await;
    rig.proxy_with(true, "");
    rig.pass();
    rig.accept();
    assert!(rig.port_80().is_empty(), "everything is allowed");
    rig.filters(&[on_80(spec("jwt"))]);
    let passed = rig.pass();
    assert!(passed.again.is_some());
    let needed = rig.modules.borrow().clone().expect("known");
    assert_eq!(
        needed.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["WeftFilter default/jwt"]
    );
    let before = rig.port_80();
    assert!(!before.contains(&Verdict::Redirect(PROXY)), "{before:?}");
    assert_eq!(rig.told(), (vec!["jwt".into()], 1));
    let snapshot = rig.snapshot();
    assert_eq!(snapshot.chains[0].endpoint_id, rig.endpoint());
    let ports = snapshot
        .policies
        .iter()
        .map(|port| (port.port_first, port.port_last));
    assert_eq!(ports.collect::<Vec<_>>(), [(80, 80)]);
    rig.accept();
    assert_eq!(rig.port_80(), [Verdict::Redirect(PROXY)]);
    assert_eq!(rig.phase(), EndpointPhase::Ready);
    // Another version of it changes nothing in the kernel.
    let newer = FilterSpec {
        module: ModuleDigest::parse(&"ab".repeat(32)),
        ..spec("jwt")
    };
    rig.filters(&[on_80(newer)]);
    rig.pass();
    assert_eq!(rig.port_80(), [Verdict::Redirect(PROXY)]);
    assert_eq!(rig.snapshot().filters[0].sha256, "ab".repeat(32));
    // It goes: out of the kernel first.
    rig.filters(&[]);
    rig.pass();
    assert!(rig.port_80().is_empty());
    assert_eq!(rig.told(), (vec![], 0));
}

#[tokio::test]
async fn a_filter_on_a_redirected_port_is_waited_for() {
    let mut rig = Rig::with_endpoint().await;
    rig.policy(&allow(true));
    rig.proxy_with(true, "");
    rig.pass();
    rig.accept();
    assert_eq!(rig.port_80(), [Verdict::Redirect(PROXY)]);
    rig.filters(&[on_80(spec("jwt"))]);
    let passed = rig.pass();
    assert_eq!(rig.port_80(), [Verdict::Redirect(PROXY)], "as before");
    assert!(passed.again.is_some(), "for a moment");
    let status = rig.status.borrow().endpoints["default/deathstar"].clone();
    assert!(
        status.reason.contains("until the proxy has"),
        "{}",
        status.reason
    );
    rig.accept();
    assert_eq!(rig.port_80(), [Verdict::Redirect(PROXY)]);
    assert!(
        rig.status.borrow().endpoints["default/deathstar"]
            .reason
            .is_empty()
    );
}

#[tokio::test]
async fn a_proxy_without_filters_is_not_passed_by_in_silence() {
    let mut rig = Rig::with_endpoint().await;
    rig.policy(&allow(false));
    rig.proxy_with(false, "");
    rig.pass();
    assert_eq!(rig.port_80(), [Verdict::Allow]);
    // One that may be left out is.
    rig.filters(&[on_80(open())]);
    rig.pass();
    assert_eq!(rig.port_80(), [Verdict::Allow]);
    assert!(rig.snapshot().policies.is_empty());
    rig.filters(&[on_80(spec("jwt")), on_80(open())]);
    rig.pass();
    assert_eq!(rig.port_80(), [Verdict::Redirect(CLOSED_PORT)]);
    let reason = rig.status.borrow().endpoints["default/deathstar"]
        .reason
        .clone();
    assert!(!reason.is_empty());
    // A newer proxy takes over.
    rig.accept();
    assert_eq!(rig.port_80(), [Verdict::Redirect(PROXY)]);
    rig.filters(&[on_80(open())]);
    rig.pass();
    rig.accept();
    assert_eq!(rig.port_80(), [Verdict::Redirect(PROXY)]);
}

#[tokio::test]
async fn after_a_restart_of_the_agent_redirects_stay() {
    let mut rig = Rig::with_endpoint().await;
    rig.filters(&[on_80(open())]);
    rig.proxy_with(true, "");
    rig.pass();
    rig.accept();
    assert_eq!(rig.port_80(), [Verdict::Redirect(PROXY)]);
    // No proxy has said anything yet.
    rig.engine.proxy(ProxyStatus::default());
    rig.pass();
    assert_eq!(rig.port_80(), [Verdict::Redirect(PROXY)]);
}

#[tokio::test]
async fn what_the_kernel_goes_on_redirecting_keeps_its_filters() {
    let mut rig = Rig::with_endpoint().await;
    rig.filters(&[on_80(spec("jwt"))]);
    rig.proxy_with(true, "");
    rig.pass();
    rig.accept();
    rig.engine.kernel.fail = Some("policy");
    rig.filters(&[]);
    rig.pass();
    assert_eq!(rig.port_80(), [Verdict::Redirect(PROXY)]);
    assert_eq!(
        rig.told(),
        (vec!["jwt".into()], 1),
        "as long as it may be asked"
    );
    rig.engine.kernel.fail = None;
    rig.pass();
    assert!(rig.port_80().is_empty());
    assert_eq!(rig.told(), (vec![], 0));
}

#[tokio::test]
async fn a_filter_has_one_version_also_on_ports_that_are_those_of_before() {
    let mut rig = Rig::with_endpoint().await;
    let first = ResolvedFilter {
        revision: 1,
        ..on_80(spec("jwt"))
    };
    rig.filters(&[first]);
    rig.proxy_with(true, "");
    rig.pass();
    rig.accept();
    assert_eq!(rig.snapshot().filters[0].sha256, "");
    let version = rig.snapshot().version.clone();
    let told = rig.published.borrow().clone();
    let key = spec("jwt").key;
    assert_eq!((told.version, &told.revisions[&key]), (version, &1));

    rig.engine.kernel.fail = Some("policy");
    let newer = FilterSpec {
        module: ModuleDigest::parse(&"ab".repeat(32)),
        ..spec("jwt")
    };
    let second = ResolvedFilter {
        revision: 2,
        ..filter(newer, &[on(empire(), &[(81, 81)])])
    };
    rig.filters(&[second]);
    rig.pass();
    rig.accept();
    let snapshot = rig.snapshot();
    let ports = snapshot
        .chains
        .iter()
        .map(|one| (one.port_first, one.port_last));
    assert_eq!(ports.collect::<Vec<_>>(), [(80, 80)], "the kernel's");
    assert_eq!(snapshot.filters[0].sha256, "ab".repeat(32));
    let told = rig.published.borrow().clone();
    assert_eq!(told.version, snapshot.version);
    assert_eq!(told.revisions[&key], 2);
}

#[tokio::test]
async fn whom_a_filter_may_ask_follows_policy() {
    let mut rig = Rig::with_endpoint().await;
    rig.engine.change(Change::Services(Delta::Apply(Service {
        key: ObjectKey::new("default", "authz"),
        cluster_ips: vec![],
        ports: vec![ServicePort {
            name: String::new(),
            port: 80,
            protocol: weft_core::model::Protocol::Tcp,
        }],
        labels: BTreeMap::new(),
    })));
    rig.engine
        .change(Change::Slices(Delta::Apply(EndpointSlice {
            key: ObjectKey::new("default", "authz-1"),
            service: "authz".into(),
            ports: vec![SlicePort {
                name: String::new(),
                port: 8080,
                protocol: weft_core::model::Protocol::Tcp,
            }],
            backends: vec![Backend {
                ip: Ipv4Addr::new(10, 244, 2, 7),
                ready: true,
            }],
        })));
    let asks = FilterSpec {
        callouts: ["authz.default:80"].map(Into::into).into(),
        ..spec("ext-auth")
    };
    rig.filters(&[on_80(asks)]);
    rig.pass();
    let from = |rig: &Rig| {
        let snapshot = rig.snapshot();
        let [callout] = snapshot.callouts.as_slice() else {
            panic!("{:?}", snapshot.callouts);
        };
        assert_eq!(callout.service, "authz.default:80");
        assert_eq!(callout.backends[0].address, "10.244.2.7:8080");
        callout.backends[0].from.clone()
    };
    assert_eq!(from(&rig), [rig.endpoint()]);
    rig.policy(&json!({
        "endpointSelector": {"matchLabels": {"org": "empire"}},
        "egress": [{"toPorts": [{"ports": [{"port": "443", "protocol": "TCP"}]}]}],
    }));
    rig.pass();
    assert!(from(&rig).is_empty());
}

#[tokio::test]
async fn a_pod_with_too_many_filters_says_so_and_stays_closed() {
    let mut rig = Rig::with_endpoint().await;
    rig.proxy_with(true, "");
    let nested = (0..60).map(|number| {
        let attachment: Attachment = on(empire(), &[(10 + number, 150 - number)]);
        filter(spec(&format!("f{number}")), &[attachment])
    });
    rig.filters(&nested.collect::<Vec<_>>());
    rig.pass();
    rig.accept();
    let status = rig.status.borrow().endpoints["default/deathstar"].clone();
    assert!(
        status.reason.contains("more than 2048"),
        "{}",
        status.reason
    );
    assert!(
        status
            .reason
            .contains("ports with HTTP rules or filters are closed")
    );
    let entries = &rig.engine.kernel.entries[&status.id];
    let redirects: Vec<_> = entries
        .iter()
        .filter(|entry| matches!(entry.verdict, Verdict::Redirect(_)))
        .collect();
    assert!(!redirects.is_empty());
    for entry in redirects {
        assert_eq!(entry.verdict, Verdict::Redirect(CLOSED_PORT));
    }
    assert!(rig.snapshot().chains.is_empty() && rig.snapshot().policies.is_empty());
}
