//! Layer 7 of the policy language, rule by rule.

use super::support::*;
use crate::model::{Direction, EndpointId, NumericIdentity};
use crate::policy::Decision::{Allow, Deny, Redirect};
use crate::policy::http::HttpRules;
use crate::policy::{
    DirectionRules, Entity, L7Rules, PeerSet, Peers, PortRule, Priority, RuleId, lookup,
};

#[test]
fn the_story_s_second_policy() {
    let path = "/v1/request-landing";
    let compiled = letting_in(vec![rule(org("empire"), vec![http(80, path)])]);
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
fn a_node_reaches_its_pods_directly() {
    let compiled = letting_in(vec![rule(Peers::Unnamed, vec![http(80, "/x")])]);
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
    let compiled = letting_in(vec![
        rule(org("empire"), vec![http(80, "/x")]),
        rule(org("alliance"), vec![tcp(80, 80)]),
    ]);
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
        l7: L7Rules::Http(HttpRules::default()),
        ..tcp(8000, 9000)
    };
    let compiled = letting_in(vec![
        rule(org("empire"), vec![range]),
        rule(org("empire"), vec![http(8080, "/x")]),
    ]);
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
    let compiled = letting_in(vec![rule(Peers::Unnamed, vec![http(80, "/")])]);
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
}
