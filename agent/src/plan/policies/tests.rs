mod intercepts;

use serde_json::json;
use weft_core::policy::{Decision, EndpointSelector, PolicyKind, lookup};

use super::*;
use crate::endpoint::Interface;
use crate::plan::PortsByEndpoint;
use crate::policy::parse;
use crate::state::ObjectKey;

fn labels(app: &str) -> Labels {
    let app = format!("k8s:app={app}");
    Labels::parse_all([app.as_str(), "k8s:io.kubernetes.pod.namespace=default"]).expect("labels")
}

fn endpoints(apps: &[&str]) -> BTreeMap<Ipv4Addr, LocalEndpoint> {
    let endpoint = |(id, app): (u8, &&str)| {
        let ip = Ipv4Addr::new(10, 244, 1, id);
        let endpoint = LocalEndpoint {
            id: id.into(),
            key: ObjectKey::new("default", format!("{app}-{id}")),
            uid: id.to_string(),
            ip,
            interface: Interface {
                ifindex: id.into(),
                mac: [2; 6],
                host_mac: [3; 6],
            },
            identity: NumericIdentity(1000),
            labels: labels(app),
            ports: NamedPorts::default(),
        };
        (ip, endpoint)
    };
    (1..).zip(apps).map(endpoint).collect()
}

/// Lets pods of one application in from another's.
fn rule(app: &str, from: &str, port: &str) -> Arc<Rule> {
    let raw = json!({
        "metadata": {"name": format!("{app}-from-{from}"), "namespace": "default"},
        "spec": {
            "endpointSelector": {"matchLabels": {"app": app}},
            "ingress": [{
                "fromEndpoints": [{"matchLabels": {"app": from}}],
                "toPorts": [{"ports": [{"port": port, "protocol": "TCP"}]}],
            }],
        },
    });
    let mut rules = parse(PolicyKind::CiliumNetworkPolicy, &raw).expect("a policy");
    Arc::new(rules.remove(0))
}

fn identities(apps: &[(u32, &str)]) -> IdentityTable {
    let mut table = IdentityTable::new();
    for (id, app) in apps {
        table.insert(NumericIdentity(*id), labels(app));
    }
    table
}

/// What each update compiles.
#[derive(Default)]
struct Rig {
    compiled: Compiled,
    rules: Rules,
    table: RuleTable,
}

impl Rig {
    /// How many label sets an update compiles.
    fn update(&mut self, apps: &[&str], identities: &IdentityTable) -> usize {
        let endpoints = endpoints(apps);
        self.compiled.update(
            &endpoints,
            &self.rules,
            identities.clone(),
            &mut self.table,
            &KernelEntries::new(),
        );
        // Whatever was not compiled again is what compiling anew gives.
        let mut anew = Compiled::default();
        anew.intercepts.clone_from(&self.compiled.intercepts);
        anew.update(
            &endpoints,
            &self.rules,
            identities.clone(),
            &mut self.table,
            &KernelEntries::new(),
        );
        assert_eq!(self.compiled.policies, anew.policies);
        self.compiled.compiled
    }

    fn lets_in(&self, endpoint: u32, identity: u32, port: u16) -> bool {
        let direction = weft_core::model::Direction::Ingress;
        let entries = &self.compiled.policies[&endpoint].entries;
        lookup(entries, direction, NumericIdentity(identity), 6, port).is_some()
    }
}

#[test]
fn equal_labels_are_compiled_once() {
    let mut rig = Rig::default();
    rig.rules.replace(vec![rule("web", "shop", "80")]);
    let known = identities(&[(300, "web"), (301, "shop")]);
    assert_eq!(rig.update(&["web", "shop", "web", "web"], &known), 2);
    for endpoint in [1, 3, 4] {
        assert_eq!(rig.compiled.policies[&endpoint].id, EndpointId(endpoint));
        assert!(rig.lets_in(endpoint, 301, 80));
    }
    // One more of a kind, and one gone.
    assert_eq!(rig.update(&["web", "web", "web", "web", "web"], &known), 0);
}

#[test]
fn a_policy_concerns_only_those_that_it_selects() {
    let mut rig = Rig::default();
    let apps = ["web", "shop", "cart"];
    let known = identities(&[(300, "web"), (301, "shop"), (302, "cart")]);
    let (web, shop) = (rule("web", "shop", "80"), rule("shop", "cart", "80"));
    rig.rules.replace(vec![web.clone(), shop.clone()]);
    assert_eq!(rig.update(&apps, &known), 3);
    assert_eq!(rig.update(&apps, &known), 0, "nothing changed");
    rig.rules
        .replace(vec![web.clone(), rule("shop", "cart", "81")]);
    assert_eq!(rig.update(&apps, &known), 1);
    assert!(rig.lets_in(2, 302, 81) && !rig.lets_in(2, 302, 80));
    rig.rules.replace(vec![web]);
    assert_eq!(rig.update(&apps, &known), 1, "revoked");
}

#[test]
fn an_identity_concerns_only_those_whose_rules_mean_it() {
    let mut rig = Rig::default();
    let apps = ["web", "shop", "cart"];
    rig.rules
        .replace(vec![rule("web", "shop", "80"), rule("shop", "cart", "80")]);
    let mut known = vec![(300, "web"), (302, "cart")];
    rig.update(&apps, &identities(&known));
    assert!(!rig.lets_in(1, 301, 80));
    known.push((301, "shop"));
    assert_eq!(rig.update(&apps, &identities(&known)), 1, "a first shop");
    assert!(rig.lets_in(1, 301, 80));
    known.push((303, "nobody's peer"));
    assert_eq!(rig.update(&apps, &identities(&known)), 0);
    known.retain(|(_, app)| *app != "cart");
    assert_eq!(
        rig.update(&apps, &identities(&known)),
        1,
        "no cart any more"
    );
    assert!(!rig.lets_in(2, 302, 80));
}

#[test]
fn named_ports_mean_what_their_pods_call_so() {
    let raw = json!({
        "metadata": {"name": "named", "namespace": "default"},
        "spec": {
            "endpointSelector": {"matchLabels": {"app": "web"}},
            "egress": [{"toPorts": [{"ports": [{"port": "db", "protocol": "TCP"}]}]}],
        },
    });
    let rules = parse(PolicyKind::CiliumNetworkPolicy, &raw).expect("a policy");
    let mut rig = Rig::default();
    rig.rules.replace(rules.into_iter().map(Arc::new).collect());
    let mut known = identities(&[(300, "web"), (301, "postgres")]);
    rig.update(&["web"], &known);
    let mut ports = NamedPorts::default();
    ports.insert("db", weft_core::model::Protocol::Tcp, 5432);
    known.add_named_ports(NumericIdentity(301), &ports);
    assert_eq!(rig.update(&["web"], &known), 1);
}

/// Lets everybody of the namespace in on so many ports.
fn wide(app: &str, ports: std::ops::Range<u16>) -> Arc<Rule> {
    let ports: Vec<_> = ports
        .map(|port| json!({"port": port.to_string(), "protocol": "TCP"}))
        .collect();
    let raw = json!({
        "metadata": {"name": "wide", "namespace": "default"},
        "spec": {
            "endpointSelector": {"matchLabels": {"app": app}},
            "ingress": [{"fromEndpoints": [{}], "toPorts": [{"ports": ports}]}],
        },
    });
    let mut rules = parse(PolicyKind::CiliumNetworkPolicy, &raw).expect("a policy");
    Arc::new(rules.remove(0))
}

fn crowd() -> IdentityTable {
    let mut table = IdentityTable::new();
    for number in 0..100 {
        table.insert(
            NumericIdentity(300 + number),
            labels(&format!("app{number}")),
        );
    }
    table
}

fn decision(policy: &EndpointPolicy, identity: u32, port: u16) -> Option<Decision> {
    let peer = NumericIdentity(identity);
    let entry = lookup(&policy.entries, Direction::Ingress, peer, 6, port);
    entry.map(|entry| entry.value.decision)
}

const SMALL: Bounds = Bounds {
    entries: 500,
    http_bytes: 4 << 20,
    http_tables: 64 << 20,
};

#[test]
fn an_endpoint_over_its_bound_keeps_what_was_compiled_for_it() {
    let mut compiled = Compiled::bounded(SMALL);
    let mut rules = Rules::default();
    let mut table = RuleTable::default();
    let endpoints = endpoints(&["a", "b"]);
    rules.replace(vec![wide("a", 80..82), wide("b", 80..82)]);
    compiled.update(
        &endpoints,
        &rules,
        crowd(),
        &mut table,
        &KernelEntries::new(),
    );
    assert!(compiled.policies[&1].excess.is_empty());
    // More ports than fit for one of the two.
    rules.replace(vec![wide("a", 81..90), wide("b", 81..83)]);
    for _ in 0..2 {
        compiled.update(
            &endpoints,
            &rules,
            crowd(),
            &mut table,
            &KernelEntries::new(),
        );
        let over = &compiled.policies[&1];
        assert_eq!(over.excess.len(), 1);
        assert_eq!(decision(over, 300, 80), None, "no longer allowed");
        assert_eq!(decision(over, 300, 81), Some(Decision::Allow), "as before");
        assert_eq!(decision(over, 300, 82), None, "new");
        let within = &compiled.policies[&2];
        assert!(within.excess.is_empty());
        assert_eq!(decision(within, 300, 82), Some(Decision::Allow));
    }
    rules.replace(vec![wide("a", 82..84), wide("b", 81..83)]);
    compiled.update(
        &endpoints,
        &rules,
        crowd(),
        &mut table,
        &KernelEntries::new(),
    );
    assert_eq!(
        decision(&compiled.policies[&1], 300, 82),
        Some(Decision::Allow)
    );
}

#[test]
fn after_a_restart_it_keeps_what_the_kernel_has() {
    let mut rules = Rules::default();
    let mut table = RuleTable::default();
    let endpoints = endpoints(&["a", "a"]);
    rules.replace(vec![wide("a", 80..82)]);
    let mut before = Compiled::bounded(SMALL);
    before.update(
        &endpoints,
        &rules,
        crowd(),
        &mut table,
        &KernelEntries::new(),
    );
    // Of the two with the same labels one is new to the kernel.
    let held = KernelEntries::from([(1, vec![]), (2, map_entries(&before.policies[&2], 15001))]);
    rules.replace(vec![wide("a", 81..90)]);
    let mut after = Compiled::bounded(SMALL);
    after.update(&endpoints, &rules, crowd(), &mut table, &held);
    for policy in after.policies.values() {
        assert_eq!(policy.excess.len(), 1);
        assert_eq!(decision(policy, 300, 81), Some(Decision::Allow));
        assert_eq!(decision(policy, 300, 80), None);
        assert_eq!(decision(policy, 300, 82), None);
    }
}

#[test]
fn rules_whose_ranges_have_no_identity_close_the_pods_that_they_select() {
    let mut compiled = Compiled::default();
    let mut rules = Rules::default();
    let mut table = RuleTable::default();
    let endpoints = endpoints(&["a", "b"]);
    let (one, other) = (wide("a", 80..81), wide("b", 80..81));
    rules.replace(vec![one.clone(), other]);
    rules.unnumbered = vec![Unnumbered {
        rule: one,
        ranges: 7,
    }];
    compiled.update(
        &endpoints,
        &rules,
        crowd(),
        &mut table,
        &KernelEntries::new(),
    );
    let closed = &compiled.policies[&1];
    assert!(closed.entries.is_empty() && closed.ingress_default_deny && closed.egress_default_deny);
    assert_eq!(closed.excess[0].of, Bounded::Ranges);
    assert_eq!(
        closed.excess[0].to_string(),
        "the policies for pods of this node name more than 65536 ranges of addresses, and there is no \
         room for 7 of CiliumNetworkPolicy default/wide"
    );
    assert!(compiled.policies[&2].excess.is_empty());
    rules.unnumbered.clear();
    compiled.update(
        &endpoints,
        &rules,
        crowd(),
        &mut table,
        &KernelEntries::new(),
    );
    assert!(compiled.policies[&1].excess.is_empty(), "room was made");
}

/// Lets everybody GET so many bytes of path.
fn heavy(app: &str, bytes: usize) -> Arc<Rule> {
    let paths: Vec<_> = (0..bytes / 1000)
        .map(|index| json!({"path": format!("/{index:0>999}")}))
        .collect();
    let raw = json!({
        "metadata": {"name": format!("heavy-{app}"), "namespace": "default"},
        "spec": {
            "endpointSelector": {"matchLabels": {"app": app}},
            "ingress": [{"toPorts": [{
                "ports": [{"port": "80", "protocol": "TCP"}],
                "rules": {"http": paths},
            }]}],
        },
    });
    let mut rules = parse(PolicyKind::CiliumNetworkPolicy, &raw).expect("a policy");
    Arc::new(rules.remove(0))
}

#[test]
fn http_rules_that_find_no_room_are_closed_the_new_and_large_first() {
    let mut compiled = Compiled::default();
    let mut rules = Rules::default();
    let mut table = RuleTable::default();
    let endpoints = endpoints(&["old", "small", "large"]);
    let in_force = |compiled: &Compiled| -> PortsByEndpoint {
        let policies = compiled.policies.iter();
        policies
            .map(|(id, policy)| (*id, policy.ports.clone()))
            .collect()
    };
    let mut update = |compiled: &mut Compiled, list, force: &PortsByEndpoint| {
        rules.replace(list);
        compiled.update(
            &endpoints,
            &rules,
            crowd(),
            &mut table,
            &KernelEntries::new(),
        );
        compiled.make_room(60_000, force);
        compiled.no_room.iter().copied().collect::<Vec<_>>()
    };
    let old = heavy("old", 40_000);
    let gone = update(&mut compiled, vec![old.clone()], &PortsByEndpoint::new());
    assert!(gone.is_empty());
    let force = in_force(&compiled);
    let more = vec![old, heavy("small", 10_000), heavy("large", 30_000)];
    let gone = update(&mut compiled, more, &force);
    assert_eq!(gone, [3], "the largest of what is new");
    let closed = &compiled.policies[&3];
    assert!(closed.http_closed && closed.ports.is_empty());
    let redirects: Vec<_> = map_entries(closed, 15001)
        .into_iter()
        .filter(|entry| entry.port == 80)
        .map(|entry| entry.verdict)
        .collect();
    assert_eq!(redirects, [Verdict::Redirect(CLOSED_PORT)]);
    assert!(!compiled.policies[&2].http_closed);
    // What is in force stays so only as long as it is the same.
    let changed = vec![heavy("old", 50_000), heavy("small", 10_000)];
    let gone = update(&mut compiled, changed, &force);
    assert_eq!(gone, [1]);
}

/// As [`endpoints`], of these namespaces.
fn of_namespaces(namespaces: &[&str]) -> BTreeMap<Ipv4Addr, LocalEndpoint> {
    let mut endpoints = endpoints(namespaces);
    for (endpoint, namespace) in endpoints.values_mut().zip(namespaces) {
        let label = format!("k8s:io.kubernetes.pod.namespace={namespace}");
        endpoint.labels = Labels::parse_all(["k8s:app=a", label.as_str()]).expect("labels");
    }
    endpoints
}

/// The same rule for the pods of any namespace.
fn everywhere(rule: &Rule) -> Arc<Rule> {
    let of_labels = rule.subject.requirements().iter();
    let subject = of_labels.filter(|one| &*one.key == "app").cloned();
    Arc::new(Rule {
        subject: EndpointSelector::new(subject),
        ..rule.clone()
    })
}

#[test]
fn a_namespace_that_fills_the_kernels_map_makes_room_for_another() {
    let mut compiled = Compiled::default();
    let mut rules = Rules::default();
    let mut table = RuleTable::default();
    rules.replace(vec![everywhere(&wide("a", 80..82))]);
    let namespaces = ["greedy", "greedy", "greedy", "small"];
    let endpoints = of_namespaces(&namespaces);
    let mut update = |held: &KernelEntries, room| {
        compiled.update(&endpoints, &rules, crowd(), &mut table, held);
        let each = compiled.policies[&1].entries.len();
        compiled.fit_map(room * each, held);
        let closed = compiled
            .policies
            .iter()
            .filter(|(_, one)| one.entries.is_empty());
        (
            each,
            closed
                .map(|(id, policy)| (*id, policy.clone()))
                .collect::<Vec<_>>(),
        )
    };
    let (each, closed) = update(&KernelEntries::new(), 4);
    assert!(each > 1 && closed.is_empty());
    // All but the pod of the other namespace are in the kernel already.
    let held = (1..=3).map(|id| (id, vec![ENTRY; each]));
    let (each, closed) = update(&held.collect(), 3);
    let [(id, policy)] = closed.as_slice() else {
        panic!("{closed:?}");
    };
    assert!(*id != 4 && policy.ingress_default_deny && policy.egress_default_deny);
    assert_eq!(
        policy.excess[0].to_string(),
        format!(
            "the policies for all pods of this node come to more than {} policy entries, most of \
             them those for namespace greedy: {}",
            3 * each,
            3 * each
        )
    );
}

const ENTRY: PolicyEntry = PolicyEntry {
    identity: 1,
    direction: weft_datapath::Direction::Ingress,
    protocol: 0,
    port: 0,
    port_bits: 0,
    verdict: Verdict::Allow,
    priority: 0,
    matched: 0,
    rule: 0,
};

#[test]
fn http_rules_of_the_namespace_with_most_of_them_give_way() {
    let mut compiled = Compiled::default();
    let mut rules = Rules::default();
    let mut table = RuleTable::default();
    rules.replace(vec![everywhere(&heavy("a", 20_000))]);
    let endpoints = of_namespaces(&["greedy", "greedy", "greedy", "small"]);
    let held = KernelEntries::new();
    compiled.update(&endpoints, &rules, crowd(), &mut table, &held);
    // All but the pod of the other namespace are in force.
    let in_force = compiled.policies.iter().filter(|(id, _)| **id != 4);
    let in_force = in_force
        .map(|(id, policy)| (*id, policy.ports.clone()))
        .collect();
    compiled.make_room(70_000, &in_force);
    let closed: Vec<_> = compiled.no_room.iter().copied().collect();
    assert!(closed.len() == 1 && closed != [4], "{closed:?}");
}
