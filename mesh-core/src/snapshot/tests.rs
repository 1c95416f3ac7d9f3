use http::HeaderMap;

use super::*;
use crate::filter::{
    Attached, FilterKey, FilterKind, FilterLimits, Isolation, OnError, Phase, Plugin,
};
use crate::policy::http::HttpRule;
use crate::policy::{PeerSet, RuleRef};

const EMPIRE: NumericIdentity = NumericIdentity(300);
const DEATHSTAR: NumericIdentity = NumericIdentity(301);
const TIEFIGHTER: [u8; 4] = [10, 244, 1, 10];
const LOCAL: [u8; 4] = [10, 244, 1, 11];

fn endpoint(id: u32, pod: &str, address: [u8; 4], identity: NumericIdentity) -> Endpoint {
    Endpoint {
        id: EndpointId(id),
        namespace: "default".into(),
        pod: pod.into(),
        address: PodAddr(address.into()),
        identity,
    }
}

fn policy(endpoint: u32, direction: Direction, ports: (u16, u16), path: &str) -> PortPolicy {
    PortPolicy {
        endpoint: EndpointId(endpoint),
        direction,
        first: ports.0,
        last: ports.1,
        rules: [PeerRule {
            peers: PeerSet::These([EMPIRE, DEATHSTAR].into()),
            deny: false,
            http: [HttpRule {
                path: Some(path.to_owned()),
                ..HttpRule::default()
            }]
            .into(),
            rule: Some(RuleRef {
                kind: "CiliumNetworkPolicy".into(),
                namespace: "default".into(),
                name: "rule1".into(),
                rule: "ingress[0].toPorts[0]".into(),
            }),
        }]
        .into(),
    }
}

fn parts(policies: Vec<PortPolicy>) -> Parts {
    Parts {
        version: "7".into(),
        node: Node {
            name: "kind-worker".into(),
            address: [172, 18, 0, 2].into(),
            cluster: "default".into(),
            private_ports: [].into(),
        },
        listeners: vec![],
        endpoints: vec![
            endpoint(1, "tiefighter", TIEFIGHTER, EMPIRE),
            endpoint(2, "deathstar", LOCAL, DEATHSTAR),
        ],
        identities: vec![(EMPIRE, Labels::parse_all(["k8s:org=empire"]).unwrap())],
        addresses: vec![
            ("10.244.2.10/32".parse().unwrap(), DEATHSTAR),
            ("172.18.0.2/32".parse().unwrap(), NumericIdentity::HOST),
            ("192.0.2.0/24".parse().unwrap(), NumericIdentity(1 << 24)),
        ],
        policies,
        clusters: vec![],
        filters: vec![],
        chains: vec![],
        callouts: vec![],
        settings: Settings::default(),
    }
}

fn build(policies: Vec<PortPolicy>) -> Snapshot {
    Snapshot::build(parts(policies), None).unwrap()
}

fn allowed(connection: &Connection, direction: Direction, path: &str) -> Option<bool> {
    let headers = HeaderMap::new();
    let request = Request {
        method: "GET",
        path,
        authority: "deathstar",
        headers: &headers,
    };
    let verdict = connection.judge(direction, &request);
    verdict.map(|verdict| verdict.allow)
}

#[test]
fn ends_are_pods_then_addresses_then_the_world() {
    let snapshot = build(vec![]);
    let end = |address: [u8; 4]| snapshot.end(address.into());
    assert_eq!(end(TIEFIGHTER).identity, EMPIRE);
    assert_eq!(end(TIEFIGHTER).endpoint, Some(EndpointId(1)));
    assert_eq!(end([10, 244, 2, 10]).identity, DEATHSTAR);
    assert_eq!(end([10, 244, 2, 10]).endpoint, None);
    assert_eq!(end([192, 0, 2, 9]).identity, NumericIdentity(1 << 24));
    assert_eq!(end([1, 1, 1, 1]).identity, NumericIdentity::WORLD);
    let mapped = snapshot.end("::ffff:10.244.1.10".parse().unwrap());
    assert_eq!(mapped, end(TIEFIGHTER));
}

#[test]
fn each_direction_has_its_own_policy() {
    let snapshot = build(vec![
        policy(1, Direction::Egress, (80, 80), "/out.*"),
        policy(2, Direction::Ingress, (80, 80), ".*/in"),
    ]);
    let local = snapshot.connection(TIEFIGHTER.into(), LOCAL.into(), 80);
    assert_eq!(allowed(&local, Direction::Egress, "/out/in"), Some(true));
    assert_eq!(allowed(&local, Direction::Ingress, "/out/in"), Some(true));
    assert_eq!(allowed(&local, Direction::Egress, "/in"), Some(false));
    assert_eq!(allowed(&local, Direction::Ingress, "/out"), Some(false));
    // To another node: only the source's rules are judged here.
    let remote = snapshot.connection(TIEFIGHTER.into(), [10, 244, 2, 10].into(), 80);
    assert!(remote.has_policy(Direction::Egress) && !remote.has_policy(Direction::Ingress));
    assert_eq!(allowed(&remote, Direction::Ingress, "/x"), None);
    // Another port, and the way back, have no rules.
    let other = snapshot.connection(TIEFIGHTER.into(), LOCAL.into(), 81);
    assert!(!other.has_policy(Direction::Egress) && !other.has_policy(Direction::Ingress));
}

#[test]
fn port_ranges_are_found_at_both_ends() {
    let snapshot = build(vec![
        policy(2, Direction::Ingress, (8000, 8079), "/a"),
        policy(2, Direction::Ingress, (65535, 65535), "/c"),
        policy(2, Direction::Ingress, (8080, 9000), "/b"),
    ]);
    for (port, path) in [
        (7999, None),
        (8000, Some("/a")),
        (8079, Some("/a")),
        (8080, Some("/b")),
        (9000, Some("/b")),
        (9001, None),
        (65535, Some("/c")),
    ] {
        let connection = snapshot.connection(TIEFIGHTER.into(), LOCAL.into(), port);
        let expected = path.map(|_| true);
        let found = allowed(&connection, Direction::Ingress, path.unwrap_or("/"));
        assert_eq!(found, expected, "{port}");
    }
}

#[test]
fn unchanged_policies_keep_their_matchers() {
    let first = build(vec![policy(2, Direction::Ingress, (80, 80), "/a")]);
    let changed = vec![
        policy(2, Direction::Ingress, (80, 80), "/a"),
        policy(1, Direction::Ingress, (81, 81), "/a"),
        policy(2, Direction::Ingress, (82, 82), "/b"),
    ];
    let second = Snapshot::build(parts(changed), Some(&first)).unwrap();
    let matcher = |snapshot: &Snapshot, endpoint, port| {
        let policies = &snapshot.policies;
        let found = policies.get(EndpointId(endpoint), Direction::Ingress, port);
        Arc::clone(found.expect("a policy"))
    };
    let kept = matcher(&first, 2, 80);
    assert!(Arc::ptr_eq(&kept, &matcher(&second, 2, 80)));
    assert!(
        Arc::ptr_eq(&kept, &matcher(&second, 1, 81)),
        "equal rules share one"
    );
    assert!(!Arc::ptr_eq(&kept, &matcher(&second, 2, 82)));
}

#[test]
fn wrong_parts_are_refused_by_name() {
    let refused = |parts: Parts| Snapshot::build(parts, None).unwrap_err().to_string();
    let broken = policy(2, Direction::Ingress, (80, 80), "/a(");
    assert!(refused(parts(vec![broken])).starts_with("policies[0].path: "));
    let overlap = vec![
        policy(2, Direction::Ingress, (80, 90), "/a"),
        policy(2, Direction::Ingress, (90, 99), "/b"),
    ];
    assert!(refused(parts(overlap)).contains("overlapping ingress port ranges"));
    let reversed = policy(2, Direction::Ingress, (90, 80), "/a");
    assert!(refused(parts(vec![reversed])).starts_with("policies[0]: "));
    let mut unknown = parts(vec![]);
    unknown.listeners.push(Listener {
        name: "x".into(),
        address: ([127, 0, 0, 1], 15001).into(),
        mode: ListenerMode::Cluster("missing".into()),
    });
    assert!(refused(unknown).starts_with("listeners[0].cluster: "));
    let mut nobody = parts(vec![]);
    nobody.chains.push(chain(2, Direction::Ingress, &[0]));
    assert!(refused(nobody).starts_with("chains[0].steps[0].filter: "));
}

fn chain(endpoint: u32, direction: Direction, filters: &[u32]) -> ChainSpec {
    let attached = |filter: &u32| Attached {
        phase: Phase::AfterPolicy,
        filter: *filter,
    };
    ChainSpec {
        endpoint: EndpointId(endpoint),
        direction,
        first: 80,
        last: 80,
        steps: filters.iter().map(attached).collect(),
    }
}

#[test]
fn a_connection_meets_the_filters_of_both_ends() {
    let filter = |name: &str| {
        Arc::new(FilterSpec {
            key: FilterKey {
                kind: FilterKind::WeftFilter,
                namespace: "default".into(),
                name: name.into(),
            },
            module: None,
            problem: None,
            config: [].into(),
            limits: FilterLimits::default(),
            on_error: OnError::default(),
            isolation: Isolation::Worker,
            callouts: [].into(),
            plugin: Plugin::default(),
        })
    };
    let mut parts = parts(vec![]);
    parts.filters = vec![filter("a"), filter("b")];
    parts.chains = vec![
        chain(1, Direction::Egress, &[1]),
        chain(2, Direction::Ingress, &[0, 1]),
    ];
    let snapshot = Snapshot::build(parts, None).unwrap();
    let met = |source: [u8; 4], port| -> Vec<u32> {
        let connection = snapshot.connection(source.into(), LOCAL.into(), port);
        let steps = connection.chain().map(|chain| chain.steps().to_vec());
        let steps = steps.unwrap_or_default().into_iter();
        steps.map(|step| step.filter).collect()
    };
    assert_eq!(met(TIEFIGHTER, 80), [1, 0, 1]);
    assert_eq!(met([10, 244, 2, 10], 80), [0, 1]);
    assert!(met(TIEFIGHTER, 81).is_empty());
    let attached = |filter, endpoint| snapshot.is_attached(filter, EndpointId(endpoint));
    assert!(attached(1, 1) && attached(0, 2) && attached(1, 2));
    assert!(!attached(0, 1) && !attached(0, 3));
}

#[test]
fn snapshots_cross_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Snapshot>();
    shared::<Connection>();
}
