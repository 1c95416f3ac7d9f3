use proptest::prelude::*;
use serde_json::json;
use weft_core::policy::PolicyKind;

use super::*;
use crate::policy::parse;
use crate::state::{Backend, Change, Delta, EndpointSlice, Namespace, Pod, Service};

fn node(name: &str, ip: [u8; 4], cidr: &str) -> Node {
    Node {
        name: name.into(),
        labels: BTreeMap::new(),
        addresses: vec![ip.into()],
        pod_cidrs: vec![cidr.into()],
    }
}

fn pod(name: &str, node: &str, ip: [u8; 4]) -> Pod {
    Pod {
        key: ObjectKey::new("default", name),
        uid: name.into(),
        node: node.into(),
        ip: Some(ip.into()),
        host_network: false,
        finished: false,
        labels: BTreeMap::from([("name".into(), name.into())]),
        service_account: "default".into(),
        ports: vec![],
        created: String::new(),
        deleting: false,
        workload: None,
    }
}

fn state(pods: Vec<Pod>) -> ClusterState {
    let mut state = ClusterState::default();
    state.apply(Change::Namespaces(Delta::Replace(vec![Namespace {
        name: "default".into(),
        labels: BTreeMap::new(),
    }])));
    state.apply(Change::Nodes(Delta::Replace(vec![
        node("one", [172, 18, 0, 2], "10.244.1.0/24"),
        node("two", [172, 18, 0, 3], "10.244.2.0/24"),
    ])));
    state.apply(Change::Pods(Delta::Replace(pods)));
    state
}

fn numbers(state: &ClusterState, names: &[&str]) -> Numbers {
    Numbers::new(names.iter().enumerate().map(|(n, name)| {
        let pod = &state.pods[&ObjectKey::new("default", *name)];
        let labels = pod_labels(pod, state, "default").expect("a namespace");
        (
            NumericIdentity(300 + u32::try_from(n).expect("few")),
            labels,
        )
    }))
}

fn at(addresses: &BTreeMap<Ipv4Net, Address>, range: &str) -> (u32, Option<Ipv4Addr>) {
    let address = addresses[&range.parse::<Ipv4Net>().expect("a range")];
    (address.identity.0, address.node)
}

#[test]
fn pods_nodes_and_what_is_between_them() {
    let state = state(vec![
        pod("here", "one", [10, 244, 1, 10]),
        pod("there", "two", [10, 244, 2, 10]),
        pod("new", "two", [10, 244, 2, 11]),
    ]);
    let numbers = numbers(&state, &["here", "there"]);
    let all = addresses(
        &state,
        "one",
        &BTreeSet::new(),
        "default",
        &numbers,
        &CidrIdentities::default(),
    );
    let two = Some(Ipv4Addr::new(172, 18, 0, 3));
    assert_eq!(at(&all, "10.244.1.10/32"), (300, None));
    assert_eq!(at(&all, "10.244.2.10/32"), (301, two));
    // No number yet: of the cluster, but nobody in particular.
    assert_eq!(at(&all, "10.244.2.11/32"), (NumericIdentity::INIT.0, two));
    assert_eq!(
        at(&all, "10.244.2.0/24"),
        (NumericIdentity::UNMANAGED.0, two)
    );
    assert_eq!(at(&all, "172.18.0.2/32"), (NumericIdentity::HOST.0, None));
    assert_eq!(
        at(&all, "172.18.0.3/32"),
        (NumericIdentity::REMOTE_NODE.0, None)
    );
}

#[test]
fn a_range_in_a_policy_never_means_a_pod_or_a_node() {
    let state = state(vec![pod("here", "one", [10, 244, 1, 10])]);
    let numbers = numbers(&state, &["here"]);
    let mut cidrs = CidrIdentities::default();
    cidrs.update(
        &[
            "10.244.1.10/32",
            "172.18.0.2/32",
            "10.244.1.0/24",
            "192.0.2.0/24",
        ]
        .iter()
        .map(|range| range.parse().expect("a range"))
        .collect(),
    );
    let all = addresses(&state, "one", &BTreeSet::new(), "default", &numbers, &cidrs);
    assert_eq!(at(&all, "10.244.1.10/32").0, 300);
    assert_eq!(at(&all, "172.18.0.2/32").0, NumericIdentity::HOST.0);
    assert_eq!(at(&all, "10.244.1.0/24").0, NumericIdentity::UNMANAGED.0);
    assert!(NumericIdentity(at(&all, "192.0.2.0/24").0).is_local());
}

#[test]
fn the_api_server_is_known_unless_it_is_a_node() {
    let mut state = state(vec![]);
    state.apply(Change::Slices(Delta::Replace(vec![EndpointSlice {
        key: ObjectKey::new("default", "kubernetes"),
        service: "kubernetes".into(),
        ports: vec![],
        backends: [[192, 0, 2, 7], [172, 18, 0, 3]]
            .map(|ip| Backend {
                ip: ip.into(),
                ready: true,
            })
            .into(),
    }])));
    let all = addresses(
        &state,
        "one",
        &BTreeSet::new(),
        "default",
        &Numbers::default(),
        &CidrIdentities::default(),
    );
    assert_eq!(
        at(&all, "192.0.2.7/32").0,
        NumericIdentity::KUBE_APISERVER.0
    );
    assert_eq!(at(&all, "172.18.0.3/32").0, NumericIdentity::REMOTE_NODE.0);
}

#[test]
fn a_dying_pod_does_not_keep_the_address_of_the_next() {
    let mut dying = pod("a-dying", "two", [10, 244, 2, 10]);
    dying.deleting = true;
    let mut late = pod("z-dying", "two", [10, 244, 2, 10]);
    late.deleting = true;
    let state = state(vec![dying, pod("living", "two", [10, 244, 2, 10]), late]);
    let numbers = numbers(&state, &["a-dying", "living", "z-dying"]);
    let all = addresses(
        &state,
        "one",
        &BTreeSet::new(),
        "default",
        &numbers,
        &CidrIdentities::default(),
    );
    assert_eq!(at(&all, "10.244.2.10/32").0, 301);
}

#[test]
fn the_node_has_more_addresses_than_its_object_names() {
    let mut state = state(vec![
        pod("here", "one", [10, 244, 1, 10]),
        pod("there", "two", [10, 244, 2, 10]),
    ]);
    state.apply(Change::Services(Delta::Replace(vec![Service {
        key: ObjectKey::new("default", "web"),
        cluster_ips: vec![Ipv4Addr::new(10, 96, 0, 7)],
        ports: vec![],
        labels: BTreeMap::new(),
    }])));
    let numbers = numbers(&state, &["here", "there"]);
    let mut cidrs = CidrIdentities::default();
    cidrs.update(&BTreeSet::from(["172.17.0.1/32".parse().expect("a range")]));
    let own = [
        "172.17.0.1/32",
        "10.244.1.1/32",
        "10.244.1.10/32",
        "10.96.0.7/32",
        "172.18.0.3/32",
    ];
    let own = own.iter().map(|text| text.parse().expect("a range"));
    let own: BTreeSet<Ipv4Net> = own.collect();
    let all = addresses(&state, "one", &own, "default", &numbers, &cidrs);
    let host = NumericIdentity::HOST.0;
    assert_eq!(at(&all, "172.17.0.1/32"), (host, None));
    assert_eq!(at(&all, "10.244.1.1/32"), (host, None));
    assert_eq!(at(&all, "255.255.255.255/32"), (host, None));
    // What is somebody else's stays theirs.
    assert_eq!(at(&all, "10.244.1.10/32").0, 300);
    assert_eq!(at(&all, "172.18.0.3/32").0, NumericIdentity::REMOTE_NODE.0);
    assert!(!all.contains_key(&"10.96.0.7/32".parse::<Ipv4Net>().expect("a range")));
}

/// A rule of an object of this namespace, for its pods, that names these ranges.
fn naming(namespace: &str, name: usize, ranges: impl IntoIterator<Item = u8>) -> Arc<Rule> {
    let ranges = ranges.into_iter().map(|third| format!("11.0.{third}.0/24"));
    let raw = json!({
        "metadata": {"name": format!("naming-{name}"), "namespace": namespace},
        "spec": {
            "endpointSelector": {},
            "egress": [{"toCIDR": ranges.collect::<Vec<_>>()}],
        },
    });
    let mut rules = parse(PolicyKind::CiliumNetworkPolicy, &raw).expect("a policy");
    Arc::new(rules.remove(0))
}

fn local(namespaces: &[&str]) -> BTreeSet<Labels> {
    let labels = |namespace: &&str| {
        Labels::parse_all([format!("k8s:io.kubernetes.pod.namespace={namespace}").as_str()])
    };
    let labels: Result<_, _> = namespaces.iter().map(labels).collect();
    labels.expect("labels")
}

#[test]
fn ranges_are_numbered_for_the_pods_of_the_node() {
    let rules = [naming("here", 0, 0..4), naming("elsewhere", 0, 2..9)];
    let known = CidrIdentities::default();
    let some = ranges(&rules, &local(&["here"]), &known, 100);
    assert_eq!((some.numbered.len(), some.refused.len()), (4, 0));
    let none = ranges(&rules, &BTreeSet::new(), &known, 100);
    assert_eq!(none, Ranges::default());
}

#[test]
fn a_namespace_that_has_most_of_the_ranges_makes_room_for_another() {
    let greedy: Vec<_> = (0..4)
        .map(|at| naming("greedy", at, at as u8 * 20..at as u8 * 20 + 20))
        .collect();
    let all = local(&["greedy", "small"]);
    let mut known = CidrIdentities::default();
    known.update(&ranges(&greedy, &all, &known, 90).numbered);
    assert_eq!(known.iter().count(), 80);
    let mut rules = greedy;
    rules.push(naming("small", 0, 100..130));
    let with = ranges(&rules, &all, &known, 90);
    let names: Vec<_> = with
        .refused
        .iter()
        .map(|one| &*one.rule.origin.namespace)
        .collect();
    assert_eq!((with.numbered.len(), names), (90, vec!["greedy"]));
    // What many name alike takes its room once.
    let alike: Vec<_> = (0..9).map(|at| naming("small", at, 100..130)).collect();
    rules.extend(alike);
    let with = ranges(&rules, &all, &known, 90);
    assert!(
        with.refused
            .iter()
            .all(|one| &*one.rule.origin.namespace == "greedy")
    );
    assert_eq!(with.numbered.len(), 90);
}

proptest! {
    #[test]
    fn ranges_of_two_namespaces_fit_and_a_fair_share_is_kept(
        one in prop::collection::vec((0_u8..100, 1_u8..20), 0..8),
        other in prop::collection::vec((100_u8..230, 1_u8..20), 0..8),
        old in prop::collection::vec((0_u8..230, 1_u8..20), 0..8),
        room in 1_usize..200,
    ) {
        let rules = |namespace, list: &[(u8, u8)]| -> Vec<_> {
            let rule = |(name, (first, count)): (usize, &(u8, u8))| {
                naming(namespace, name, *first..first + count)
            };
            list.iter().enumerate().map(rule).collect()
        };
        let mut known = CidrIdentities::default();
        known.update(&ranges(&rules("one", &old), &local(&["one"]), &known, room).numbered);
        let all: Vec<_> = [rules("one", &one), rules("other", &other)].concat();
        let result = ranges(&all, &local(&["one", "other"]), &known, room);
        prop_assert!(result.numbered.len() <= room);
        for (namespace, list) in [("one", &one), ("other", &other)] {
            let named: usize = list.iter().map(|(_, count)| usize::from(*count)).sum();
            let mut refused = result.refused.iter();
            let loses = refused.any(|one| &*one.rule.origin.namespace == namespace);
            prop_assert!(named > room / 2 || !loses, "{namespace} within its share");
        }
        for rule in &all {
            let numbered = ranges_of([rule.as_ref()]).is_subset(&result.numbered);
            let refused = result.refused.iter().any(|one| Arc::ptr_eq(&one.rule, rule));
            prop_assert!(numbered != refused || numbered);
        }
    }
}
