//! Short ways to write rules and to ask about them.

use crate::filter::Intercept;
use crate::model::{Direction, EndpointId, Labels, NamedPorts, NumericIdentity, Protocol};
use crate::policy::entry::{PREFIX_PORT, PREFIX_PROTOCOL};
use crate::policy::http::{HttpRule, HttpRules};
use crate::policy::ports::port_prefixes;
use crate::policy::{
    CidrPeer, Compiler, Decision, DirectionRules, EndpointPolicy, EndpointSelector, Entity,
    EntryKey, IdentityTable, L7Rules, Operator, Origin, Peer, Peers, PolicyKind, PortMatch,
    PortRange, PortRule, PortSpec, Requirement, Rule, RuleTable, Subject, TrafficRule, lookup,
};

pub(super) const EMPIRE: NumericIdentity = NumericIdentity(300);
pub(super) const ALLIANCE: NumericIdentity = NumericIdentity(301);
pub(super) const TEN: NumericIdentity = NumericIdentity(1 << 24);
pub(super) const TEN_ONE: NumericIdentity = NumericIdentity((1 << 24) + 1);

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const SCTP: u8 = 132;
pub(super) const ICMP: u8 = 1;

pub(super) fn labels(texts: &[&str]) -> Labels {
    let namespace = "k8s:io.kubernetes.pod.namespace=default";
    Labels::parse_all(texts.iter().copied().chain([namespace])).unwrap()
}

pub(super) fn identities() -> IdentityTable {
    let mut table = IdentityTable::new();
    table.insert(EMPIRE, labels(&["k8s:org=empire"]));
    table.insert(ALLIANCE, labels(&["k8s:org=alliance"]));
    table.insert_cidr(TEN, "10.0.0.0/8".parse().unwrap());
    table.insert_cidr(TEN_ONE, "10.1.0.0/16".parse().unwrap());
    let mut ports = NamedPorts::default();
    ports.insert("HTTP", Protocol::Tcp, 8080);
    table.add_named_ports(ALLIANCE, &ports);
    table
}

pub(super) fn ingress(section: DirectionRules) -> Rule {
    Rule {
        origin: Origin {
            kind: PolicyKind::CiliumNetworkPolicy,
            namespace: "default".into(),
            name: "rule1".into(),
            spec: None,
        },
        subject: EndpointSelector::default(),
        ingress: section,
        egress: DirectionRules::default(),
    }
}

pub(super) fn egress(section: DirectionRules) -> Rule {
    let rule = ingress(DirectionRules::default());
    Rule {
        egress: section,
        ..rule
    }
}

pub(super) fn allow(rules: Vec<TrafficRule>) -> DirectionRules {
    DirectionRules {
        default_deny: true,
        allow: rules,
        deny: vec![],
    }
}

pub(super) fn rule(peers: Peers, ports: Vec<PortRule>) -> TrafficRule {
    TrafficRule { peers, ports }
}

pub(super) fn org(value: &str) -> Peers {
    let org = Requirement::parse("org", Operator::In(vec![value.into()])).unwrap();
    Peers::Listed(vec![Peer::Endpoints(EndpointSelector::new([org]))])
}

pub(super) fn entity(entity: Entity) -> Peers {
    Peers::Listed(vec![Peer::Entity(entity)])
}

pub(super) fn cidr(cidr: &str, except: &[&str]) -> Peers {
    Peers::Listed(vec![Peer::Cidr(CidrPeer {
        cidr: cidr.parse().unwrap(),
        except: except.iter().map(|text| text.parse().unwrap()).collect(),
    })])
}

pub(super) fn spec(port: PortMatch, protocol: Option<Protocol>) -> PortRule {
    PortRule {
        ports: vec![PortSpec { port, protocol }],
        l7: L7Rules::None,
    }
}

pub(super) fn tcp(first: u16, last: u16) -> PortRule {
    spec(
        PortMatch::Range(PortRange { first, last }),
        Some(Protocol::Tcp),
    )
}

pub(super) fn http(port: u16, path: &str) -> PortRule {
    let path = (!path.is_empty()).then(|| path.to_owned());
    PortRule {
        l7: L7Rules::Http(HttpRules::new(
            vec![HttpRule {
                path,
                ..HttpRule::default()
            }],
            0,
        )),
        ..tcp(port, port)
    }
}

pub(super) struct Compiled(pub(super) EndpointPolicy, pub(super) RuleTable);

pub(super) fn compile(rules: &[Rule]) -> Compiled {
    compile_intercepted(rules, &[])
}

/// With filters on these ports of the pod.
pub(super) fn compile_intercepted(rules: &[Rule], intercepts: &[Intercept]) -> Compiled {
    let subject = labels(&["k8s:class=deathstar"]);
    let mut named_ports = NamedPorts::default();
    named_ports.insert("http", Protocol::Tcp, 80);
    named_ports.insert("http", Protocol::Udp, 81);
    let subject = Subject {
        id: EndpointId(1),
        labels: &subject,
        named_ports: &named_ports,
        intercepts,
    };
    let mut table = RuleTable::default();
    let policy = Compiler::new(&identities()).compile(&subject, rules, &mut table);
    Compiled(policy, table)
}

/// The pod under one policy, which lets nothing in but this.
pub(super) fn letting_in(rules: Vec<TrafficRule>) -> Compiled {
    compile(&[ingress(allow(rules))])
}

impl Compiled {
    pub(super) fn at(
        &self,
        direction: Direction,
        peer: NumericIdentity,
        protocol: u8,
        port: u16,
    ) -> Decision {
        lookup(&self.0.entries, direction, peer, protocol, port)
            .map_or(Decision::Deny, |entry| entry.value.decision)
    }

    /// Decision on ingress over TCP.
    pub(super) fn ingress(&self, peer: NumericIdentity, port: u16) -> Decision {
        self.at(Direction::Ingress, peer, TCP, port)
    }

    pub(super) fn egress(&self, peer: NumericIdentity, port: u16) -> Decision {
        self.at(Direction::Egress, peer, TCP, port)
    }

    /// The rule that decides on ingress over TCP.
    pub(super) fn rule(&self, peer: NumericIdentity, port: u16) -> String {
        let entry = lookup(&self.0.entries, Direction::Ingress, peer, TCP, port);
        let rule = entry.and_then(|entry| self.1.get(entry.value.rule));
        rule.map_or(String::new(), |rule| rule.rule.to_string())
    }
}

/// The TCP ports of a key.
fn tcp_ports(key: &EntryKey) -> Option<(u16, u16)> {
    let bits = u32::from(key.prefix_len.saturating_sub(PREFIX_PROTOCOL));
    let any = key.prefix_len < PREFIX_PROTOCOL;
    let last = key.port | u16::MAX.checked_shr(bits).unwrap_or(0);
    (any || key.protocol == TCP).then_some((key.port, last))
}

/// Whether all that a key means is meant by another one.
pub(super) fn lies_in(key: &EntryKey, other: &EntryKey) -> bool {
    let anybody = other.identity == NumericIdentity::UNKNOWN;
    let free = u32::from(PREFIX_PORT.saturating_sub(other.prefix_len));
    let bits = |port: u16| port.checked_shr(free).unwrap_or(0);
    let ports = key.protocol == other.protocol
        && key.prefix_len >= other.prefix_len
        && bits(key.port) == bits(other.port);
    key.direction == other.direction
        && (anybody || key.identity == other.identity)
        && (ports || other.prefix_len < PREFIX_PROTOCOL)
}

/// How many entries a key may need with what of it leads to the proxy.
pub(super) fn most_entries(key: &EntryKey, intercepts: &[Intercept]) -> usize {
    let of = intercepts
        .iter()
        .filter(|one| one.direction == key.direction);
    let meet = of.filter_map(|one| {
        let (first, last) = tcp_ports(key)?;
        let (first, last) = (first.max(one.first), last.min(one.last));
        (first <= last).then(|| port_prefixes(first, last).len())
    });
    1 + meet.sum::<usize>()
}
