//! What an endpoint gets whose policies say more than it may have.

mod held;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError};

use super::support::*;
use crate::model::{EndpointId, Labels, NamedPorts, NumericIdentity};
use crate::policy::Decision::{Allow, Deny, Redirect};
use crate::policy::http::{HttpRule, HttpRules};
use crate::policy::testing::cases::{Case, cases};
use crate::policy::{
    Bounded, Bounds, Compiler, Decision, DirectionRules, EndpointPolicy, EndpointSelector,
    EntryKey, IdentityTable, L7Rules, Operator, Peer, Peers, PortRule, Requirement, Rule,
    RuleTable, Subject, cidrs_of, http_load, lookup,
};

const PODS: u32 = 200;

/// Pods whose labels are `pod=0`, `pod=1` and so on.
fn pods() -> IdentityTable {
    let mut table = IdentityTable::new();
    for number in 0..PODS {
        table.insert(pod(number), labels(&[&format!("k8s:pod={number}")]));
    }
    table
}

fn pod(number: u32) -> NumericIdentity {
    NumericIdentity(1000 + number)
}

fn bounded(entries: usize) -> Bounds {
    Bounds {
        entries,
        ..Bounds::default()
    }
}

fn compiled(rules: &[Rule], bounds: Bounds, held: &[EntryKey]) -> EndpointPolicy {
    let identities = pods();
    let subject = Subject {
        id: EndpointId(1),
        labels: &Labels::default(),
        named_ports: &NamedPorts::default(),
        intercepts: &[],
    };
    let mut table = RuleTable::default();
    let held = || held.to_vec();
    Compiler::bounded(&identities, bounds).compile_over(&subject, rules, &mut table, held)
}

/// The keys of what is plainly allowed.
fn allowed(policy: &EndpointPolicy) -> Vec<EntryKey> {
    let entries = policy.entries.iter();
    let allowed = entries.filter(|entry| entry.value.is_plain());
    allowed.map(|entry| entry.key).collect()
}

fn at(policy: &EndpointPolicy, peer: NumericIdentity, port: u16) -> Decision {
    let direction = crate::model::Direction::Ingress;
    lookup(&policy.entries, direction, peer, TCP, port).map_or(Deny, |entry| entry.value.decision)
}

/// Every pod, on these ports.
fn everybody(ports: std::ops::Range<u16>) -> Rule {
    let ports = ports.map(|port| tcp(port, port)).collect();
    let cluster = entity(crate::policy::Entity::Cluster);
    ingress(allow(vec![rule(cluster, ports)]))
}

#[test]
fn an_endpoint_over_its_bound_keeps_what_it_had_and_gets_nothing_new() {
    let before = compiled(&[everybody(80..82)], bounded(1000), &[]);
    assert!(before.excess.is_empty());
    let more = everybody(81..100);
    let after = compiled(
        std::slice::from_ref(&more),
        bounded(1000),
        &allowed(&before),
    );
    let [excess] = after.excess.as_slice() else {
        panic!("{:?}", after.excess);
    };
    assert_eq!((excess.of, excess.limit), (Bounded::Entries, 1000));
    let text = excess.to_string();
    assert!(
        text.contains("more than 1000 policy entries")
            && text.contains("CiliumNetworkPolicy default/rule1's"),
        "{text}"
    );
    assert_eq!(at(&after, pod(7), 80), Deny, "no longer allowed");
    assert_eq!(at(&after, pod(7), 81), Allow, "as before");
    assert_eq!(at(&after, pod(7), 82), Deny, "new");
    assert!(after.ingress_default_deny && after.entries.len() <= 1000);
    // Nothing was held: nothing is allowed.
    let fresh = compiled(&[more], bounded(1000), &[]);
    assert_eq!(at(&fresh, pod(7), 81), Deny);
    assert_eq!(at(&fresh, NumericIdentity::HOST, 81), Allow, "probes pass");
}

#[test]
fn denies_and_redirects_are_complete_over_the_bound() {
    let before = compiled(&[everybody(80..84)], bounded(1000), &[]);
    let mut more = everybody(80..100);
    more.ingress.deny = vec![rule(
        entity(crate::policy::Entity::Cluster),
        vec![tcp(81, 81)],
    )];
    more.ingress.allow.push(rule(
        entity(crate::policy::Entity::Cluster),
        vec![http(82, "/x")],
    ));
    let after = compiled(&[more], bounded(1000), &allowed(&before));
    assert!(!after.excess.is_empty());
    assert_eq!(at(&after, pod(7), 80), Allow);
    assert_eq!(at(&after, pod(7), 81), Deny, "denied since");
    assert_eq!(at(&after, pod(7), 82), Redirect, "judged since");
    assert_eq!(at(&after, pod(7), 83), Allow);
}

#[test]
fn a_direction_that_is_not_enforced_stays_open_but_for_what_is_denied() {
    let deny = DirectionRules {
        default_deny: false,
        allow: (90..100u16)
            .map(|port| {
                rule(
                    entity(crate::policy::Entity::Cluster),
                    vec![tcp(port, port)],
                )
            })
            .collect(),
        deny: vec![rule(
            entity(crate::policy::Entity::Cluster),
            vec![tcp(80, 80)],
        )],
    };
    let policy = compiled(&[ingress(deny)], bounded(1000), &[]);
    assert!(!policy.excess.is_empty() && !policy.ingress_default_deny);
    assert_eq!(at(&policy, pod(7), 80), Deny);
    assert_eq!(at(&policy, pod(7), 81), Allow);
}

#[test]
fn everything_is_denied_when_denies_alone_are_too_many() {
    let ports = (1..100).map(|port| tcp(port, port)).collect();
    let deny = DirectionRules {
        default_deny: false,
        allow: vec![],
        deny: vec![rule(entity(crate::policy::Entity::Cluster), ports)],
    };
    let policy = compiled(&[ingress(deny)], bounded(1000), &[]);
    assert!(policy.entries.is_empty() && policy.ports.is_empty());
    assert!(policy.ingress_default_deny && policy.egress_default_deny && policy.policed);
    assert_eq!(policy.excess[0].of, Bounded::Entries);
}

#[test]
fn rules_without_number_are_not_even_compiled() {
    let ports: Vec<PortRule> = (1..=30_000)
        .map(|port| spec(crate::policy::PortMatch::Range(range(port)), None))
        .collect();
    let policy = compiled(
        &[ingress(allow(vec![rule(org("nobody"), ports.clone())]))],
        Bounds::default(),
        &[],
    );
    assert!(
        policy.excess.is_empty(),
        "rules that mean nobody cost nothing"
    );
    let cluster = entity(crate::policy::Entity::Cluster);
    let policy = compiled(
        &[ingress(allow(vec![rule(cluster, ports)]))],
        Bounds::default(),
        &[],
    );
    assert_eq!(policy.excess[0].of, Bounded::Rules);
    assert!(policy.entries.is_empty() && policy.ingress_default_deny);
    assert_eq!(
        policy.excess[0].to_string(),
        "its policies come to more than 65536 rules of one port and protocol; most of them are \
         CiliumNetworkPolicy default/rule1's: 65536"
    );
}

#[test]
fn rules_that_say_the_same_of_too_many_in_other_words_are_told_as_that() {
    // Each selects all pods by another requirement: what they make are the same
    // 210 entries, and 120 times as much is looked at.
    let others = (0..120).map(|index| {
        let operator = Operator::NotIn(vec!["v".into()]);
        let requirement = Requirement::parse(&format!("x{index}"), operator).unwrap();
        let peer = Peer::Endpoints(EndpointSelector::new([requirement]));
        rule(Peers::Listed(vec![peer]), vec![tcp(80, 80)])
    });
    let policy = compiled(&[ingress(allow(others.collect()))], bounded(300), &[]);
    let excess = &policy.excess[0];
    assert_eq!((excess.of, excess.limit), (Bounded::EntrySteps, 19_200));
    let text = excess.to_string();
    assert!(text.contains("more than 19200 policy entries"), "{text}");
    assert!(
        text.contains("counted for every rule") && text.contains("default/rule1's: 25200"),
        "{text}"
    );
}

#[test]
fn http_rules_that_are_looked_at_too_often_are_told_as_that() {
    // The n-th of these ranges lies in all before it.
    let nested = (0..600).map(|index| {
        let range = tcp(1 + index, 60_000 - index);
        match index {
            0 => PortRule {
                l7: heavy(1, 10, 0).l7,
                ..range
            },
            _ => range,
        }
    });
    let rules = [ingress(allow(vec![rule(org("empire"), nested.collect())]))];
    assert_eq!(http_load(&rules).unwrap_err().of, Bounded::HttpSteps);
    let mut identities = IdentityTable::new();
    identities.insert(EMPIRE, labels(&["k8s:org=empire"]));
    let subject = Subject {
        id: EndpointId(1),
        labels: &Labels::default(),
        named_ports: &NamedPorts::default(),
        intercepts: &[],
    };
    let bounds = Bounds {
        http_bytes: usize::MAX,
        ..bounded(1 << 20)
    };
    let mut table = RuleTable::default();
    let policy = Compiler::bounded(&identities, bounds).compile(&subject, &rules, &mut table);
    let text = policy.excess[0].to_string();
    assert_eq!(policy.excess[0].of, Bounded::HttpSteps);
    assert!(
        text.contains("more than 262144 rules on ports with HTTP rules")
            && text.contains("CiliumNetworkPolicy default/rule1's: 360"),
        "{text}"
    );
    assert!(policy.http_closed && policy.ports.is_empty());
}

fn range(port: u16) -> crate::policy::PortRange {
    crate::policy::PortRange {
        first: port,
        last: port,
    }
}

#[test]
fn many_rules_that_say_the_same_are_within_the_bound() {
    // As when each of many policies lets everybody in on a port.
    let rules: Vec<Rule> = (0..2000).map(|_| everybody(80..81)).collect();
    let policy = compiled(&rules, bounded(300), &[]);
    assert!(policy.excess.is_empty(), "{:?}", policy.excess);
    assert_eq!(at(&policy, pod(7), 80), Allow);
}

/// An HTTP rule of so many bytes and so large a table.
fn heavy(port: u16, text: usize, cost: usize) -> PortRule {
    let rules = vec![HttpRule {
        path: Some("x".repeat(text)),
        ..HttpRule::default()
    }];
    PortRule {
        l7: L7Rules::Http(HttpRules::new(rules, cost)),
        ..tcp(port, port)
    }
}

#[test]
fn http_rules_over_the_bound_are_closed_and_the_rest_is_not() {
    let cluster = || entity(crate::policy::Entity::Cluster);
    let with = |text, cost, count: u16| {
        // Ports apart, or they would be one range.
        let http = (0..count).map(|index| heavy(1000 + 2 * index, text, cost));
        let ports = http.chain([tcp(80, 80)]).collect();
        compiled(
            &[ingress(allow(vec![rule(cluster(), ports)]))],
            Bounds {
                http_bytes: 100_000,
                http_tables: 1_000_000,
                ..Bounds::default()
            },
            &[],
        )
    };
    let fine = with(1000, 10_000, 10);
    assert!(fine.excess.is_empty() && fine.ports.len() == 10);
    assert!(fine.http_load.bytes > 10_000 && fine.http_load.tables == 100_000);
    for (policy, of) in [
        (with(1000, 0, 60), Bounded::HttpBytes),
        (with(10, 100_000, 20), Bounded::HttpTables),
    ] {
        assert_eq!(policy.excess[0].of, of);
        assert!(policy.http_closed && policy.ports.is_empty());
        assert_eq!(at(&policy, pod(7), 80), Allow);
        assert_eq!(at(&policy, pod(7), 1000), Redirect);
    }
}

#[test]
fn what_an_object_alone_has_the_proxy_judge() {
    let rules = [
        ingress(allow(vec![rule(org("empire"), vec![heavy(80, 1000, 500)])])),
        ingress(allow(vec![rule(
            org("alliance"),
            vec![heavy(80, 1000, 500)],
        )])),
    ];
    let load = http_load(&rules).unwrap();
    assert!((2000..2500).contains(&load.bytes), "{load:?}");
    assert_eq!(load.tables, 1000);
    let apart = http_load(&rules[..1]).unwrap();
    assert_eq!(apart.tables, 500);
}

/// How much a decision lets through.
fn openness(decision: Decision) -> u8 {
    match decision {
        Deny => 0,
        Redirect => 1,
        Allow => 2,
    }
}

/// Whatever was held, an endpoint over its bound is allowed nothing that its
/// policies do not allow, and one within it gets all of them.
fn check(case: &Case, before: &Case, entries: usize) -> Result<(), TestCaseError> {
    let (identities, addresses) = case.identities();
    let subject = Subject {
        id: Case::SUBJECT,
        labels: &case.pods[0].labels,
        named_ports: &case.pods[0].ports,
        intercepts: &case.intercepts,
    };
    let mut table = RuleTable::default();
    let mut full = Compiler::new(&identities);
    let full_policy = full.compile(&subject, &case.rules, &mut table);
    let subject_before = Subject {
        intercepts: &before.intercepts,
        ..subject
    };
    let held = full.compile(&subject_before, &before.rules, &mut table);
    let mut compiler = Compiler::bounded(&identities, bounded(entries));
    let policy = compiler.compile_over(&subject, &case.rules, &mut table, || allowed(&held));
    let bare = compiler.compile(&subject, &case.rules, &mut table);
    prop_assert!(policy.entries.len() <= entries);
    if full_policy.entries.len() <= entries {
        prop_assert_eq!(&policy, &full_policy);
        return Ok(());
    }
    prop_assert!(!policy.excess.is_empty());
    // Everything is denied where denies and redirects alone are too many, and not
    // on account of what was allowed.
    let closed = policy.entries.is_empty();
    prop_assert_eq!(closed, bare.entries.is_empty());
    let selected = |rule: &&Rule| rule.subject.matches(subject.labels);
    let own = cidrs_of(case.rules.iter().filter(selected));
    for tuple in &case.tuples {
        let peer = case.identity(tuple, &addresses);
        // Ranges that only rules for other pods name give way, held or not.
        let range = identities.get(peer).and_then(|known| known.cidr);
        let gives_way = policy.excess[0].of == Bounded::OthersRanges
            && range.is_some_and(|range| !own.contains(&range));
        let find = |policy: &EndpointPolicy| {
            let entries = &policy.entries;
            lookup(entries, tuple.direction, peer, tuple.protocol, tuple.port).copied()
        };
        let decide = |policy| find(policy).map_or(Deny, |entry| entry.value.decision);
        let plain = |policy| find(policy).filter(|entry| entry.value.is_plain());
        let (less, all) = (decide(&policy), decide(&full_policy));
        prop_assert!(
            openness(less) <= openness(all),
            "{less:?} for {all:?}: {tuple:?}"
        );
        // What was allowed and is still the policies' wish goes on, where one rule
        // allows all of the key and there is room for it.
        let (Some(was), Some(_)) = (plain(&held), plain(&full_policy)) else {
            continue;
        };
        let mut wished = full_policy.entries.iter();
        let wished = wished.any(|entry| entry.value.is_plain() && lies_in(&was.key, &entry.key));
        let room = entries - policy.entries.len();
        if wished && !closed && !gives_way && room >= most_entries(&was.key, &case.intercepts) {
            prop_assert_eq!(less, all, "{:?}", tuple);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(Config { cases: 1500, failure_persistence: None, ..Config::default() })]

    #[test]
    fn bounded_policies_allow_less_and_never_more(
        (case, before) in (cases(5, 60), cases(3, 1)),
        entries in 1usize..40,
    ) {
        check(&case, &before, entries)?;
    }

    #[test]
    fn what_was_within_the_bound_goes_on_when_policies_are_added(
        case in cases(6, 60),
        first in 0usize..4,
        entries in 1usize..60,
    ) {
        let mut before = case.clone();
        before.rules.truncate(first);
        check(&case, &before, entries)?;
    }
}

/// A rule for other pods, and what the world is allowed here on these ports.
fn world_with_ranges(ranges: u32, ports: std::ops::Range<u16>) -> (IdentityTable, Vec<Rule>) {
    let mut identities = pods();
    let range = |number| format!("11.{}.{}.0/24", number >> 8, number & 255);
    let named = (0..ranges).map(range).chain(["192.0.2.0/24".to_owned()]);
    for (number, range) in (NumericIdentity::LOCAL_FIRST.0..).zip(named) {
        identities.insert_cidr(NumericIdentity(number), range.parse().unwrap());
    }
    let own = Peers::Listed(vec![Peer::Cidr(crate::policy::CidrPeer {
        cidr: "192.0.2.0/24".parse().unwrap(),
        except: vec![],
    })]);
    let world = || entity(crate::policy::Entity::World);
    let ports = ports.map(|port| tcp(port, port)).collect();
    let mut allowed = allow(vec![rule(world(), ports), rule(own, vec![tcp(443, 443)])]);
    allowed.deny = vec![rule(world(), vec![tcp(22, 22)])];
    (identities, vec![ingress(allowed)])
}

#[test]
fn ranges_that_others_name_do_not_cut_off_who_is_allowed_the_world() {
    let (identities, rules) = world_with_ranges(100, 80..84);
    let subject = Subject {
        id: EndpointId(1),
        labels: &Labels::default(),
        named_ports: &NamedPorts::default(),
        intercepts: &[],
    };
    let mut table = RuleTable::default();
    let mut compiler = Compiler::bounded(&identities, bounded(200));
    let policy = compiler.compile(&subject, &rules, &mut table);
    let others = NumericIdentity::LOCAL_FIRST;
    let own = NumericIdentity(others.0 + 100);
    for port in 80..84 {
        assert_eq!(at(&policy, NumericIdentity::WORLD, port), Allow);
        assert_eq!(at(&policy, own, port), Allow);
        assert_eq!(at(&policy, others, port), Deny, "named by others");
    }
    assert_eq!(at(&policy, own, 443), Allow);
    assert_eq!(at(&policy, others, 22), Deny);
    let denies = policy
        .entries
        .iter()
        .filter(|entry| entry.value.decision == Deny);
    assert!(denies.count() > 100, "denies are complete");
    let excess = &policy.excess[0];
    assert_eq!((excess.of, excess.limit), (Bounded::OthersRanges, 200));
    // What is too much by itself is told as that, and of whose it is.
    let (identities, rules) = world_with_ranges(100, 80..200);
    let mut compiler = Compiler::bounded(&identities, bounded(200));
    let policy = compiler.compile(&subject, &rules, &mut table);
    let excess = &policy.excess[0];
    assert_eq!(excess.of, Bounded::Entries);
    let (_, amount) = excess.most.clone().unwrap();
    assert!(
        (480..700).contains(&amount),
        "{amount} without others' ranges"
    );
}
