//! The rules of the policy language, one by one.

use crate::model::{Direction, EndpointId, Labels, NamedPorts, NumericIdentity, Protocol};
use crate::policy::http::HttpRule;
use crate::policy::testing::cases::Case;
use crate::policy::{
    CidrPeer, Compiler, Decision, DirectionRules, EndpointPolicy, EndpointSelector, Entity,
    IdentityTable, L7Rules, Operator, Origin, Peer, PeerSet, Peers, PolicyKind, PortMatch,
    PortRange, PortRule, PortSpec, Priority, Requirement, Rule, RuleId, RuleTable, Subject,
    TrafficRule, lookup,
};

const EMPIRE: NumericIdentity = NumericIdentity(300);
const ALLIANCE: NumericIdentity = NumericIdentity(301);
const TEN: NumericIdentity = NumericIdentity(1 << 24);
const TEN_ONE: NumericIdentity = NumericIdentity((1 << 24) + 1);

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const ICMP: u8 = 1;

fn labels(texts: &[&str]) -> Labels {
    let namespace = "k8s:io.kubernetes.pod.namespace=default";
    Labels::parse_all(texts.iter().copied().chain([namespace])).unwrap()
}

fn identities() -> IdentityTable {
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

fn ingress(section: DirectionRules) -> Rule {
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

fn egress(section: DirectionRules) -> Rule {
    let rule = ingress(DirectionRules::default());
    Rule {
        egress: section,
        ..rule
    }
}

fn allow(rules: Vec<TrafficRule>) -> DirectionRules {
    DirectionRules {
        default_deny: true,
        allow: rules,
        deny: vec![],
    }
}

fn rule(peers: Peers, ports: Vec<PortRule>) -> TrafficRule {
    TrafficRule { peers, ports }
}

fn org(value: &str) -> Peers {
    let org = Requirement::parse("org", Operator::In(vec![value.into()])).unwrap();
    Peers::Listed(vec![Peer::Endpoints(EndpointSelector::new([org]))])
}

fn entity(entity: Entity) -> Peers {
    Peers::Listed(vec![Peer::Entity(entity)])
}

fn cidr(cidr: &str, except: &[&str]) -> Peers {
    Peers::Listed(vec![Peer::Cidr(CidrPeer {
        cidr: cidr.parse().unwrap(),
        except: except.iter().map(|text| text.parse().unwrap()).collect(),
    })])
}

fn spec(port: PortMatch, protocol: Option<Protocol>) -> PortRule {
    PortRule {
        ports: vec![PortSpec { port, protocol }],
        l7: L7Rules::None,
    }
}

fn tcp(first: u16, last: u16) -> PortRule {
    spec(
        PortMatch::Range(PortRange { first, last }),
        Some(Protocol::Tcp),
    )
}

fn http(port: u16, path: &str) -> PortRule {
    let path = (!path.is_empty()).then(|| path.to_owned());
    PortRule {
        l7: L7Rules::Http(vec![HttpRule {
            path,
            ..HttpRule::default()
        }]),
        ..tcp(port, port)
    }
}

struct Compiled(EndpointPolicy, RuleTable);

fn compile(rules: &[Rule]) -> Compiled {
    let subject = labels(&["k8s:class=deathstar"]);
    let mut named_ports = NamedPorts::default();
    named_ports.insert("http", Protocol::Tcp, 80);
    named_ports.insert("http", Protocol::Udp, 81);
    let subject = Subject {
        id: EndpointId(1),
        labels: &subject,
        named_ports: &named_ports,
    };
    let mut table = RuleTable::default();
    let policy = Compiler::new(&identities()).compile(&subject, rules, &mut table);
    Compiled(policy, table)
}

impl Compiled {
    fn at(&self, direction: Direction, peer: NumericIdentity, protocol: u8, port: u16) -> Decision {
        lookup(&self.0.entries, direction, peer, protocol, port)
            .map_or(Decision::Deny, |entry| entry.value.decision)
    }

    /// Decision on ingress over TCP.
    fn ingress(&self, peer: NumericIdentity, port: u16) -> Decision {
        self.at(Direction::Ingress, peer, TCP, port)
    }

    fn egress(&self, peer: NumericIdentity, port: u16) -> Decision {
        self.at(Direction::Egress, peer, TCP, port)
    }

    /// The rule that decides on ingress over TCP.
    fn rule(&self, peer: NumericIdentity, port: u16) -> String {
        let entry = lookup(&self.0.entries, Direction::Ingress, peer, TCP, port);
        let rule = entry.and_then(|entry| self.1.get(entry.value.rule));
        rule.map_or(String::new(), |rule| rule.rule.to_string())
    }
}

use Decision::{Allow, Deny, Redirect};

#[test]
fn without_policy_everything_passes_and_no_rule_is_named() {
    let compiled = compile(&[]);
    for direction in Direction::ALL {
        assert_eq!(compiled.at(direction, ALLIANCE, ICMP, 0), Allow);
    }
    assert_eq!(compiled.rule(ALLIANCE, 80), "");
    assert!(!compiled.0.ingress_default_deny && !compiled.0.egress_default_deny);
}

#[test]
fn default_deny_is_per_direction() {
    let compiled = compile(&[ingress(allow(vec![]))]);
    assert_eq!(compiled.ingress(EMPIRE, 80), Deny);
    assert_eq!(compiled.egress(EMPIRE, 80), Allow);
    assert!(compiled.0.ingress_default_deny && !compiled.0.egress_default_deny);
}

#[test]
fn a_policy_applies_only_to_what_it_selects() {
    let other = Requirement::parse("class", Operator::In(vec!["tie".into()])).unwrap();
    let policy = Rule {
        subject: EndpointSelector::new([other]),
        ..ingress(allow(vec![]))
    };
    assert_eq!(compile(&[policy]).ingress(EMPIRE, 80), Allow);
}

#[test]
fn the_story_s_first_policy() {
    let compiled = compile(&[ingress(allow(vec![rule(org("empire"), vec![tcp(80, 80)])]))]);
    assert_eq!(compiled.ingress(EMPIRE, 80), Allow);
    assert_eq!(compiled.ingress(EMPIRE, 81), Deny);
    assert_eq!(compiled.at(Direction::Ingress, EMPIRE, UDP, 80), Deny);
    assert_eq!(compiled.ingress(ALLIANCE, 80), Deny);
    assert_eq!(compiled.rule(EMPIRE, 80), "ingress[0].toPorts[0]");
    let entries = &compiled.0.entries;
    let entry = lookup(entries, Direction::Ingress, EMPIRE, TCP, 80).unwrap();
    assert_eq!(entry.key.identity, EMPIRE);
    assert_eq!((entry.key.prefix_len, entry.value.prefix_len), (96, 96));
}

#[test]
fn the_story_s_second_policy() {
    let path = "/v1/request-landing";
    let compiled = compile(&[ingress(allow(vec![rule(
        org("empire"),
        vec![http(80, path)],
    )]))]);
    assert_eq!(compiled.ingress(EMPIRE, 80), Redirect);
    assert_eq!(compiled.ingress(ALLIANCE, 80), Deny);
    let [policy] = compiled.0.ports.as_slice() else {
        panic!("{:?}", compiled.0.ports);
    };
    assert_eq!((policy.first, policy.last), (80, 80));
    assert_eq!(policy.direction, Direction::Ingress);
    let rule = &policy.rules[0];
    assert_eq!(rule.peers, PeerSet::These([EMPIRE].into()));
    assert_eq!(rule.http[0].path.as_deref(), Some(path));
    assert_eq!(&*rule.rule.as_ref().unwrap().rule, "ingress[0].toPorts[0]");
}

#[test]
fn an_empty_rule_allows_nothing_but_denies_by_default() {
    let compiled = compile(&[ingress(allow(vec![rule(Peers::Unnamed, vec![])]))]);
    assert_eq!(compiled.ingress(EMPIRE, 80), Deny);
    let nothing = Peers::Listed(vec![]);
    let compiled = compile(&[ingress(allow(vec![rule(nothing, vec![tcp(80, 80)])]))]);
    assert_eq!(compiled.ingress(EMPIRE, 80), Deny);
}

#[test]
fn ports_without_peers_mean_any_peer() {
    let compiled = compile(&[ingress(allow(vec![rule(
        Peers::Unnamed,
        vec![tcp(80, 80)],
    )]))]);
    for peer in [EMPIRE, NumericIdentity::WORLD, TEN, NumericIdentity(9999)] {
        assert_eq!(compiled.ingress(peer, 80), Allow);
        assert_eq!(compiled.ingress(peer, 81), Deny);
    }
}

#[test]
fn peers_without_ports_mean_every_protocol() {
    let compiled = compile(&[ingress(allow(vec![rule(org("empire"), vec![])]))]);
    for protocol in [TCP, UDP, SCTP, ICMP] {
        assert_eq!(compiled.at(Direction::Ingress, EMPIRE, protocol, 7), Allow);
    }
    assert_eq!(compiled.ingress(ALLIANCE, 80), Deny);
}

#[test]
fn any_is_tcp_udp_and_sctp() {
    for port in [
        PortMatch::All,
        PortMatch::Range(PortRange {
            first: 53,
            last: 53,
        }),
    ] {
        let ports = vec![spec(port, None)];
        let compiled = compile(&[ingress(allow(vec![rule(Peers::Unnamed, ports)]))]);
        for protocol in [TCP, UDP, SCTP] {
            assert_eq!(compiled.at(Direction::Ingress, EMPIRE, protocol, 53), Allow);
        }
        assert_eq!(compiled.at(Direction::Ingress, EMPIRE, ICMP, 53), Deny);
    }
}

#[test]
fn ranges() {
    let ports = vec![tcp(8000, 8999), tcp(65000, 65535)];
    let compiled = compile(&[ingress(allow(vec![rule(Peers::Unnamed, ports)]))]);
    for (port, expected) in [
        (7999, Deny),
        (8000, Allow),
        (8999, Allow),
        (9000, Deny),
        (64999, Deny),
        (65000, Allow),
        (65535, Allow),
        (0, Deny),
    ] {
        assert_eq!(compiled.ingress(EMPIRE, port), expected, "{port}");
    }
}

#[test]
fn port_names_are_the_receiver_s() {
    let named = || vec![spec(PortMatch::Named("Http".into()), None)];
    let compiled = compile(&[
        ingress(allow(vec![rule(Peers::Unnamed, named())])),
        egress(allow(vec![rule(entity(Entity::Cluster), named())])),
    ]);
    // Ingress: the subject's own ports, in any case of the name.
    assert_eq!(compiled.ingress(EMPIRE, 80), Allow);
    assert_eq!(compiled.at(Direction::Ingress, EMPIRE, UDP, 81), Allow);
    assert_eq!(compiled.ingress(EMPIRE, 8080), Deny);
    // Egress: those of the peer.
    assert_eq!(compiled.egress(ALLIANCE, 8080), Allow);
    assert_eq!(compiled.egress(ALLIANCE, 80), Deny);
    assert_eq!(compiled.egress(EMPIRE, 8080), Deny);
}

#[test]
fn deny_beats_redirect_beats_allow() {
    let deny = DirectionRules {
        default_deny: true,
        allow: vec![
            rule(org("empire"), vec![http(80, "/")]),
            rule(org("empire"), vec![]),
            rule(Peers::Unnamed, vec![tcp(443, 443)]),
        ],
        deny: vec![rule(org("empire"), vec![tcp(443, 443)])],
    };
    let compiled = compile(&[ingress(deny)]);
    assert_eq!(compiled.ingress(EMPIRE, 80), Redirect);
    assert_eq!(compiled.ingress(EMPIRE, 22), Allow);
    assert_eq!(compiled.ingress(EMPIRE, 443), Deny);
    assert_eq!(compiled.rule(EMPIRE, 443), "ingressDeny[0].toPorts[0]");
    assert_eq!(compiled.ingress(ALLIANCE, 443), Allow);
}

#[test]
fn a_wide_deny_beats_a_narrow_allow() {
    let section = DirectionRules {
        default_deny: true,
        allow: vec![
            rule(cidr("10.1.0.0/16", &[]), vec![tcp(80, 80)]),
            rule(org("empire"), vec![tcp(80, 80)]),
        ],
        deny: vec![
            rule(cidr("10.0.0.0/8", &[]), vec![]),
            rule(Peers::Unnamed, vec![tcp(1, 1023)]),
        ],
    };
    let compiled = compile(&[ingress(section)]);
    assert_eq!(compiled.ingress(TEN_ONE, 80), Deny);
    assert_eq!(compiled.ingress(EMPIRE, 80), Deny);
    assert_eq!(compiled.rule(EMPIRE, 80), "ingressDeny[1].toPorts[0]");
}

#[test]
fn cidr_rules_mean_enclosed_prefixes_and_never_pods() {
    let section = allow(vec![rule(cidr("10.0.0.0/8", &[]), vec![])]);
    let compiled = compile(&[egress(section)]);
    assert_eq!(compiled.egress(TEN, 80), Allow);
    assert_eq!(compiled.egress(TEN_ONE, 80), Allow);
    for peer in [
        EMPIRE,
        NumericIdentity::WORLD,
        NumericIdentity::HOST,
        NumericIdentity::REMOTE_NODE,
    ] {
        assert_eq!(compiled.egress(peer, 80), Deny, "{peer}");
    }
    let section = allow(vec![rule(cidr("10.0.0.0/8", &["10.1.0.0/16"]), vec![])]);
    let compiled = compile(&[egress(section)]);
    assert_eq!(compiled.egress(TEN, 80), Allow);
    assert_eq!(compiled.egress(TEN_ONE, 80), Deny);
    let section = allow(vec![rule(cidr("0.0.0.0/0", &["10.1.0.0/16"]), vec![])]);
    let compiled = compile(&[egress(section)]);
    assert_eq!(compiled.egress(NumericIdentity::WORLD, 80), Allow);
    assert_eq!(compiled.egress(TEN, 80), Allow);
    assert_eq!(compiled.egress(TEN_ONE, 80), Deny);
    assert_eq!(compiled.egress(EMPIRE, 80), Deny);
}

#[test]
fn entities() {
    use NumericIdentity as Id;
    let everyone = [
        EMPIRE,
        TEN,
        Id::HOST,
        Id::WORLD,
        Id::UNMANAGED,
        Id::HEALTH,
        Id::INIT,
        Id::REMOTE_NODE,
        Id::KUBE_APISERVER,
        Id::INGRESS,
    ];
    let cluster = [
        EMPIRE,
        Id::HOST,
        Id::UNMANAGED,
        Id::HEALTH,
        Id::INIT,
        Id::REMOTE_NODE,
        Id::KUBE_APISERVER,
        Id::INGRESS,
    ];
    let meant: [(Entity, &[Id]); 13] = [
        (Entity::All, &everyone),
        (Entity::Cluster, &cluster),
        (Entity::World, &[TEN, Id::WORLD]),
        (Entity::WorldIpv4, &[TEN, Id::WORLD]),
        (Entity::WorldIpv6, &[]),
        (Entity::Host, &[Id::HOST]),
        (Entity::RemoteNode, &[Id::REMOTE_NODE]),
        (Entity::KubeApiserver, &[Id::KUBE_APISERVER]),
        (Entity::Ingress, &[Id::INGRESS]),
        (Entity::Init, &[Id::INIT]),
        (Entity::Health, &[Id::HEALTH]),
        (Entity::Unmanaged, &[Id::UNMANAGED]),
        (Entity::None, &[]),
    ];
    for (one, expected) in meant {
        let compiled = compile(&[egress(allow(vec![rule(entity(one), vec![])]))]);
        for peer in everyone {
            let allowed = compiled.egress(peer, 80) == Allow;
            assert_eq!(allowed, expected.contains(&peer), "{one:?} {peer}");
        }
    }
}

#[test]
fn a_node_reaches_its_pods_directly() {
    let compiled = compile(&[ingress(allow(vec![rule(
        Peers::Unnamed,
        vec![http(80, "/x")],
    )]))]);
    assert_eq!(compiled.ingress(NumericIdentity::HOST, 80), Allow);
    assert_eq!(compiled.ingress(NumericIdentity::HOST, 22), Allow);
    assert_eq!(compiled.ingress(NumericIdentity::REMOTE_NODE, 22), Deny);
    // But not the other way round, and not against an explicit deny.
    let compiled = compile(&[egress(allow(vec![]))]);
    assert_eq!(compiled.egress(NumericIdentity::HOST, 80), Deny);
    let deny = DirectionRules {
        default_deny: true,
        allow: vec![],
        deny: vec![rule(entity(Entity::Host), vec![tcp(80, 80)])],
    };
    let compiled = compile(&[ingress(deny)]);
    assert_eq!(compiled.ingress(NumericIdentity::HOST, 80), Deny);
    assert_eq!(compiled.ingress(NumericIdentity::HOST, 22), Allow);
}

#[test]
fn a_rule_without_l7_makes_all_requests_pass_through_the_proxy() {
    let compiled = compile(&[
        ingress(allow(vec![rule(org("empire"), vec![http(80, "/x")])])),
        ingress(allow(vec![rule(org("empire"), vec![tcp(1, 1024)])])),
    ]);
    assert_eq!(compiled.ingress(EMPIRE, 80), Redirect);
    assert_eq!(compiled.ingress(EMPIRE, 79), Allow);
    let [policy] = compiled.0.ports.as_slice() else {
        panic!("{:?}", compiled.0.ports);
    };
    assert!(
        policy
            .rules
            .iter()
            .any(|rule| rule.http.is_empty() && !rule.deny)
    );
}

#[test]
fn rules_of_another_peer_do_not_open_a_port() {
    let compiled = compile(&[ingress(allow(vec![
        rule(org("empire"), vec![http(80, "/x")]),
        rule(org("alliance"), vec![tcp(80, 80)]),
    ]))]);
    assert_eq!(compiled.ingress(EMPIRE, 80), Redirect);
    assert_eq!(compiled.ingress(ALLIANCE, 80), Allow);
    let open: Vec<_> = compiled.0.ports[0]
        .rules
        .iter()
        .filter(|rule| rule.http.is_empty() && rule.peers.contains(EMPIRE))
        .collect();
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn without_default_deny_requests_are_seen_and_all_pass() {
    let watch = DirectionRules {
        default_deny: false,
        allow: vec![rule(org("empire"), vec![http(80, "/x")])],
        deny: vec![],
    };
    let compiled = compile(&[ingress(watch.clone())]);
    assert_eq!(compiled.ingress(EMPIRE, 80), Redirect);
    assert_eq!(compiled.ingress(ALLIANCE, 80), Allow);
    assert_eq!(compiled.ingress(EMPIRE, 81), Allow);
    assert!(
        compiled.0.ports[0]
            .rules
            .iter()
            .all(|rule| rule.http.is_empty())
    );
    // Another policy turns default deny on: this one still only adds allows.
    let compiled = compile(&[ingress(watch), ingress(allow(vec![]))]);
    assert_eq!(compiled.ingress(EMPIRE, 80), Redirect);
    assert_eq!(compiled.ingress(ALLIANCE, 80), Deny);
    let open = &compiled.0.ports[0].rules[0];
    assert!(open.http.is_empty() && open.peers.contains(EMPIRE));
}

#[test]
fn deny_rules_reach_the_proxy_too() {
    let section = DirectionRules {
        default_deny: true,
        allow: vec![rule(Peers::Unnamed, vec![http(80, "/")])],
        deny: vec![rule(org("alliance"), vec![])],
    };
    let compiled = compile(&[ingress(section)]);
    let deny = compiled.0.ports[0]
        .rules
        .iter()
        .find(|rule| rule.deny)
        .unwrap();
    assert!(deny.peers.contains(ALLIANCE) && !deny.peers.contains(EMPIRE));
    assert_eq!(&*deny.rule.as_ref().unwrap().rule, "ingressDeny[0]");
}

#[test]
fn l7_ranges_are_cut_where_rules_change() {
    let range = PortRule {
        l7: L7Rules::Http(vec![]),
        ..tcp(8000, 9000)
    };
    let compiled = compile(&[ingress(allow(vec![
        rule(org("empire"), vec![range]),
        rule(org("empire"), vec![http(8080, "/x")]),
    ]))]);
    let ranges: Vec<_> = compiled
        .0
        .ports
        .iter()
        .map(|policy| (policy.first, policy.last))
        .collect();
    assert_eq!(ranges, [(8000, 8079), (8080, 8080), (8081, 9000)]);
    assert_eq!(
        compiled.0.ports[1]
            .rules
            .iter()
            .filter(|rule| rule.rule.is_some())
            .count(),
        2
    );
}

#[test]
fn host_entry_and_priorities() {
    let compiled = compile(&[ingress(allow(vec![rule(
        Peers::Unnamed,
        vec![http(80, "/")],
    )]))]);
    let host = lookup(
        &compiled.0.entries,
        Direction::Ingress,
        NumericIdentity::HOST,
        TCP,
        80,
    );
    let host = host.unwrap().value;
    assert_eq!((host.priority, host.rule), (Priority::HOST, RuleId::NONE));
    let other = lookup(&compiled.0.entries, Direction::Ingress, EMPIRE, TCP, 80).unwrap();
    assert_eq!(other.value.priority, Priority::HTTP);
    assert_eq!(compiled.0.id, EndpointId(1));
    assert_ne!(Case::SUBJECT, EndpointId(0));
}
