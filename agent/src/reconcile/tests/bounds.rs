//! Pods whose policies say more than a pod may have, and snapshots that are more
//! than a proxy takes.

use super::*;

/// The deathstar lets everybody outside in on these ports, from so many ranges.
fn ranges(count: usize, ports: &[u16]) -> Value {
    let ranges: Vec<_> = (0..count)
        .map(|index| format!("11.0.{index}.0/24"))
        .collect();
    let ports: Vec<_> = ports
        .iter()
        .map(|port| json!({"port": port.to_string(), "protocol": "TCP"}))
        .collect();
    json!({
        "endpointSelector": {"matchLabels": {"org": "empire"}},
        "ingress": [{"fromCIDR": ranges, "toPorts": [{"ports": ports}]}],
    })
}

fn within(entries: usize) -> Bounds {
    Bounds {
        entries,
        ..Bounds::default()
    }
}

impl Rig {
    /// Verdicts of the endpoint's entries for a port.
    fn port(&self, port: u16) -> Vec<Verdict> {
        let entries = self.engine.kernel.entries[&self.endpoint()].iter();
        let of_port = entries.filter(|entry| entry.port == port);
        of_port.map(|entry| entry.verdict).collect()
    }

    fn reason(&self) -> String {
        self.status.borrow().endpoints["default/deathstar"]
            .reason
            .clone()
    }

    fn metric(&self, line: &str) -> bool {
        let text = self.metrics.render().expect("text");
        text.lines().any(|own| own == line)
    }

    /// The messages of the events about bounds.
    fn events(&self) -> Vec<String> {
        let created = self.created.lock().expect("readable");
        let events = created
            .iter()
            .filter(|object| object["reason"] == "PolicyOverBounds");
        events
            .map(|event| {
                assert_eq!(event["involvedObject"]["uid"], "u1");
                assert_eq!(event["source"]["host"], "one");
                event["message"].as_str().unwrap_or_default().to_owned()
            })
            .collect()
    }
}

#[tokio::test]
async fn a_pod_over_its_bound_gets_nothing_new_and_it_is_said_once() {
    let mut rig = Rig::within(within(60), 1 << 20).and_endpoint().await;
    rig.policy(&ranges(20, &[80, 81]));
    rig.pass();
    assert_eq!((rig.port(80).len(), rig.reason().as_str()), (20, ""));
    rig.policy(&ranges(20, &[81, 82, 83]));
    rig.pass();
    assert_eq!(rig.port(80), [], "revoked");
    assert_eq!(rig.port(81), [Verdict::Allow; 20], "as before");
    assert_eq!(rig.port(82), [], "new");
    assert!(rig.status.borrow().endpoints["default/deathstar"].ingress_enforced);
    let reason = rig.reason();
    assert!(
        reason.contains("more than 60 policy entries")
            && reason.contains("CiliumNetworkPolicy default/rule1's: 60")
            && reason.contains("gets nothing new"),
        "{reason}"
    );
    assert!(rig.metric("weft_agent_endpoints_over_bounds{bound=\"entries\"} 1"));
    rig.pass();
    rig.answer().await;
    assert_eq!(rig.events(), [reason]);
    // Everything is in force once it fits.
    rig.policy(&ranges(20, &[81, 82]));
    rig.pass();
    assert_eq!(rig.port(82).len(), 20);
    assert_eq!(rig.reason(), "");
    assert!(rig.metric("weft_agent_endpoints_over_bounds{bound=\"entries\"} 0"));
}

#[tokio::test]
async fn another_policy_to_blame_is_told_of_as_well() {
    let mut rig = Rig::within(within(60), 1 << 20).and_endpoint().await;
    rig.policy(&ranges(20, &[81, 82, 83, 84]));
    rig.pass();
    rig.answer().await;
    // More of the same from elsewhere is nothing new.
    rig.policy_of("rule2", &ranges(20, &[90]));
    rig.pass();
    assert_eq!(rig.events().len(), 1);
    rig.policy_of("rule2", &ranges(20, &[90, 91, 92, 93, 94, 95]));
    rig.pass();
    rig.answer().await;
    let events = rig.events();
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(events[1].contains("default/rule2's: 120"), "{events:?}");
    let names = |object: &Value| object["metadata"]["name"].as_str().map(str::to_owned);
    let created = rig.created.lock().expect("readable");
    let events = created
        .iter()
        .filter(|one| one["reason"] == "PolicyOverBounds");
    let distinct: std::collections::BTreeSet<_> = events.map(names).collect();
    assert_eq!(distinct.len(), 2, "the API would refuse the same name");
}

#[tokio::test]
async fn denies_that_do_not_fit_close_the_pod_before_old_ones_go() {
    let mut rig = Rig::within(within(60), 1 << 20).and_endpoint().await;
    let deny = |count| {
        let mut spec = ranges(count, &[80]);
        spec["ingressDeny"] = spec["ingress"].take();
        spec["enableDefaultDeny"] = json!({"ingress": false});
        spec
    };
    rig.policy(&deny(20));
    rig.pass();
    assert_eq!(rig.port(80), [Verdict::Deny; 20]);
    assert!(!rig.status.borrow().endpoints["default/deathstar"].ingress_enforced);
    rig.engine.kernel.take();
    rig.policy(&deny(100));
    rig.pass();
    assert_eq!(rig.engine.kernel.entries[&rig.endpoint()], []);
    assert!(
        rig.reason().contains("everything is denied"),
        "{}",
        rig.reason()
    );
    let calls = rig.engine.kernel.take();
    let at = |what: &str| calls.iter().position(|call| call.starts_with(what));
    let closed = format!("update {}=", rig.endpoint());
    assert!(
        at(&closed) < at("policy"),
        "flags before entries: {calls:?}"
    );
    assert!(
        calls
            .iter()
            .any(|call| call.starts_with(&closed) && call.ends_with(" in eg")),
        "{calls:?}"
    );
}

/// One port with HTTP rules of so many bytes.
fn http(bytes: usize) -> Value {
    let mut spec = allow(true);
    let rules: Vec<_> = (0..bytes / 1000)
        .map(|index| json!({"path": format!("/{index:0>999}")}))
        .collect();
    spec["ingress"][0]["toPorts"][0]["rules"] = json!({"http": rules});
    spec
}

impl Rig {
    /// What the newest snapshot has the proxy judge, and its version.
    fn sent(&self) -> (usize, String) {
        let snapshot = self.control.newest().expect("a snapshot");
        (snapshot.policies.len(), snapshot.version.clone())
    }

    fn acked(&mut self) {
        let (_, version) = self.sent();
        self.proxy(true, &version);
        self.pass();
    }
}

#[tokio::test]
async fn http_rules_for_which_the_snapshot_has_no_room_are_closed() {
    let mut rig = Rig::within(Bounds::default(), 100_000).and_endpoint().await;
    rig.policy(&http(10_000));
    rig.pass();
    rig.acked();
    assert_eq!(rig.port_80(), [Verdict::Redirect(PROXY)]);
    assert_eq!(rig.sent().0, 1);
    rig.policy(&http(100_000));
    rig.pass();
    // The proxy is told of everything else, and cuts what it had for this pod.
    assert_eq!(rig.sent().0, 0);
    assert_eq!(rig.port_80(), [Verdict::Redirect(CLOSED_PORT)]);
    assert!(
        rig.reason().contains("no room in the snapshot"),
        "{}",
        rig.reason()
    );
    assert!(rig.metric("weft_agent_endpoints_over_bounds{bound=\"snapshot\"} 1"));
    assert_eq!(rig.status.borrow().unsent, "");
    rig.policy(&http(10_000));
    rig.pass();
    rig.acked();
    assert_eq!(rig.port_80(), [Verdict::Redirect(PROXY)]);
}

#[tokio::test]
async fn a_snapshot_that_is_too_large_is_not_sent_and_it_is_said() {
    let mut rig = Rig::within(Bounds::default(), 10_000).and_endpoint().await;
    rig.policy(&http(2_000));
    rig.pass();
    rig.acked();
    assert_eq!(rig.port_80(), [Verdict::Redirect(PROXY)]);
    let (_, last_good) = rig.sent();
    // More addresses than any snapshot has room for.
    let nodes = (0..=255).flat_map(|third| [1, 2, 3].map(|last| (third, last)));
    let addresses = nodes.map(|(third, last)| Ipv4Addr::new(172, 19, third, last));
    rig.engine.change(Change::Nodes(Delta::Apply(Node {
        name: "two".into(),
        labels: BTreeMap::new(),
        addresses: addresses.collect(),
        pod_cidrs: vec![],
    })));
    rig.pass();
    let status = rig.status.borrow().clone();
    assert!(
        status.unsent.contains("more than the 10000"),
        "{}",
        status.unsent
    );
    assert_eq!(rig.sent().1, last_good, "the proxy stays with it");
    assert_eq!(status.snapshot, last_good);
    assert_eq!(
        rig.port_80(),
        [Verdict::Redirect(CLOSED_PORT)],
        "no new connection"
    );
    assert!(rig.metric("weft_agent_unsent_snapshots_total 1"));
    rig.pass();
    assert!(
        rig.metric("weft_agent_unsent_snapshots_total 1"),
        "not again and again"
    );
    rig.engine
        .change(Change::Nodes(Delta::Delete(ObjectKey::new("", "two"))));
    rig.pass();
    rig.acked();
    assert_eq!(rig.status.borrow().unsent, "");
    assert_eq!(rig.port_80(), [Verdict::Redirect(PROXY)]);
}

#[tokio::test]
async fn how_full_the_kernels_tables_are_is_shown() {
    let rig = Rig::with_endpoint().await;
    let entries: usize = rig.engine.kernel.entries.values().map(Vec::len).sum();
    assert!(entries > 0);
    assert!(rig.metric(&format!(
        "weft_agent_table_entries{{table=\"policy\"}} {entries}"
    )));
    assert!(rig.metric("weft_agent_table_capacity{table=\"policy\"} 100"));
    assert!(rig.metric("weft_agent_table_refused_entries_total{table=\"ipcache\"} 0"));
}

/// So many ranges for pods of nobody here.
fn elsewhere(count: usize) -> Value {
    let mut spec = ranges(count, &[80]);
    spec["endpointSelector"] = json!({"matchLabels": {"org": "alliance"}});
    spec
}

#[tokio::test]
async fn ranges_of_rules_that_select_no_pod_of_the_node_cost_it_nothing() {
    let mut rig = Rig::within(within(60), 1 << 20).and_endpoint().await;
    let world = json!({
        "endpointSelector": {"matchLabels": {"org": "empire"}},
        "ingress": [{
            "fromEntities": ["world"],
            "toPorts": [{"ports": [{"port": "90", "protocol": "TCP"}]}],
        }],
    });
    rig.policy(&world);
    rig.policy_of("rule2", &elsewhere(100));
    rig.pass();
    assert_eq!(rig.engine.cidrs.iter().count(), 0);
    assert_eq!(rig.reason(), "");
    assert!(!rig.port(90).is_empty());
    // They are numbered as soon as there is a pod that they are for.
    let mut pod = deathstar();
    pod.key = ObjectKey::new("default", "xwing");
    pod.uid = "u2".into();
    pod.ip = Some(Ipv4Addr::new(10, 244, 1, 11));
    pod.labels = BTreeMap::from([("org".into(), "alliance".into())]);
    let key = pod.key.clone();
    rig.engine.change(Change::Pods(Delta::Apply(pod)));
    rig.pass();
    assert_eq!(rig.engine.cidrs.iter().count(), 100);
    rig.engine.change(Change::Pods(Delta::Delete(key)));
    rig.pass();
    assert_eq!(rig.engine.cidrs.iter().count(), 0);
}

#[tokio::test]
async fn who_names_the_ranges_that_are_too_many_for_another_pod_is_told() {
    let mut rig = Rig::within(within(60), 1 << 20).and_endpoint().await;
    let world = json!({
        "endpointSelector": {"matchLabels": {"org": "empire"}},
        "ingress": [{
            "fromEntities": ["world"],
            "toPorts": [{"ports": [
                {"port": "90", "protocol": "TCP"}, {"port": "92", "protocol": "TCP"},
            ]}],
        }],
    });
    rig.policy(&world);
    rig.pass();
    let before = rig.port(90);
    assert!(!before.is_empty());
    let mut pod = deathstar();
    pod.key = ObjectKey::new("default", "xwing");
    pod.uid = "u2".into();
    let ip = Ipv4Addr::new(10, 244, 1, 11);
    pod.ip = Some(ip);
    pod.labels = BTreeMap::from([("org".into(), "alliance".into())]);
    rig.engine.change(Change::Pods(Delta::Apply(pod)));
    let both = [(POD, interface(7)), (ip, interface(8))];
    rig.engine.interfaces(Interfaces::these(both));
    rig.pass();
    rig.answer().await;
    rig.policy_of("rule2", &elsewhere(40));
    rig.pass();
    assert_eq!(rig.port(90), before, "the world as before");
    let reason = rig.reason();
    assert!(
        reason.contains("more than 60 policy entries")
            && reason.contains("CiliumNetworkPolicy default/rule2's: 40")
            && reason.contains("it is not allowed these ranges"),
        "{reason}"
    );
}
