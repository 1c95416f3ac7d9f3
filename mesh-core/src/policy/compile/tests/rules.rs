//! Layers 3 and 4 of the policy language, rule by rule.

use super::support::*;
use crate::model::{Direction, NumericIdentity};
use crate::policy::Decision::{Allow, Deny, Redirect};
use crate::policy::{
    DirectionRules, EndpointSelector, Entity, Operator, Peers, PortMatch, PortRange, Requirement,
    Rule, lookup,
};

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
    let compiled = letting_in(vec![]);
    assert_eq!(compiled.ingress(EMPIRE, 80), Deny);
    assert_eq!(compiled.egress(EMPIRE, 80), Allow);
    assert!(compiled.0.ingress_default_deny && !compiled.0.egress_default_deny);
}

/// What IPv6 has to know of a pod: a denial without default deny is a policy.
#[test]
fn every_policy_that_says_anything_polices() {
    let policed = |rules: &[Rule]| compile(rules).0.policed;
    let denial = DirectionRules {
        default_deny: false,
        allow: vec![],
        deny: vec![rule(org("empire"), vec![])],
    };
    assert!(!policed(&[]));
    assert!(!policed(&[ingress(DirectionRules::default())]));
    assert!(policed(&[ingress(allow(vec![]))]));
    assert!(policed(&[egress(denial.clone())]));
    let other = Requirement::parse("class", Operator::In(vec!["tie".into()])).unwrap();
    let elsewhere = Rule {
        subject: EndpointSelector::new([other]),
        ..ingress(denial)
    };
    assert!(!policed(&[elsewhere]));
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
    let compiled = letting_in(vec![rule(org("empire"), vec![tcp(80, 80)])]);
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
fn an_empty_rule_allows_nothing_but_denies_by_default() {
    let compiled = letting_in(vec![rule(Peers::Unnamed, vec![])]);
    assert_eq!(compiled.ingress(EMPIRE, 80), Deny);
    let nothing = Peers::Listed(vec![]);
    let compiled = letting_in(vec![rule(nothing, vec![tcp(80, 80)])]);
    assert_eq!(compiled.ingress(EMPIRE, 80), Deny);
}

#[test]
fn ports_without_peers_mean_any_peer() {
    let compiled = letting_in(vec![rule(Peers::Unnamed, vec![tcp(80, 80)])]);
    for peer in [EMPIRE, NumericIdentity::WORLD, TEN, NumericIdentity(9999)] {
        assert_eq!(compiled.ingress(peer, 80), Allow);
        assert_eq!(compiled.ingress(peer, 81), Deny);
    }
}

#[test]
fn peers_without_ports_mean_every_protocol() {
    let compiled = letting_in(vec![rule(org("empire"), vec![])]);
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
        let compiled = letting_in(vec![rule(Peers::Unnamed, ports)]);
        for protocol in [TCP, UDP, SCTP] {
            assert_eq!(compiled.at(Direction::Ingress, EMPIRE, protocol, 53), Allow);
        }
        assert_eq!(compiled.at(Direction::Ingress, EMPIRE, ICMP, 53), Deny);
    }
}

#[test]
fn ranges() {
    let ports = vec![tcp(8000, 8999), tcp(65000, 65535)];
    let compiled = letting_in(vec![rule(Peers::Unnamed, ports)]);
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
