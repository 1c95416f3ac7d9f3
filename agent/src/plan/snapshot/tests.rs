use serde_json::json;
use weft_core::model::{EndpointId, Labels, NamedPorts};
use weft_core::policy::{Compiler, EndpointPolicy, PolicyKind, RuleTable, Subject};

use super::*;
use crate::endpoint::Interface;
use crate::policy::parse;
use crate::state::ObjectKey;

/// Larger than anything here.
const MAX: usize = 64 << 20;

fn built(ports: &[PortPolicy]) -> node::Snapshot {
    built_with(ports, &Settings::default())
}

fn built_with(ports: &[PortPolicy], settings: &Settings) -> node::Snapshot {
    let identities = IdentityTable::new();
    let parts = SnapshotParts {
        node: node::Node {
            name: "kind-worker".into(),
            ip: "172.18.0.2".into(),
            cluster: "default".into(),
            private_ports: Vec::new(),
        },
        proxy_port: 15001,
        proxy_mark: 0xb0000,
        settings,
        endpoints: &BTreeMap::new(),
        identities: &identities,
        addresses: &BTreeMap::new(),
        ports: ports.iter().collect(),
        filters: FilterParts::default(),
    };
    snapshot(&parts, MAX).expect("it fits").0
}

fn port(first: u16) -> PortPolicy {
    PortPolicy {
        endpoint: EndpointId(7),
        direction: Direction::Egress,
        first,
        last: first,
        rules: [PeerRule {
            peers: PeerSet::Any,
            deny: false,
            http: [HttpRule {
                method: Some("POST".into()),
                ..HttpRule::default()
            }]
            .into(),
            rule: None,
        }]
        .into(),
    }
}

#[test]
fn the_version_follows_the_content() {
    assert_eq!(built(&[port(80)]).version, built(&[port(80)]).version);
    assert_ne!(built(&[port(80)]).version, built(&[port(81)]).version);
    assert!(!built(&[]).version.is_empty());
}

#[test]
fn settings_are_a_part_of_the_content() {
    let other = Settings {
        server_name: "weft".into(),
        idle_timeout: Duration::from_millis(1500),
        ..Settings::default()
    };
    let snapshot = built_with(&[], &other);
    assert_ne!(snapshot.version, built(&[]).version);
    let settings = snapshot.settings.unwrap();
    assert_eq!(settings.server_name.as_deref(), Some("weft"));
    let idle = settings.idle_timeout.unwrap();
    assert_eq!((idle.seconds, idle.nanos), (1, 500_000_000));
    assert_eq!(settings.max_headers, Some(100));
}

#[test]
fn rules_arrive_as_they_were_written() {
    let snapshot = built(&[port(80)]);
    let policy = &snapshot.policies[0];
    assert_eq!(policy.direction(), node::Direction::Egress);
    assert_eq!((policy.port_first, policy.port_last), (80, 80));
    assert_eq!(policy.rules[0].http[0].method, "POST");
    assert!(policy.rules[0].peers.is_empty());
    let mark = node::Transparent { mark: 0xb_0000 };
    let transparent = node::listener::Mode::Transparent(mark);
    assert_eq!(snapshot.listeners[0].mode, Some(transparent));
}

/// What a snapshot is made of, with some of everything.
struct Content {
    settings: Settings,
    endpoints: BTreeMap<Ipv4Addr, LocalEndpoint>,
    identities: IdentityTable,
    addresses: BTreeMap<Ipv4Net, Address>,
    policies: Vec<EndpointPolicy>,
}

impl Content {
    fn new() -> Self {
        let mut identities = IdentityTable::new();
        let long = "x".repeat(60);
        for number in 0..200u32 {
            let labels = [
                format!("k8s:app=app{number}"),
                format!("k8s:example.com/{long}={long}"),
                "k8s:io.kubernetes.pod.namespace=default".into(),
            ];
            let labels = Labels::parse_all(labels.iter().map(String::as_str)).expect("labels");
            identities.insert(NumericIdentity(60_000 + number), labels);
        }
        let endpoint = |number: u8| {
            let ip = Ipv4Addr::new(10, 244, 101, number);
            let endpoint = LocalEndpoint {
                id: u32::MAX - u32::from(number),
                key: ObjectKey::new("default", format!("deathstar-{long}-{number}")),
                uid: number.to_string(),
                ip,
                interface: Interface {
                    ifindex: 1,
                    mac: [2; 6],
                    host_mac: [3; 6],
                },
                identity: NumericIdentity(60_000),
                labels: Labels::default(),
                ports: NamedPorts::default(),
            };
            (ip, endpoint)
        };
        let address = |number: u32| {
            let ip = Ipv4Addr::from(0xc8c8_c8c8 + number);
            let address = Address {
                identity: NumericIdentity(u32::MAX),
                node: None,
            };
            (Ipv4Net::from(ip), address)
        };
        let mut content = Self {
            settings: Settings::default(),
            endpoints: (0..50).map(endpoint).collect(),
            identities,
            addresses: (0..500).map(address).collect(),
            policies: Vec::new(),
        };
        content.compile();
        content
    }

    /// Rules of every kind, on ranges that overlap.
    fn compile(&mut self) {
        let rule = |index: usize| {
            json!({
                "fromEndpoints": [{}],
                "toPorts": [{
                    "ports": [{
                        "port": (60_000 + index).to_string(),
                        "endPort": 65_000 - index,
                        "protocol": "TCP",
                    }],
                    "rules": {"http": [
                        {},
                        {"method": "GET", "path": format!("/{index}"), "host": "deathstar"},
                        {"headers": ["X-A", "X-B: c"]},
                        {"headerMatches": [
                            {"name": "X-Key", "value": "v", "mismatch": "REPLACE"},
                        ]},
                    ]},
                }],
            })
        };
        let rules: Vec<_> = (0..20).map(rule).collect();
        let raw = json!({
            "metadata": {"name": "rule1", "namespace": "default"},
            "spec": {
                "endpointSelector": {},
                "ingress": rules,
                "ingressDeny": [{"fromEntities": ["world"]}],
            },
        });
        let rules = parse(PolicyKind::CiliumNetworkPolicy, &raw).expect("a policy");
        let mut compiler = Compiler::new(&self.identities);
        let labels = Labels::parse_all(["k8s:io.kubernetes.pod.namespace=default"]);
        let subject = Subject {
            id: EndpointId(u32::MAX),
            labels: &labels.expect("labels"),
            named_ports: &NamedPorts::default(),
            intercepts: &[],
        };
        let policy = compiler.compile(&subject, &rules, &mut RuleTable::default());
        self.policies.push(policy);
    }

    fn parts(&self) -> SnapshotParts<'_> {
        let policies = self.policies.iter();
        SnapshotParts {
            node: node::Node {
                name: "kind-worker".into(),
                ip: "172.18.0.2".into(),
                cluster: "default".into(),
                private_ports: vec![4244],
            },
            proxy_port: 15001,
            proxy_mark: 0xa00,
            settings: &self.settings,
            endpoints: &self.endpoints,
            identities: &self.identities,
            addresses: &self.addresses,
            ports: policies.flat_map(|policy| &policy.ports).collect(),
            filters: FilterParts::default(),
        }
    }
}

#[test]
fn a_snapshot_is_never_larger_than_it_was_taken_for() {
    let content = Content::new();
    let parts = content.parts();
    let (_, size) = snapshot(&parts, MAX).expect("fits");
    let base = MAX - room_for_ports(&parts, &Chains::new(), MAX);
    let ports = content.policies[0].http_load.bytes;
    assert!(size <= base + ports, "{size} for {base} and {ports}");
    // Nor is it taken for twice as much.
    assert!(size > (base + ports) / 2, "{size} for {base} and {ports}");
    let none = SnapshotParts {
        ports: Vec::new(),
        ..content.parts()
    };
    let (_, without) = snapshot(&none, MAX).expect("fits");
    assert!(without <= base, "{without} for {base}");
    assert!(size - without <= ports, "{} for {ports}", size - without);
}

#[test]
fn the_size_is_the_encoded_one_and_above_the_limit_nothing_is_built() {
    let content = Content::new();
    let (built, size) = snapshot(&content.parts(), MAX).expect("fits");
    assert_eq!(built.encode_to_vec().len(), size);
    let none = IdentityTable::new();
    let parts = SnapshotParts {
        identities: &none,
        ..content.parts()
    };
    let (_, size) = snapshot(&parts, MAX).expect("fits");
    assert!(snapshot(&parts, size).is_ok());
    let limit = size - 1;
    let refused = snapshot(&parts, limit).expect_err("too large");
    assert_eq!(refused, TooLarge { size, limit });
}

#[test]
fn labels_give_way_before_what_decides() {
    let content = Content::new();
    let labelled = |snapshot: &node::Snapshot| {
        let identities = snapshot.identities.iter();
        identities.filter(|one| !one.labels.is_empty()).count()
    };
    // Most of this one is labels.
    let parts = SnapshotParts {
        ports: Vec::new(),
        ..content.parts()
    };
    let (all, size) = snapshot(&parts, MAX).expect("fits");
    assert_eq!(labelled(&all), all.identities.len());
    let (some, less) = snapshot(&parts, size).expect("fits");
    assert!(labelled(&some) < labelled(&all) && less < size);
    assert_eq!(some.identities.len(), all.identities.len());
    assert_eq!(some.addresses, all.addresses);
}
