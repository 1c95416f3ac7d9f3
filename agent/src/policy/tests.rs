use serde_json::json;

use super::*;

const KIND: PolicyKind = PolicyKind::CiliumNetworkPolicy;

fn object(uid: &str, org: &str, valid: bool) -> PolicyObject {
    let section = if valid { "ingress" } else { "ingres" };
    let mut spec = json!({"endpointSelector": {"matchLabels": {"org": org}}});
    spec[section] = json!([{"fromEndpoints": [{}]}]);
    PolicyObject {
        key: ObjectKey::new("default", "rule1"),
        uid: uid.into(),
        generation: 1,
        raw: json!({
            "apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",
            "metadata": {"name": "rule1", "namespace": "default", "uid": uid},
            "spec": spec,
        })
        .into(),
    }
}

fn only(object: PolicyObject) -> BTreeMap<PolicyId, PolicyObject> {
    BTreeMap::from([((KIND, object.key.clone()), object)])
}

#[test]
fn the_last_good_version_serves_while_the_newest_is_broken() {
    let mut repository = Repository::default();
    let (changed, _) = repository.update(&only(object("1", "empire", true)));
    assert!(changed);
    let good = repository.rules();
    assert_eq!(good.len(), 1);

    let (changed, keep) = repository.update(&only(object("1", "alliance", false)));
    assert!(!changed && keep.is_empty());
    assert_eq!(repository.rules(), good);
    let rejected = repository.rejected();
    assert!(rejected[0].last_good);
    let place = good[0].origin.rule_ref("ingress[0]");
    assert!(repository.has_object_of(&place));
    let other = RuleRef {
        name: "rule2".into(),
        ..place
    };
    assert!(!repository.has_object_of(&other));
    assert!(rejected[0].reasons[0].contains("ingres"), "{rejected:?}");

    let (changed, _) = repository.update(&only(object("1", "alliance", true)));
    assert!(changed);
    assert!(repository.rejected().is_empty());
    assert_ne!(repository.rules(), good);
}

#[test]
fn another_object_of_the_same_name_inherits_nothing() {
    let mut repository = Repository::default();
    repository.update(&only(object("1", "empire", true)));
    let (changed, _) = repository.update(&only(object("2", "empire", false)));
    assert!(changed);
    assert!(repository.rules().is_empty());
    assert!(!repository.rejected()[0].last_good);
}

#[test]
fn a_restart_keeps_the_last_good_version() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = || LastGood::open(dir.path().join("policies")).expect("opened");
    let (disk, saved) = open();
    let mut repository = Repository::new(saved);
    let (_, keep) = repository.update(&only(object("1", "empire", true)));
    for change in &keep {
        disk.keep(change).expect("kept");
    }
    let good = repository.rules();

    let (disk, saved) = open();
    let mut restarted = Repository::new(saved);
    assert!(
        restarted.rules().is_empty(),
        "not before the object is seen"
    );
    restarted.update(&only(object("1", "empire", false)));
    assert_eq!(restarted.rules(), good);

    let (changed, keep) = restarted.update(&BTreeMap::new());
    assert!(changed);
    for change in &keep {
        disk.keep(change).expect("forgotten");
    }
    assert!(open().1.is_empty());
}

#[test]
fn names_of_any_length_are_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = || LastGood::open(dir.path().join("policies")).expect("opened");
    let (disk, saved) = open();
    let mut repository = Repository::new(saved);
    // Alike but for their ends; Kubernetes allows 253 bytes.
    let names = ["a", "b"].map(|end| format!("{}{end}", "x".repeat(252)));
    let named = |name: &String| PolicyObject {
        key: ObjectKey::new("default", name),
        ..object("1", "empire", true)
    };
    let objects: BTreeMap<_, _> = names.iter().flat_map(|name| only(named(name))).collect();
    let (_, keep) = repository.update(&objects);
    assert_eq!(keep.len(), 2);
    for change in &keep {
        disk.keep(change).expect("kept");
    }
    assert_eq!(open().1.len(), 2, "each has a file of its own");
    let (_, keep) = repository.update(&BTreeMap::new());
    for change in &keep {
        disk.keep(change).expect("forgotten");
    }
    assert!(open().1.is_empty());
}

#[test]
fn the_same_object_again_changes_nothing() {
    let mut repository = Repository::default();
    repository.update(&only(object("1", "empire", true)));
    let (changed, keep) = repository.update(&only(object("1", "empire", true)));
    assert!(!changed && keep.is_empty());
}
