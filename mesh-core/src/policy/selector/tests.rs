use super::*;

fn labels(texts: &[&str]) -> Labels {
    Labels::parse_all(texts.iter().copied()).unwrap()
}

fn requirement(key: &str, operator: Operator) -> Requirement {
    Requirement::parse(key, operator).unwrap()
}

fn equals(key: &str, value: &str) -> Requirement {
    requirement(key, Operator::In(vec![value.into()]))
}

fn one(requirement: Requirement) -> EndpointSelector {
    EndpointSelector::new([requirement])
}

const POD: &str = "k8s:io.kubernetes.pod.namespace=default";
const OTHER: &str = "k8s:io.kubernetes.pod.namespace=other";

#[test]
fn operators() {
    let with = labels(&["k8s:org=empire"]);
    let without = labels(&["k8s:class=x"]);
    let empire = || vec!["empire".into(), "first-order".into()];
    for (operator, on_with, on_without) in [
        (Operator::In(empire()), true, false),
        (Operator::NotIn(empire()), false, true),
        (Operator::Exists, true, false),
        (Operator::DoesNotExist, false, true),
        (Operator::In(vec!["alliance".into()]), false, false),
        (Operator::NotIn(vec!["alliance".into()]), true, true),
    ] {
        let selector = one(requirement("org", operator.clone()));
        assert_eq!(selector.matches(&with), on_with, "{operator:?}");
        assert_eq!(selector.matches(&without), on_without, "{operator:?}");
    }
}

#[test]
fn every_requirement_must_hold() {
    let selector = EndpointSelector::new([equals("org", "empire"), equals("class", "deathstar")]);
    assert!(selector.matches(&labels(&["k8s:class=deathstar", "k8s:org=empire"])));
    assert!(!selector.matches(&labels(&["k8s:org=empire"])));
    assert!(EndpointSelector::default().matches(&labels(&[])));
}

#[test]
fn sources() {
    let k8s = labels(&["k8s:host="]);
    let reserved = labels(&["reserved:host"]);
    let exists = |key| one(requirement(key, Operator::Exists));
    for (key, on_k8s, on_reserved) in [
        ("host", true, true),
        ("any:host", true, true),
        ("k8s:host", true, false),
        ("reserved:host", false, true),
    ] {
        assert_eq!(exists(key).matches(&k8s), on_k8s, "{key}");
        assert_eq!(exists(key).matches(&reserved), on_reserved, "{key}");
    }
    assert_eq!(Requirement::parse("foo:host", Operator::Exists), None);
    assert_eq!(Requirement::parse("k8s:", Operator::Exists), None);
}

#[test]
fn a_subject_never_leaves_its_namespace() {
    let claims = [
        equals("k8s:io.kubernetes.pod.namespace", "other"),
        equals("any:io.kubernetes.pod.namespace", "other"),
        equals("io.kubernetes.pod.namespace", "other"),
        requirement("io.kubernetes.pod.namespace", Operator::DoesNotExist),
    ];
    for claim in claims {
        let subject = one(claim.clone()).for_subject(Some("default"));
        assert!(subject.matches(&labels(&[POD])), "{claim:?}");
        assert!(!subject.matches(&labels(&[OTHER])), "{claim:?}");
    }
    let everywhere = EndpointSelector::default().for_subject(None);
    assert!(everywhere.matches(&labels(&[OTHER])));
}

#[test]
fn a_peer_is_in_the_policy_s_namespace_unless_it_says_otherwise() {
    let peer = |requirement| one(requirement).for_peer(Some("default"));
    let empire = peer(equals("org", "empire"));
    assert!(empire.matches(&labels(&[POD, "k8s:org=empire"])));
    assert!(!empire.matches(&labels(&[OTHER, "k8s:org=empire"])));
    for key in [
        "io.kubernetes.pod.namespace",
        "k8s:io.kubernetes.pod.namespace",
    ] {
        let other = peer(equals(key, "other"));
        assert!(other.matches(&labels(&[OTHER])) && !other.matches(&labels(&[POD])));
    }
    let team = peer(equals("k8s:io.cilium.k8s.namespace.labels.team", "x"));
    let label = "k8s:io.cilium.k8s.namespace.labels.team=x";
    assert!(team.matches(&labels(&[OTHER, label])));
    let host = peer(requirement("reserved:host", Operator::Exists));
    assert!(host.matches(&labels(&["reserved:host"])));
    let all = EndpointSelector::default().for_peer(Some("default"));
    assert!(all.matches(&labels(&[POD])) && !all.matches(&labels(&[OTHER])));
    assert!(!all.matches(&labels(&["reserved:world"])));
}

#[test]
fn a_clusterwide_peer_is_any_pod_but_only_pods() {
    let all = EndpointSelector::default().for_peer(None);
    assert!(all.matches(&labels(&[POD])) && all.matches(&labels(&[OTHER])));
    assert!(!all.matches(&labels(&["reserved:world"])));
    let not_empire = one(requirement("org", Operator::NotIn(vec!["empire".into()])));
    let not_empire = not_empire.for_peer(None);
    assert!(not_empire.matches(&labels(&[OTHER])));
    assert!(
        !not_empire.matches(&labels(&["reserved:world"])),
        "the world is no pod"
    );
    let world = one(requirement("reserved:world", Operator::Exists)).for_peer(None);
    assert!(world.matches(&labels(&["reserved:world"])));
}
