use super::*;
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
