//! Filters bring traffic to the proxy, and change nothing about who may reach
//! whom.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError};

use super::support::*;
use crate::filter::Intercept;
use crate::model::{Direction, EndpointId, Labels, NamedPorts, NumericIdentity};
use crate::policy::Decision::{Allow, Deny, Redirect};
use crate::policy::testing::cases::{Case, cases};
use crate::policy::testing::reference::{self, Outcome};
use crate::policy::{
    Bounded, Bounds, Compiler, Decision, DirectionRules, EndpointPolicy, Entity, IdentityTable,
    MapEntry, PeerSet, Peers, Priority, Rule, RuleTable, Subject, lookup,
};

fn on(first: u16, last: u16) -> Intercept {
    Intercept {
        direction: Direction::Ingress,
        first,
        last,
    }
}

#[test]
fn what_is_allowed_passes_the_proxy_and_what_is_not_stays_denied() {
    let rules = [ingress(allow(vec![
        rule(org("empire"), vec![]),
        rule(org("alliance"), vec![tcp(8000, 9000)]),
    ]))];
    let compiled = compile_intercepted(&rules, &[on(80, 80), on(8080, 8081)]);
    assert_eq!(compiled.ingress(EMPIRE, 80), Redirect);
    assert_eq!(compiled.ingress(EMPIRE, 81), Allow);
    assert_eq!(compiled.ingress(ALLIANCE, 80), Deny);
    assert_eq!(compiled.ingress(ALLIANCE, 8080), Redirect);
    assert_eq!(compiled.ingress(ALLIANCE, 8082), Allow);
    assert_eq!(compiled.ingress(TEN, 80), Deny);
    // The rule that allows it is named, as without filters.
    assert_eq!(compiled.rule(EMPIRE, 80), "ingress[0]");
    assert_eq!(compiled.rule(ALLIANCE, 8080), "ingress[1].toPorts[0]");
    let ports: Vec<_> = compiled.0.ports.iter().collect();
    let ranges: Vec<_> = ports.iter().map(|port| (port.first, port.last)).collect();
    assert_eq!(ranges, [(80, 80), (8080, 8081)]);
    for (port, peers) in [(ports[0], vec![EMPIRE]), (ports[1], vec![EMPIRE, ALLIANCE])] {
        assert!(
            port.rules
                .iter()
                .all(|rule| rule.http.is_empty() && !rule.deny)
        );
        for peer in [EMPIRE, ALLIANCE, TEN] {
            let named = port.rules.iter().any(|rule| rule.peers.contains(peer));
            assert_eq!(named, peers.contains(&peer), "{peer} on {}", port.first);
        }
    }
}

#[test]
fn a_pod_without_policies_is_intercepted_too() {
    let compiled = compile_intercepted(&[], &[on(80, 80)]);
    assert!(compiled.0.policed, "IPv6 would go round the filters");
    assert!(!compiled.0.ingress_default_deny);
    assert_eq!(compiled.ingress(EMPIRE, 80), Redirect);
    assert_eq!(compiled.ingress(NumericIdentity::WORLD, 80), Redirect);
    assert_eq!(compiled.ingress(EMPIRE, 81), Allow);
    assert_eq!(compiled.egress(EMPIRE, 80), Allow, "the other direction");
    assert_eq!(compiled.at(Direction::Ingress, EMPIRE, UDP, 80), Allow);
    assert_eq!(compiled.at(Direction::Ingress, EMPIRE, SCTP, 80), Allow);
    assert_eq!(compiled.at(Direction::Ingress, EMPIRE, ICMP, 0), Allow);
    let [port] = compiled.0.ports.as_slice() else {
        panic!("{:?}", compiled.0.ports);
    };
    let open = port.rules.iter().find(|rule| rule.peers == PeerSet::Any);
    assert!(open.is_some_and(|rule| rule.http.is_empty() && rule.rule.is_none()));
    assert!(!compile(&[]).0.policed);
}

#[test]
fn the_node_reaches_its_pod_without_the_proxy() {
    let rules = [
        ingress(allow(vec![rule(entity(Entity::Host), vec![tcp(80, 80)])])),
        egress(allow(vec![rule(entity(Entity::Host), vec![tcp(80, 80)])])),
    ];
    let both = [Direction::Ingress, Direction::Egress].map(Intercept::all);
    let compiled = compile_intercepted(&rules, &both);
    for port in [80, 81] {
        assert_eq!(compiled.ingress(NumericIdentity::HOST, port), Allow);
    }
    assert_eq!(compiled.egress(NumericIdentity::HOST, 80), Redirect);
    // Nobody else is let in on port 81, so there is nothing to judge.
    let ingress = compiled.0.ports.iter();
    let ingress = ingress.filter(|port| port.direction == Direction::Ingress);
    let ranges: Vec<_> = ingress.map(|port| (port.first, port.last)).collect();
    assert_eq!(ranges, [(80, 80)]);
}

#[test]
fn denies_and_http_rules_are_stronger() {
    let section = DirectionRules {
        default_deny: true,
        allow: vec![
            rule(Peers::Unnamed, vec![tcp(80, 81)]),
            rule(org("empire"), vec![http(80, "/x")]),
        ],
        deny: vec![rule(org("alliance"), vec![tcp(80, 80)])],
    };
    let compiled = compile_intercepted(&[ingress(section)], &[on(80, 81)]);
    assert_eq!(compiled.ingress(ALLIANCE, 80), Deny);
    assert_eq!(compiled.ingress(ALLIANCE, 81), Redirect);
    assert_eq!(compiled.rule(EMPIRE, 80), "ingress[1].toPorts[0]");
    let entry = lookup(&compiled.0.entries, Direction::Ingress, EMPIRE, TCP, 80);
    assert_eq!(
        entry.map(|entry| entry.value.priority),
        Some(Priority::HTTP)
    );
    let entry = lookup(&compiled.0.entries, Direction::Ingress, EMPIRE, TCP, 81);
    let priority = entry.map(|entry| entry.value.priority);
    assert_eq!(priority, Some(Priority::INTERCEPT));
}

#[test]
fn every_port_takes_one_entry_more_for_each_peer() {
    let rules = [ingress(allow(vec![
        rule(org("empire"), vec![]),
        rule(org("alliance"), vec![tcp(80, 80)]),
    ]))];
    let plain = compile(&rules).0.entries.len();
    let all = compile_intercepted(&rules, &[Intercept::all(Direction::Ingress)]);
    assert_eq!(all.0.entries.len(), plain + 1);
    // Ranges that meet are one.
    let halves = compile_intercepted(&rules, &[on(0, 32_767), on(30_000, 65_535), on(7, 3)]);
    assert_eq!(halves.0.entries, all.0.entries);
    assert_eq!(halves.0.ports, all.0.ports);
}

/// Hundreds of pods that may come in on every port, and filters on some.
fn crowded(bounds: Bounds, intercepts: &[Intercept], others: bool) -> EndpointPolicy {
    let mut identities = IdentityTable::new();
    for number in 0..200 {
        let label = format!("k8s:pod={number}");
        identities.insert(NumericIdentity(1000 + number), labels(&[&label]));
    }
    if others {
        for number in 0..200 {
            let range = format!("11.0.{number}.0/24").parse().unwrap();
            identities.insert_cidr(
                NumericIdentity(NumericIdentity::LOCAL_FIRST.0 + number),
                range,
            );
        }
    }
    let subject = Subject {
        id: EndpointId(1),
        labels: &Labels::default(),
        named_ports: &NamedPorts::default(),
        intercepts,
    };
    let peers = [Entity::Cluster, Entity::World].map(|of| rule(entity(of), vec![]));
    let rules: [Rule; 1] = [ingress(allow(peers.into()))];
    Compiler::bounded(&identities, bounds).compile(&subject, &rules, &mut RuleTable::default())
}

#[test]
fn what_filters_take_counts_toward_the_bounds() {
    let bounds = |entries| Bounds {
        entries,
        ..Bounds::default()
    };
    let plain = crowded(bounds(300), &[], false);
    assert!(plain.excess.is_empty());
    let ports: Vec<_> = (0..4)
        .map(|number| on(80 + 2 * number, 80 + 2 * number))
        .collect();
    let many = crowded(bounds(300), &ports, false);
    let [excess] = many.excess.as_slice() else {
        panic!("{:?}", many.excess);
    };
    assert_eq!((excess.of, excess.limit), (Bounded::Entries, 300));
    let (object, amount) = excess.most.clone().unwrap();
    assert_eq!(object, "CiliumNetworkPolicy default/rule1");
    assert!(amount > 5 * 200, "{amount}");
    assert_eq!(
        decision(&many, NumericIdentity(1000), 80),
        Deny,
        "nothing new"
    );
    // Ranges that others name give way, and with them what filters take of them.
    let all = Intercept::all(Direction::Ingress);
    let crowd = crowded(bounds(500), &[all], true);
    assert_eq!(crowd.excess[0].of, Bounded::OthersRanges);
    assert_eq!(decision(&crowd, NumericIdentity(1000), 80), Redirect);
    assert_eq!(decision(&crowd, NumericIdentity::LOCAL_FIRST, 80), Deny);
    // More than the proxy may be given: closed, and the rest is not.
    let tight = Bounds {
        http_bytes: 100,
        ..bounds(1000)
    };
    let closed = crowded(tight, &[on(80, 80)], false);
    assert!(closed.http_closed && closed.ports.is_empty());
    assert_eq!(closed.excess[0].of, Bounded::HttpBytes);
    assert_eq!(decision(&closed, NumericIdentity(1000), 81), Allow);
}

fn decision(policy: &EndpointPolicy, peer: NumericIdentity, port: u16) -> Decision {
    let entry = lookup(&policy.entries, Direction::Ingress, peer, TCP, port);
    entry.map_or(Deny, |entry| entry.value.decision)
}

#[test]
fn over_the_bound_what_was_held_goes_on_through_the_proxy() {
    let rules = [ingress(allow(vec![
        rule(org("empire"), vec![]),
        rule(org("alliance"), vec![tcp(80, 90)]),
    ]))];
    let identities = identities();
    let subject = Subject {
        id: EndpointId(1),
        labels: &Labels::default(),
        named_ports: &NamedPorts::default(),
        intercepts: &[on(80, 80)],
    };
    let mut table = RuleTable::default();
    let first = Compiler::new(&identities).compile(&subject, &rules[..1], &mut table);
    let held = || {
        let plain = first.entries.iter().filter(|entry| entry.value.is_plain());
        plain.map(|entry| entry.key).collect()
    };
    let peers = |ports: std::ops::Range<u16>| {
        let ports = ports.map(|port| tcp(port, port)).collect();
        rule(Peers::Unnamed, ports)
    };
    let more = [rules[0].clone(), ingress(allow(vec![peers(1000..1100)]))];
    let bounds = Bounds {
        entries: 20,
        ..Bounds::default()
    };
    let mut compiler = Compiler::bounded(&identities, bounds);
    let over = compiler.compile_over(&subject, &more, &mut table, held);
    assert_eq!(over.excess[0].of, Bounded::Entries);
    assert_eq!(decision(&over, EMPIRE, 80), Redirect);
    assert_eq!(decision(&over, EMPIRE, 81), Allow);
    assert_eq!(decision(&over, ALLIANCE, 80), Redirect);
    assert_eq!(decision(&over, ALLIANCE, 81), Allow);
    assert_eq!(decision(&over, ALLIANCE, 1000), Deny, "new");
    // The filter is gone: what it had redirected is still held.
    let without = Subject {
        intercepts: &[],
        ..subject
    };
    let over = compiler.compile_over(&without, &more, &mut table, held);
    assert_eq!(decision(&over, ALLIANCE, 80), Allow);
}

/// With intercepts exactly the same passes, and what of it is TCP on their ports
/// passes the proxy.
fn check(case: &Case) -> Result<(), TestCaseError> {
    let (identities, addresses) = case.identities();
    let mut compiler = Compiler::new(&identities);
    let mut table = RuleTable::default();
    let [without, with] = [&[][..], &case.intercepts].map(|intercepts| {
        let subject = Subject {
            id: Case::SUBJECT,
            labels: &case.pods[0].labels,
            named_ports: &case.pods[0].ports,
            intercepts,
        };
        compiler.compile(&subject, &case.rules, &mut table)
    });
    for tuple in &case.tuples {
        let peer = case.identity(tuple, &addresses);
        let find = |policy: &EndpointPolicy| -> Option<MapEntry> {
            let (protocol, port) = (tuple.protocol, tuple.port);
            lookup(&policy.entries, tuple.direction, peer, protocol, port).copied()
        };
        let decide = |policy| find(policy).map_or(Deny, |entry| entry.value.decision);
        let (before, after) = (decide(&without), decide(&with));
        let plain = reference::decide(&case.rules, &case.question(tuple).unwrap());
        prop_assert_eq!(after != Deny, plain.outcome != Outcome::Deny, "{:?}", tuple);
        prop_assert_eq!(after != Deny, before != Deny, "{:?}", tuple);
        let probe = tuple.direction == Direction::Ingress && peer == NumericIdentity::HOST;
        let mut intercepts = case.intercepts.iter();
        let meant = tuple.protocol == TCP
            && !probe
            && intercepts.any(|one| one.is_on(tuple.direction, tuple.port));
        match meant && after != Deny {
            true => prop_assert_eq!(after, Redirect, "{:?}", tuple),
            false => prop_assert_eq!(after, before, "{:?}", tuple),
        }
        // The proxy knows of everything that it gets.
        if after == Redirect {
            let mut ports = with.ports.iter();
            let known = ports.any(|port| {
                let range = port.first..=port.last;
                port.direction == tuple.direction && range.contains(&tuple.port)
            });
            prop_assert!(known, "{:?} in {:?}", tuple, with.ports);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(Config { cases: 1500, failure_persistence: None, ..Config::default() })]

    #[test]
    fn the_same_is_allowed_with_filters_and_without(case in cases(5, 80)) {
        check(&case)?;
    }
}
