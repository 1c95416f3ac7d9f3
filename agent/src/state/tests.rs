use std::collections::BTreeMap;

use serde_json::json;

use super::*;

fn policy(name: &str, generation: i64) -> PolicyObject {
    PolicyObject {
        key: ObjectKey::new("default", name),
        uid: format!("uid-{name}"),
        generation,
        raw: json!({"spec": generation}).into(),
    }
}

fn namespace(name: &str) -> Namespace {
    Namespace {
        name: name.into(),
        labels: BTreeMap::new(),
    }
}

#[test]
fn a_listing_replaces_what_is_gone() {
    let mut state = ClusterState::default();
    assert!(state.apply(Change::Namespaces(Delta::Replace(vec![
        namespace("a"),
        namespace("b")
    ]))));
    assert!(state.apply(Change::Namespaces(Delta::Replace(vec![namespace("b")]))));
    assert!(state.namespace_labels("a").is_none());
    assert!(state.namespace_labels("b").is_some());
}

#[test]
fn a_listing_of_one_policy_kind_leaves_the_other_alone() {
    let mut state = ClusterState::default();
    state.apply(Change::Policies(
        PolicyKind::CiliumClusterwideNetworkPolicy,
        Delta::Apply(policy("wide", 1)),
    ));
    state.apply(Change::Policies(
        PolicyKind::CiliumNetworkPolicy,
        Delta::Replace(vec![policy("narrow", 1)]),
    ));
    state.apply(Change::Policies(
        PolicyKind::CiliumNetworkPolicy,
        Delta::Replace(vec![]),
    ));
    let kinds: Vec<_> = state.policies.keys().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [PolicyKind::CiliumClusterwideNetworkPolicy]);
}

#[test]
fn the_same_object_again_is_no_change() {
    let mut state = ClusterState::default();
    let change = Change::Policies(
        PolicyKind::CiliumNetworkPolicy,
        Delta::Apply(policy("p", 1)),
    );
    assert!(state.apply(change.clone()));
    assert!(!state.apply(change));
    assert!(state.apply(Change::Policies(
        PolicyKind::CiliumNetworkPolicy,
        Delta::Apply(policy("p", 2))
    )));
    assert!(state.apply(Change::Policies(
        PolicyKind::CiliumNetworkPolicy,
        Delta::Delete(ObjectKey::new("default", "p"))
    )));
}

#[test]
fn in_sync_only_when_every_kind_was_listed() {
    let mut state = ClusterState::default();
    assert_eq!(state.missing().len(), Kind::ALL.len());
    state.apply(Change::Pods(Delta::Replace(vec![])));
    assert!(!state.missing().contains(&Kind::Pod));
    assert!(state.missing().contains(&Kind::Identity));
    // A single object is not a listing.
    state.apply(Change::Namespaces(Delta::Apply(namespace("a"))));
    assert!(state.missing().contains(&Kind::Namespace));
}
