//! What is kept of what an endpoint had.

use super::*;
use crate::filter::Intercept;
use crate::model::{Direction, Protocol};
use crate::policy::{Entity, PortMatch};

/// As [`compiled`], with filters on these ports.
fn intercepted(
    rules: &[Rule],
    ports: (u16, u16),
    bounds: Bounds,
    before: &[Rule],
) -> [EndpointPolicy; 2] {
    let identities = pods();
    let (first, last) = ports;
    let intercepts = [Intercept {
        direction: Direction::Ingress,
        first,
        last,
    }];
    let subject = Subject {
        id: EndpointId(1),
        labels: &Labels::default(),
        named_ports: &NamedPorts::default(),
        intercepts: &intercepts,
    };
    let plain = Subject {
        intercepts: &[],
        ..subject
    };
    let mut table = RuleTable::default();
    let mut compiler = Compiler::bounded(&identities, bounds);
    let before = compiler.compile(&plain, before, &mut table);
    let after = compiler.compile_over(&subject, rules, &mut table, || allowed(&before));
    [before, after]
}

fn letting(peers: Peers, ports: Vec<PortRule>) -> Rule {
    ingress(allow(vec![rule(peers, ports)]))
}

/// More than fits, and nothing that the tests ask about.
fn too_much() -> Rule {
    everybody(1000..1010)
}

#[test]
fn what_is_still_allowed_in_wider_words_goes_on() {
    let cluster = || entity(Entity::Cluster);
    let one = Peer::Endpoints(EndpointSelector::new([Requirement::parse(
        "pod",
        Operator::In(vec!["7".into()]),
    )
    .unwrap()]));
    let before = [letting(Peers::Listed(vec![one]), vec![tcp(80, 80)])];
    let before = allowed(&compiled(&before, bounded(1000), &[]));
    let wider = [
        letting(cluster(), vec![tcp(80, 80)]),
        letting(cluster(), vec![tcp(64, 99)]),
        letting(cluster(), vec![spec(PortMatch::All, Some(Protocol::Tcp))]),
        letting(cluster(), vec![]),
        letting(Peers::Unnamed, vec![tcp(80, 80)]),
        letting(Peers::Unnamed, vec![tcp(0, 8080)]),
        letting(entity(Entity::All), vec![]),
    ];
    for rule in wider {
        let text = format!("{rule:?}");
        let after = compiled(&[too_much(), rule], bounded(1000), &before);
        assert_eq!(after.excess[0].of, Bounded::Entries);
        assert_eq!(at(&after, pod(7), 80), Allow, "as before: {text}");
        for (peer, port) in [(7, 81), (8, 80), (7, 1000)] {
            assert_eq!(at(&after, pod(peer), port), Deny, "new: {text}");
        }
    }
    // What is allowed in parts only would be entries that are new.
    let before = [letting(cluster(), vec![])];
    let before = allowed(&compiled(&before, bounded(1000), &[]));
    let after = compiled(&[everybody(80..100)], bounded(1000), &before);
    assert_eq!(at(&after, pod(7), 80), Deny);
}

#[test]
fn what_is_kept_passes_the_filters() {
    let before = [letting(Peers::Unnamed, vec![tcp(8080, 8080)])];
    let after = [letting(Peers::Unnamed, vec![tcp(8000, u16::MAX)])];
    let [before, after] = intercepted(&after, (1, 8080), bounded(4), &before);
    assert_eq!(at(&before, pod(7), 8080), Allow);
    assert_eq!(after.excess[0].of, Bounded::Entries);
    assert_eq!(at(&after, pod(7), 8080), Redirect);
    assert_eq!(at(&after, pod(7), 8081), Deny, "new");
    // Where there is no room for what leads to the filter, it is not let past it.
    let before = [letting(entity(Entity::All), vec![])];
    let [before, after] = intercepted(&before, (1, 8080), bounded(4), &before);
    assert_eq!(at(&before, pod(7), 80), Allow);
    assert_eq!(at(&after, pod(7), 80), Deny);
    assert_eq!(at(&after, NumericIdentity::HOST, 80), Allow, "probes pass");
}

#[test]
fn what_lies_in_what_is_kept_takes_no_room() {
    let all = letting(entity(Entity::Cluster), vec![]);
    let [full, _] = intercepted(&[], (80, 80), bounded(1000), std::slice::from_ref(&all));
    let mut held = allowed(&full);
    // As when there was a filter on a port.
    held.extend(allowed(&compiled(&[everybody(80..81)], bounded(1000), &[])));
    let after = compiled(&[too_much(), all], bounded(1000), &held);
    assert_eq!(after.entries, full.entries);
}

#[test]
fn what_was_allowed_has_the_room_that_denies_leave() {
    let before = everybody(80..81);
    let held = allowed(&compiled(std::slice::from_ref(&before), bounded(300), &[]));
    let mut after = before;
    after.ingress.deny = vec![rule(entity(Entity::Cluster), vec![tcp(22, 22)])];
    let after = compiled(&[after], bounded(300), &held);
    assert!(!after.excess.is_empty() && after.entries.len() == 300);
    let count = |port, decision| {
        let pods = (0..PODS).filter(|number| at(&after, pod(*number), port) == decision);
        u32::try_from(pods.count()).unwrap()
    };
    let denies = after.entries.iter().filter(|entry| entry.key.port == 22);
    assert!(denies.count() > 200, "denies are complete");
    assert_eq!(count(80, Allow) + count(80, Deny), PODS);
    assert!((50..100).contains(&count(80, Allow)));
    assert_eq!(at(&after, NumericIdentity::HOST, 80), Allow, "probes pass");
}
