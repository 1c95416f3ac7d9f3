//! Random policies, endpoints and connections.
//!
//! The vocabulary is small on purpose: rules have to overlap, contradict and
//! cover each other to be worth asking about.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::reference::{Question, Who};
use crate::filter::Intercept;
use crate::model::PrefixMap;
use crate::model::{
    Direction, EndpointId, Label, LabelSource, Labels, NAMESPACE_LABEL, NamedPorts,
    NumericIdentity, Protocol,
};
use crate::policy::http::{HttpRule, HttpRules};
use crate::policy::{
    CidrPeer, DirectionRules, EndpointSelector, Entity, IdentityTable, L7Rules, Operator, Origin,
    Peer, Peers, PolicyKind, PortMatch, PortRange, PortRule, PortSpec, Requirement, Rule,
    TrafficRule, cidrs_of,
};

/// A pod of a case.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its identity; pods with equal labels share it.
    pub identity: NumericIdentity,
    /// Its labels.
    pub labels: Labels,
    /// Its container ports, the same for all pods of one identity.
    pub ports: NamedPorts,
}

/// The other end of a random connection.
#[derive(Clone, Copy, Debug)]
pub enum PeerOf {
    /// The pod at this place of [`Case::pods`].
    Pod(usize),
    /// A reserved identity.
    Reserved(NumericIdentity),
    /// An address of the world.
    World(Ipv4Addr),
}

/// A random connection.
#[derive(Clone, Copy, Debug)]
pub struct Tuple {
    /// Direction, as the subject sees it.
    pub direction: Direction,
    /// The other end.
    pub peer: PeerOf,
    /// Number of the IP protocol.
    pub protocol: u8,
    /// Destination port; 0 for protocols without ports.
    pub port: u16,
}

/// Random policies and what to ask about them. The subject is the first pod.
#[derive(Clone, Debug)]
pub struct Case {
    /// Policies.
    pub rules: Vec<Rule>,
    /// Pods; at least one.
    pub pods: Vec<Pod>,
    /// Ports of the subject to which filters are attached; none in some cases.
    pub intercepts: Vec<Intercept>,
    /// Connections.
    pub tuples: Vec<Tuple>,
}

impl Case {
    /// Number of the subject on its node.
    pub const SUBJECT: EndpointId = EndpointId(7);

    /// All identities: the pods' and one for each prefix of the rules, with
    /// the table that tells which address has which.
    pub fn identities(&self) -> (IdentityTable, PrefixMap<NumericIdentity>) {
        let mut table = IdentityTable::new();
        for pod in &self.pods {
            table.insert(pod.identity, pod.labels.clone());
            table.add_named_ports(pod.identity, &pod.ports);
        }
        let mut addresses = PrefixMap::default();
        for (number, cidr) in (NumericIdentity::LOCAL_FIRST.0..).zip(cidrs_of(&self.rules)) {
            table.insert_cidr(NumericIdentity(number), cidr);
            addresses.insert(cidr, NumericIdentity(number));
        }
        (table, addresses)
    }

    /// The identity that the datapath sees for the other end of a tuple.
    pub fn identity(
        &self,
        tuple: &Tuple,
        addresses: &PrefixMap<NumericIdentity>,
    ) -> NumericIdentity {
        match tuple.peer {
            PeerOf::Pod(index) => self
                .pods
                .get(index)
                .map_or(NumericIdentity::UNKNOWN, |pod| pod.identity),
            PeerOf::Reserved(identity) => identity,
            PeerOf::World(address) => addresses
                .lookup(address.into())
                .copied()
                .unwrap_or(NumericIdentity::WORLD),
        }
    }

    /// The question that a tuple asks the plain evaluator.
    pub fn question(&self, tuple: &Tuple) -> Option<Question<'_>> {
        let subject = self.pods.first()?;
        Some(Question {
            direction: tuple.direction,
            subject: &subject.labels,
            subject_ports: &subject.ports,
            peer: match tuple.peer {
                PeerOf::Pod(index) => {
                    let pod = self.pods.get(index)?;
                    Who::Pod {
                        labels: &pod.labels,
                        ports: &pod.ports,
                    }
                }
                PeerOf::Reserved(identity) => Who::Reserved(identity),
                PeerOf::World(address) => Who::World(IpAddr::V4(address)),
            },
            protocol: tuple.protocol,
            port: tuple.port,
        })
    }
}

const NAMESPACES: [&str; 2] = ["default", "empire"];
const KEYS: [&str; 3] = ["org", "class", "tier"];
const VALUES: [&str; 3] = ["a", "b", "c"];
const PORT_NAMES: [&str; 2] = ["http", "metrics"];
const PORTS: [u16; 9] = [1, 53, 80, 81, 443, 8000, 8080, 32768, 65535];
const CIDRS: [&str; 8] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.3/32",
    "192.0.2.0/24",
    "192.0.2.128/25",
    "::/0",
];
const ADDRESSES: [Ipv4Addr; 7] = [
    Ipv4Addr::new(10, 9, 9, 9),
    Ipv4Addr::new(10, 1, 9, 9),
    Ipv4Addr::new(10, 1, 2, 9),
    Ipv4Addr::new(10, 1, 2, 3),
    Ipv4Addr::new(192, 0, 2, 1),
    Ipv4Addr::new(192, 0, 2, 200),
    Ipv4Addr::new(1, 1, 1, 1),
];
const METHODS: [&str; 3] = ["GET", "POST", "GET|HEAD"];
const PATHS: [&str; 5] = ["/", "/v1/.*", "/v1/request-landing", "/v[12]/x", ".*"];
const HOSTS: [&str; 2] = ["deathstar", "death.*"];

/// Random cases with up to `rules` policies and exactly `tuples` connections.
pub fn cases(rules: usize, tuples: usize) -> impl Strategy<Value = Case> {
    (vec(pod_labels(), 1..5), vec(rule(), 1..=rules)).prop_flat_map(move |(labels, rules)| {
        let pods = pods(labels);
        let tuples = vec(tuple(pods.len()), tuples);
        (tuples, intercepts()).prop_map(move |(tuples, intercepts)| Case {
            rules: named(&rules),
            pods: pods.clone(),
            intercepts,
            tuples,
        })
    })
}

/// Gives each rule an object of its own.
fn named(rules: &[Rule]) -> Vec<Rule> {
    let name = |(index, rule): (usize, &Rule)| Rule {
        origin: Origin {
            name: format!("rule{index}").into(),
            ..rule.origin.clone()
        },
        ..rule.clone()
    };
    rules.iter().enumerate().map(name).collect()
}

fn pods(labels: Vec<(Labels, u16)>) -> Vec<Pod> {
    let mut pods: Vec<Pod> = Vec::new();
    for (number, (labels, port)) in (256..).zip(labels) {
        let same = pods.iter().find(|pod| pod.labels == labels).cloned();
        pods.push(same.unwrap_or_else(|| {
            let mut ports = NamedPorts::default();
            ports.insert("http", Protocol::Tcp, port);
            ports.insert("metrics", Protocol::Tcp, 8080);
            ports.insert("metrics", Protocol::Udp, 53);
            let identity = NumericIdentity(number);
            Pod {
                identity,
                labels,
                ports,
            }
        }));
    }
    pods
}

fn pod_labels() -> impl Strategy<Value = (Labels, u16)> {
    let own = vec(option::weighted(0.7, select(&VALUES[..])), KEYS.len());
    (select(&NAMESPACES[..]), own, select(&PORTS[..])).prop_map(|(namespace, own, port)| {
        let k8s = |key: &str, value: &str| Label::new(LabelSource::K8s, key, value);
        let own = KEYS.iter().zip(own);
        let labels = own
            .filter_map(|(key, value)| Some(k8s(key, value?)))
            .chain([k8s(NAMESPACE_LABEL, namespace)])
            .collect();
        (labels, port)
    })
}

fn requirement() -> impl Strategy<Value = Requirement> {
    let values = || subsequence(VALUES.to_vec(), 1..=2);
    let boxed = |values: Vec<&str>| values.into_iter().map(Into::into).collect();
    let operator = prop_oneof![
        4 => values().prop_map(move |values| Operator::In(boxed(values))),
        1 => values().prop_map(move |values| Operator::NotIn(boxed(values))),
        1 => Just(Operator::Exists),
        1 => Just(Operator::DoesNotExist),
    ];
    let key = (select(&["", "any:", "k8s:"][..]), select(&KEYS[..]));
    (key, operator).prop_filter_map("known sources", |((source, key), operator)| {
        Requirement::parse(&format!("{source}{key}"), operator)
    })
}

fn selector() -> impl Strategy<Value = EndpointSelector> {
    let reserved = select(&["host", "world", "remote-node"][..]).prop_filter_map("", |name| {
        let label = Requirement::parse(&format!("reserved:{name}"), Operator::Exists)?;
        Some(EndpointSelector::new([label]))
    });
    let plain = vec(requirement(), 0..3).prop_map(EndpointSelector::new);
    let namespace = option::of(select(&NAMESPACES[..]));
    prop_oneof![
        9 => (plain, namespace).prop_map(|(selector, namespace)| selector.for_peer(namespace)),
        1 => reserved,
    ]
}

fn peers() -> impl Strategy<Value = Peers> {
    let endpoints = vec(selector().prop_map(Peer::Endpoints), 0..3);
    let entities = Entity::NAMES.map(|(_, entity)| entity);
    let entities = vec(select(entities.to_vec()).prop_map(Peer::Entity), 1..3);
    let cidrs = vec(cidr_peer().prop_map(Peer::Cidr), 1..3);
    prop_oneof![
        2 => Just(Peers::Unnamed),
        5 => endpoints.prop_map(Peers::Listed),
        2 => entities.prop_map(Peers::Listed),
        3 => cidrs.prop_map(Peers::Listed),
    ]
}

fn cidr_peer() -> impl Strategy<Value = CidrPeer> {
    let net = |text: &str| text.parse::<IpNet>().ok();
    let nets: Vec<IpNet> = CIDRS.iter().filter_map(|text| net(text)).collect();
    let within = nets.clone();
    (select(nets), any::<u8>()).prop_map(move |(cidr, picks)| {
        let inside = within.iter().filter(|net| cidr.contains(*net));
        let picked = inside
            .enumerate()
            .filter(|(index, _)| picks >> (index % 8) & 5 == 5);
        CidrPeer {
            cidr,
            except: picked.map(|(_, net)| *net).collect(),
        }
    })
}

fn port_spec() -> impl Strategy<Value = PortSpec> {
    let range = (select(&PORTS[..]), select(&PORTS[..])).prop_map(|(one, two)| {
        PortMatch::Range(PortRange {
            first: one.min(two),
            last: one.max(two),
        })
    });
    let single = select(&PORTS[..]).prop_map(|port| {
        PortMatch::Range(PortRange {
            first: port,
            last: port,
        })
    });
    let named = select(&PORT_NAMES[..]).prop_map(|name| PortMatch::Named(name.into()));
    let port = prop_oneof![1 => Just(PortMatch::All), 5 => single, 3 => range, 2 => named];
    let protocol = prop_oneof![
        5 => Just(Some(Protocol::Tcp)),
        1 => Just(Some(Protocol::Udp)),
        2 => Just(None),
    ];
    (port, protocol).prop_map(|(port, protocol)| PortSpec { port, protocol })
}

fn http_rule() -> impl Strategy<Value = HttpRule> {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    let field = |texts: &'static [&'static str]| option::of(select(texts)).prop_map(owned);
    (field(&METHODS), field(&PATHS), field(&HOSTS)).prop_map(|(method, path, host)| HttpRule {
        method,
        path,
        host,
        ..HttpRule::default()
    })
}

fn port_rule(l7: bool) -> impl Strategy<Value = PortRule> {
    let rules = vec(http_rule(), 0..4).prop_map(|rules| L7Rules::Http(HttpRules::new(rules, 0)));
    let rules = prop_oneof![2 => Just(L7Rules::None), 3 => rules];
    (vec(port_spec(), 1..3), rules).prop_map(move |(mut ports, rules)| {
        if !l7 || rules == L7Rules::None {
            let l7 = L7Rules::None;
            return PortRule { ports, l7 };
        }
        // HTTP rules need TCP and a port, as parsing makes sure.
        for spec in &mut ports {
            spec.protocol = Some(Protocol::Tcp);
            if spec.port == PortMatch::All {
                spec.port = PortMatch::Named("http".into());
            }
        }
        PortRule { ports, l7: rules }
    })
}

fn traffic(l7: bool) -> impl Strategy<Value = TrafficRule> {
    (peers(), vec(port_rule(l7), 0..4)).prop_map(|(peers, ports)| TrafficRule { peers, ports })
}

fn section() -> impl Strategy<Value = DirectionRules> {
    let default_deny = prop_oneof![4 => Just(true), 1 => Just(false)];
    let deny = prop_oneof![3 => Just(vec![]), 1 => vec(traffic(false), 1..2)];
    (default_deny, vec(traffic(true), 0..4), deny).prop_map(|(default_deny, allow, deny)| {
        DirectionRules {
            default_deny,
            allow,
            deny,
        }
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let subject = prop_oneof![
        3 => Just(EndpointSelector::default()),
        1 => vec(requirement(), 1..2).prop_map(EndpointSelector::new),
    ];
    let absent = || prop_oneof![1 => Just(DirectionRules::default()), 3 => section()];
    (subject, absent(), absent()).prop_map(|(subject, ingress, egress)| Rule {
        origin: Origin {
            kind: PolicyKind::CiliumNetworkPolicy,
            namespace: "default".into(),
            name: "".into(),
            spec: None,
        },
        subject,
        ingress,
        egress,
    })
}

fn intercepts() -> impl Strategy<Value = Vec<Intercept>> {
    let range = (select(&PORTS[..]), select(&PORTS[..])).prop_map(|(one, two)| {
        let (first, last) = (one.min(two), one.max(two));
        (first, last)
    });
    let single = select(&PORTS[..]).prop_map(|port| (port, port));
    let ports = prop_oneof![1 => Just((0, u16::MAX)), 3 => single, 2 => range];
    let one = (select(Direction::ALL.to_vec()), ports);
    let one = one.prop_map(|(direction, (first, last))| Intercept {
        direction,
        first,
        last,
    });
    prop_oneof![1 => Just(vec![]), 2 => vec(one, 1..4)]
}

fn tuple(pods: usize) -> impl Strategy<Value = Tuple> {
    let reserved = [1, 3, 4, 5, 6, 7, 8].map(NumericIdentity);
    let peer = prop_oneof![
        5 => (0..pods).prop_map(PeerOf::Pod),
        2 => select(reserved.to_vec()).prop_map(PeerOf::Reserved),
        3 => select(ADDRESSES.to_vec()).prop_map(PeerOf::World),
    ];
    let port = prop_oneof![
        4 => select(&PORTS[..]),
        1 => select(&PORTS[..]).prop_map(|port| port.wrapping_add(1)),
        1 => any::<u16>(),
    ];
    // TCP, UDP, SCTP and ICMP, which no port rule means.
    let protocol = prop_oneof![6 => Just(6), 2 => Just(17), 1 => Just(132), 1 => Just(1)];
    let direction = select(Direction::ALL.to_vec());
    (direction, peer, protocol, port).prop_map(|(direction, peer, protocol, port)| Tuple {
        direction,
        peer,
        protocol,
        port,
    })
}
