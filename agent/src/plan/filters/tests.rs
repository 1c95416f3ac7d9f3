use weft_core::filter::{FilterKey, FilterKind, OnError};
use weft_core::policy::EndpointSelector;

use super::testing::{app, filter, ip, on, pods, spec};
use super::*;
use crate::state::{Backend, Change, Delta, EndpointSlice, Service, ServicePort, SlicePort};

fn service(name: &str) -> Subject {
    Subject::Service {
        namespace: "default".into(),
        name: name.into(),
    }
}

/// `ingress 80-81: a b`, one for each chain.
fn told(chains: &[Chain]) -> Vec<String> {
    let told = |chain: &Chain| {
        let steps = chain.steps.iter().map(|step| &*step.filter.key.name);
        let steps: Vec<&str> = steps.collect();
        let Chain {
            direction,
            first,
            last,
            ..
        } = chain;
        format!("{direction} {first}-{last}: {}", steps.join(" "))
    };
    chains.iter().map(told).collect()
}

fn attached_to(app: &str, filters: &[ResolvedFilter]) -> Vec<String> {
    let attached = attach(filters, &pods(&[app]), &ClusterState::default());
    attached
        .chains
        .get(&1)
        .map_or(vec![], |chains| told(chains))
}

#[test]
fn a_filter_is_met_by_the_pods_that_it_selects() {
    let filters = [filter(spec("jwt"), &[on(app("web"), &[])])];
    assert_eq!(attached_to("web", &filters), ["ingress 0-65535: jwt"]);
    assert_eq!(attached_to("shop", &filters), Vec::<String>::new());
}

#[test]
fn chains_are_cut_where_filters_differ() {
    let filters = [
        filter(spec("b"), &[on(app("web"), &[(80, 90)])]),
        filter(spec("a"), &[on(app("web"), &[(85, 100), (443, 443)])]),
        filter(spec("c"), &[on(app("web"), &[(101, 110)])]),
        filter(
            spec("out"),
            &[Attachment {
                direction: Direction::Egress,
                ..on(app("web"), &[(80, 80)])
            }],
        ),
    ];
    assert_eq!(
        attached_to("web", &filters),
        [
            "ingress 80-84: b",
            "ingress 85-90: a b",
            "ingress 91-100: a",
            "ingress 101-110: c",
            "ingress 443-443: a",
            "egress 80-80: out",
        ]
    );
    let all = [filter(spec("all"), &[on(app("web"), &[])])];
    let with_all = [&filters[..1], &all].concat();
    assert_eq!(
        attached_to("web", &with_all),
        [
            "ingress 0-79: all",
            "ingress 80-90: all b",
            "ingress 91-65535: all",
        ]
    );
}

#[test]
fn the_order_is_phase_then_number_then_name() {
    let at = |phase, order| Attachment {
        phase,
        order,
        ..on(app("web"), &[(80, 80)])
    };
    let of_cluster = FilterSpec {
        key: FilterKey {
            kind: FilterKind::WeftClusterFilter,
            namespace: "".into(),
            name: "z".into(),
        },
        ..spec("z")
    };
    let filters = [
        filter(spec("upstream"), &[at(Phase::Upstream, -5)]),
        filter(spec("b"), &[at(Phase::AfterPolicy, 7)]),
        filter(spec("a"), &[at(Phase::AfterPolicy, 7)]),
        filter(spec("early"), &[at(Phase::AfterPolicy, -1)]),
        filter(of_cluster, &[at(Phase::AfterPolicy, 7)]),
        filter(spec("before"), &[at(Phase::BeforePolicy, 100)]),
    ];
    let order = "ingress 80-80: before early z a b upstream";
    assert_eq!(attached_to("web", &filters), [order]);
    let mut turned = filters;
    turned.reverse();
    assert_eq!(attached_to("web", &turned), [order]);
}

#[test]
fn a_filter_that_is_attached_twice_runs_once() {
    let twice = [
        on(app("web"), &[(80, 90)]),
        on(Subject::Pods(EndpointSelector::default()), &[(85, 95)]),
    ];
    let filters = [filter(spec("a"), &twice)];
    assert_eq!(attached_to("web", &filters), ["ingress 80-95: a"]);
}

/// A Service with two ports, behind which are pods of this node, one of them not
/// ready, and one of another node.
fn state() -> ClusterState {
    let mut state = ClusterState::default();
    let port = |name: &str, port, protocol| ServicePort {
        name: name.into(),
        port,
        protocol,
    };
    let own = |name: &str, port, protocol| SlicePort {
        name: name.into(),
        port,
        protocol,
    };
    let backend = |last, ready| Backend {
        ip: ip(last),
        ready,
    };
    state.apply(Change::Services(Delta::Replace(vec![Service {
        key: ObjectKey::new("default", "web"),
        cluster_ips: vec![],
        ports: vec![
            port("http", 80, Protocol::Tcp),
            port("admin", 81, Protocol::Tcp),
            port("dns", 80, Protocol::Udp),
        ],
        labels: BTreeMap::new(),
    }])));
    let slice = |namespace: &str| EndpointSlice {
        key: ObjectKey::new(namespace, "web-1"),
        service: "web".into(),
        ports: vec![
            own("http", 8080, Protocol::Tcp),
            own("admin", 9090, Protocol::Tcp),
            own("dns", 5353, Protocol::Udp),
        ],
        backends: vec![backend(1, true), backend(2, false), backend(99, true)],
    };
    let other = EndpointSlice {
        ports: vec![own("http", 7070, Protocol::Tcp)],
        ..slice("other")
    };
    state.apply(Change::Slices(Delta::Replace(vec![
        slice("default"),
        other,
    ])));
    state
}

#[test]
fn a_service_means_the_ports_of_the_pods_behind_it() {
    let endpoints = pods(&["web", "web", "web"]);
    let state = state();
    let met = |attachment: &[Attachment]| {
        let filters = [filter(spec("a"), attachment)];
        attach(&filters, &endpoints, &state)
    };
    let all = met(&[on(service("web"), &[])]);
    for pod in [1, 2] {
        let chains = told(&all.chains[&pod]);
        assert_eq!(chains, ["ingress 8080-8080: a", "ingress 9090-9090: a"]);
    }
    assert!(!all.chains.contains_key(&3), "not behind it");
    let some = met(&[on(service("web"), &[(80, 80)])]);
    assert_eq!(told(&some.chains[&1]), ["ingress 8080-8080: a"]);
    let nobody = met(&[
        on(service("absent"), &[]),
        on(service("web"), &[(8080, 8080)]),
    ]);
    assert_eq!(nobody, Attached::default());
    let both = met(&[on(app("web"), &[(8000, 9000)]), on(service("web"), &[])]);
    assert_eq!(
        told(&both.chains[&1]),
        ["ingress 8000-9000: a", "ingress 9090-9090: a"]
    );
    assert_eq!(told(&both.chains[&3]), ["ingress 8000-9000: a"]);
}

#[test]
fn a_service_leads_to_pods_of_its_own_namespace_alone() {
    let mut endpoints = pods(&["web", "web"]);
    // Someone else's, which a Service without a selector names by its address.
    let foreign = endpoints.get_mut(&ip(1)).expect("a pod");
    foreign.key = ObjectKey::new("bank", "web-1");
    let state = state();
    let met = |kind: FilterKind, namespace: &str| {
        let mut spec = spec("a");
        spec.key.kind = kind;
        spec.key.namespace = namespace.into();
        let filters = [filter(spec, &[on(service("web"), &[(80, 80)])])];
        let attached = attach(&filters, &endpoints, &state);
        attached.chains.into_keys().collect::<Vec<_>>()
    };
    assert_eq!(met(FilterKind::WeftFilter, "default"), [2]);
    assert_eq!(met(FilterKind::WasmPlugin, "default"), [2]);
    assert_eq!(met(FilterKind::WeftClusterFilter, ""), [1, 2]);
}

fn open(name: &str) -> FilterSpec {
    FilterSpec {
        on_error: OnError {
            load: FailPolicy::Open,
            ..OnError::default()
        },
        ..spec(name)
    }
}

#[test]
fn a_proxy_without_filters_gets_only_what_must_not_pass_them_by() {
    let filters = [
        filter(open("log"), &[on(app("web"), &[(80, 89)])]),
        filter(spec("jwt"), &[on(app("web"), &[(85, 95)])]),
        filter(open("log"), &[on(app("shop"), &[(80, 80)])]),
    ];
    let endpoints = pods(&["web", "shop", "cart"]);
    let attached = attach(&filters, &endpoints, &ClusterState::default());
    let ports = |supported, pod| {
        let intercepts = attached.intercepts(supported);
        let ports = intercepts.get(&pod).cloned().unwrap_or_default();
        let ports = ports.iter().map(|one| (one.first, one.last));
        ports.collect::<Vec<_>>()
    };
    for supported in [None, Some(true)] {
        assert_eq!(ports(supported, 1), [(80, 95)]);
        assert_eq!(ports(supported, 2), [(80, 80)]);
    }
    assert_eq!(ports(Some(false), 1), [(85, 95)]);
    assert!(ports(Some(false), 2).is_empty());
    assert!(!attached.intercepts(None).contains_key(&3));
}

#[test]
fn more_filters_than_there_may_be_close_the_ports() {
    // Of every range of ports all filters before it are met: n * n / 2.
    let nested = |count: u16| -> Vec<ResolvedFilter> {
        let filters = (0..count).map(|number| {
            let ports = [(1000 + number, 2000 - number)];
            filter(spec(&format!("f{number}")), &[on(app("web"), &ports)])
        });
        filters.collect()
    };
    let endpoints = pods(&["web", "shop"]);
    let state = ClusterState::default();
    let fine = attach(&nested(40), &endpoints, &state);
    let steps: usize = fine.chains[&1].iter().map(|chain| chain.steps.len()).sum();
    assert_eq!(steps, 40 * 40);
    assert!(fine.over.is_empty());
    let mut many = nested(50);
    many.push(filter(
        spec("greedy"),
        &[on(app("web"), &[(1, 1), (3, 3), (5, 5)])],
    ));
    let over = attach(&many, &endpoints, &state);
    assert!(over.chains.is_empty());
    let told = over.over[&1].to_string();
    assert!(
        told.contains("more than 2048") && told.contains("WeftFilter default/greedy's: 3"),
        "{told}"
    );
    for supported in [None, Some(true), Some(false)] {
        let ports = &over.intercepts(supported)[&1];
        let ports: Vec<_> = ports.iter().map(|one| (one.first, one.last)).collect();
        assert_eq!(ports, [(1, 1), (3, 3), (5, 5), (1000, 2000)]);
    }
    assert_eq!(over.over.len(), 1, "other pods do not notice");
}
