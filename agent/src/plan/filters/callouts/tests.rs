use serde_json::{Value, json};
use weft_core::filter::FilterSpec;
use weft_core::policy::{IdentityTable, PolicyKind, RuleTable};

use super::super::testing::{app, filter, ip, on, pods, spec};
use super::super::{Attached, attach};
use super::*;
use crate::plan::{Compiled, KernelEntries, Rules};
use crate::policy::parse;
use crate::state::{
    Backend as Ready, Change, Delta, EndpointSlice, Service, ServicePort, SlicePort,
};

/// A Service `authz` with a pod of this node and one of another one behind it.
fn state() -> ClusterState {
    let mut state = ClusterState::default();
    state.apply(Change::Services(Delta::Replace(vec![Service {
        key: ObjectKey::new("default", "authz"),
        cluster_ips: vec![],
        ports: vec![ServicePort {
            name: "http".into(),
            port: 80,
            protocol: Protocol::Tcp,
        }],
        labels: BTreeMap::new(),
    }])));
    state.apply(Change::Slices(Delta::Replace(vec![EndpointSlice {
        key: ObjectKey::new("default", "authz-1"),
        service: "authz".into(),
        ports: vec![SlicePort {
            name: "http".into(),
            port: 8080,
            protocol: Protocol::Tcp,
        }],
        backends: [(3, true), (99, true), (98, false)]
            .map(|(last, ready)| Ready {
                ip: ip(last),
                ready,
            })
            .into(),
    }])));
    state
}

/// Two pods of `web` with a filter that asks `authz`, one of `authz`, and one of
/// `shop` without filters.
struct Node {
    endpoints: BTreeMap<Ipv4Addr, LocalEndpoint>,
    attached: Attached,
    compiled: Compiled,
    addresses: BTreeMap<Ipv4Net, Address>,
    closed: BTreeSet<u32>,
}

const AUTHZ: NumericIdentity = NumericIdentity(900);

impl Node {
    fn new(policies: &[Value]) -> Self {
        let mut endpoints = pods(&["web", "web", "authz", "shop"]);
        for endpoint in endpoints.values_mut() {
            // As the labels have it.
            endpoint.identity = match endpoint.id {
                1 | 2 => NumericIdentity(901),
                3 => AUTHZ,
                _ => NumericIdentity(902),
            };
        }
        let asks = FilterSpec {
            callouts: ["authz.default:80", "absent.default:80"]
                .map(Into::into)
                .into(),
            ..spec("ext-auth")
        };
        let filters = [
            filter(asks, &[on(app("web"), &[(80, 80)])]),
            filter(spec("log"), &[on(app("web"), &[(80, 80)])]),
        ];
        let mut identities = IdentityTable::new();
        for endpoint in endpoints.values() {
            identities.insert(endpoint.identity, endpoint.labels.clone());
        }
        let rules = policies.iter().flat_map(|spec| {
            let raw = json!({"metadata": {"name": "p", "namespace": "default"}, "spec": spec});
            parse(PolicyKind::CiliumNetworkPolicy, &raw).expect("a policy")
        });
        let mut in_force = Rules::default();
        in_force.replace(rules.map(std::sync::Arc::new).collect());
        let mut compiled = Compiled::default();
        let mut table = RuleTable::default();
        let held = KernelEntries::new();
        compiled.update(&endpoints, &in_force, identities, &mut table, &held);
        let single = |last: u8, identity| {
            let address = Address {
                identity,
                node: None,
            };
            (Ipv4Net::from(ip(last)), address)
        };
        Self {
            attached: attach(&filters, &endpoints, &ClusterState::default()),
            endpoints,
            compiled,
            addresses: BTreeMap::from([single(99, AUTHZ)]),
            closed: BTreeSet::new(),
        }
    }

    /// The backends of `authz` by their last digits, with whom may ask them.
    fn authz(&self) -> Vec<(u8, Vec<u32>)> {
        let state = state();
        let chains = self.attached.chains.iter();
        let chains = chains.map(|(id, chains)| (*id, chains.as_slice()));
        let asked = Asked {
            state: &state,
            endpoints: &self.endpoints,
            policies: &self.compiled.policies,
            addresses: &self.addresses,
            closed: &self.closed,
        };
        let callouts = callouts(chains, asked);
        let names: Vec<&str> = callouts.iter().map(|one| &*one.service).collect();
        assert_eq!(names, ["absent.default:80", "authz.default:80"]);
        assert!(callouts[0].backends.is_empty());
        let backends = callouts[1].backends.iter().map(|backend| {
            let SocketAddr::V4(address) = backend.address else {
                panic!("{backend:?}");
            };
            assert_eq!(address.port(), 8080);
            let from = backend.from.iter().map(|id| id.0).collect();
            (address.ip().octets()[3], from)
        });
        backends.collect()
    }
}

fn egress(app: &str, to: &str, port: &Value) -> Value {
    json!({
        "endpointSelector": {"matchLabels": {"app": app}},
        "egress": [{
            "toEndpoints": [{"matchLabels": {"app": to}}],
            "toPorts": [port],
        }],
    })
}

fn ingress(app: &str, from: &str) -> Value {
    json!({
        "endpointSelector": {"matchLabels": {"app": app}},
        "ingress": [{"fromEndpoints": [{"matchLabels": {"app": from}}]}],
    })
}

fn port(number: &str) -> Value {
    json!({"ports": [{"port": number, "protocol": "TCP"}]})
}

#[test]
fn without_policies_those_with_the_filter_may_ask_who_is_ready() {
    let node = Node::new(&[]);
    assert_eq!(node.authz(), [(3, vec![1, 2]), (99, vec![1, 2])]);
}

#[test]
fn a_filter_asks_no_more_than_its_pod_may() {
    let node = Node::new(&[egress("web", "authz", &port("8080"))]);
    assert_eq!(node.authz(), [(3, vec![1, 2]), (99, vec![1, 2])]);
    // The port of the Service is not the port that is dialled.
    let node = Node::new(&[egress("web", "authz", &port("80"))]);
    assert_eq!(node.authz(), [(3, vec![]), (99, vec![])]);
    let node = Node::new(&[egress("web", "shop", &port("8080"))]);
    assert_eq!(node.authz(), [(3, vec![]), (99, vec![])]);
    // Requests are the proxy's to judge.
    let mut http = port("8080");
    http["rules"] = json!({"http": [{"path": "/check"}]});
    let mut node = Node::new(&[egress("web", "authz", &http)]);
    assert_eq!(node.authz(), [(3, vec![1, 2]), (99, vec![1, 2])]);
    // It has no rules for what is closed.
    let policy = node.compiled.policies.get_mut(&1).expect("a policy");
    policy.close_http();
    assert_eq!(node.authz(), [(3, vec![2]), (99, vec![2])]);
}

#[test]
fn a_pod_of_this_node_is_asked_by_whom_it_lets_in() {
    let node = Node::new(&[ingress("authz", "shop")]);
    // The other one is for its own node to protect.
    assert_eq!(node.authz(), [(3, vec![]), (99, vec![1, 2])]);
    let node = Node::new(&[ingress("authz", "web")]);
    assert_eq!(node.authz(), [(3, vec![1, 2]), (99, vec![1, 2])]);
}

#[test]
fn an_endpoint_that_the_kernel_refused_neither_asks_nor_is_asked() {
    let mut node = Node::new(&[]);
    node.closed.insert(1);
    assert_eq!(node.authz(), [(3, vec![2]), (99, vec![2])]);
    node.closed = BTreeSet::from([3]);
    assert_eq!(node.authz(), [(3, vec![]), (99, vec![1, 2])]);
}

#[test]
fn an_address_is_who_the_narrowest_range_says() {
    let address = |identity| Address {
        identity: NumericIdentity(identity),
        node: None,
    };
    let range = |text: &str| text.parse::<Ipv4Net>().expect("a range");
    let addresses = BTreeMap::from([
        (range("10.0.0.0/8"), address(1)),
        (range("10.244.1.0/24"), address(2)),
        (range("10.244.1.7/32"), address(3)),
    ]);
    let of = |text: &str| identity_of(text.parse().expect("an address"), &addresses);
    assert_eq!(of("10.244.1.7"), NumericIdentity(3));
    assert_eq!(of("10.244.1.8"), NumericIdentity(2));
    assert_eq!(of("10.1.1.1"), NumericIdentity(1));
    assert_eq!(of("192.0.2.1"), NumericIdentity::WORLD);
    let all = BTreeMap::from([(range("0.0.0.0/0"), address(4))]);
    assert_eq!(identity_of(Ipv4Addr::LOCALHOST, &all), NumericIdentity(4));
}
