use serde_json::json;
use weft_api::k8s::filter::Location;

use super::*;
use crate::filter::ResolvedFilter;
use crate::plan::filters::testing::pods;
use crate::plan::filters::{Attached, attach};
use crate::state::ClusterState;

const KIND: FilterKind = FilterKind::WeftFilter;

struct Rig {
    objects: Objects,
    dir: tempfile::TempDir,
    /// Modules by the names of their files.
    modules: BTreeMap<&'static str, u8>,
    /// What is wrong with those that are there.
    trouble: Option<&'static str>,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self {
            objects: opened(&dir),
            dir,
            modules: BTreeMap::new(),
            trouble: None,
        }
    }

    fn restart(&mut self) {
        self.objects = opened(&self.dir);
    }

    fn see(&mut self, object: PolicyObject) {
        self.objects.apply(KIND, Delta::Apply(object));
    }

    fn in_force(&mut self) -> Vec<InForce> {
        let (modules, trouble) = (&self.modules, self.trouble);
        self.objects.in_force(|source| match &source.location {
            Location::File(name) => match modules.get(&**name) {
                Some(byte) => (Some(ModuleDigest([*byte; 32])), trouble),
                None => (None, Some("no such file")),
            },
            other => panic!("{other:?}"),
        })
    }

    fn only(&mut self) -> InForce {
        let mut all = self.in_force();
        assert_eq!(all.len(), 1);
        all.remove(0)
    }
}

fn opened(dir: &tempfile::TempDir) -> Objects {
    let (last_good, saved) = LastGood::open(dir.path().join("filters")).expect("opened");
    Objects::new(last_good, saved)
}

fn object(uid: &str, generation: i64, spec: &Value) -> PolicyObject {
    PolicyObject {
        key: ObjectKey::new("shop", "jwt"),
        uid: uid.into(),
        generation,
        raw: json!({
            "kind": "WeftFilter",
            "metadata": {"name": "jwt", "namespace": "shop", "uid": uid, "generation": generation},
            "spec": spec,
        })
        .into(),
    }
}

fn version(generation: i64, file: &str) -> PolicyObject {
    let spec = json!({"selector": {}, "module": {"url": format!("file://{file}")}});
    object("1", generation, &spec)
}

fn broken(uid: &str, generation: i64) -> PolicyObject {
    object(
        uid,
        generation,
        &json!({"selector": {}, "phase": "later", "module": {"url": "file://a"}}),
    )
}

fn digest(byte: u8) -> Option<ModuleDigest> {
    Some(ModuleDigest([byte; 32]))
}

#[test]
fn a_filter_without_a_module_is_in_force_and_says_why() {
    let mut rig = Rig::new();
    rig.see(version(1, "a"));
    let one = rig.only();
    assert_eq!(one.filter.spec.module, None);
    assert_eq!(one.problem.as_deref(), Some("no such file"));
    assert_eq!(one.filter.spec.problem.as_deref(), Some("no such file"));
    assert_eq!(one.filter.attachments.len(), 1);
    rig.modules.insert("a", 1);
    let one = rig.only();
    assert_eq!((one.filter.spec.module, one.problem), (digest(1), None));
}

#[test]
fn a_source_that_cannot_be_looked_at_again_changes_nothing_in_force() {
    let mut rig = Rig::new();
    rig.modules.insert("a", 1);
    rig.see(version(1, "a"));
    let sound = rig.only();
    rig.trouble = Some("gone");
    let told = rig.only();
    assert_eq!(told.filter, sound.filter);
    assert_eq!(
        (told.problem, told.warning.as_deref()),
        (None, Some("gone"))
    );
}

#[test]
fn a_version_comes_in_force_with_its_module() {
    let mut rig = Rig::new();
    rig.modules.insert("a", 1);
    rig.see(version(1, "a"));
    let first = rig.only();
    rig.see(version(2, "b"));
    let still = rig.only();
    assert_eq!(still.generation, 1);
    assert_eq!(still.filter.spec.module, digest(1));
    assert_eq!(still.problem.as_deref(), Some("no such file"));
    // Both are wanted meanwhile.
    let wanted = rig.objects.sources(&BTreeSet::from([first.key.clone()]));
    assert_eq!(wanted.len(), 2);
    assert!(wanted.values().all(|one| one.needed));
    let elsewhere = rig.objects.sources(&BTreeSet::new());
    assert!(elsewhere.values().all(|one| !one.needed));

    rig.modules.insert("b", 2);
    let second = rig.only();
    assert_eq!(
        (second.generation, second.filter.spec.module),
        (2, digest(2))
    );
    assert_eq!(second.problem, None);
    assert_eq!(rig.objects.sources(&BTreeSet::new()).len(), 1);
}

/// A version for the pods of an application, whose namespace is that of the pods
/// of tests.
fn version_for(generation: i64, file: &str, app: &Value) -> PolicyObject {
    let url = format!("file://{file}");
    let labels = json!({"matchLabels": app});
    let spec = json!({"selector": labels, "module": {"url": url}});
    let mut object = object("1", generation, &spec);
    object.key = ObjectKey::new("default", "jwt");
    let mut raw = Value::clone(&object.raw);
    raw["metadata"]["namespace"] = json!("default");
    object.raw = raw.into();
    object
}

impl Rig {
    /// What is in force comes to this on a pod of each of these applications.
    fn attached(&mut self, apps: &[&str]) -> Attached {
        let filters: Vec<ResolvedFilter> =
            self.in_force().into_iter().map(|one| one.filter).collect();
        attach(&filters, &pods(apps), &ClusterState::default())
    }
}

#[test]
fn a_version_with_another_selector_is_fetched_and_nobody_passes_it_by_meanwhile() {
    let mut rig = Rig::new();
    rig.modules.insert("a", 1);
    rig.see(version_for(1, "a", &json!({"app": "absent"})));
    let before = rig.attached(&["web", "shop"]);
    assert!(before.keys().is_empty(), "it selects no pod of the node");

    rig.see(version_for(2, "b", &json!({"app": "web"})));
    let meanwhile = rig.attached(&["web", "shop"]);
    assert_eq!(meanwhile.chains.keys().collect::<Vec<_>>(), [&1]);
    let [chain] = &meanwhile.chains[&1][..] else {
        panic!("{meanwhile:?}")
    };
    let [step] = &*chain.steps else {
        panic!("{chain:?}")
    };
    assert!(step.fails_closed());
    assert_eq!(step.filter.module, None);
    assert_eq!(step.filter.problem.as_deref(), Some("no such file"));
    // It is fetched under its own name.
    let needed = meanwhile.keys();
    let names: Vec<_> = needed.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["WeftFilter default/jwt"]);
    let wanted = rig.objects.sources(&needed);
    assert!(wanted.len() == 2 && wanted.values().all(|one| one.needed));

    rig.modules.insert("b", 2);
    let after = rig.attached(&["web", "shop"]);
    let step = &after.chains[&1][0].steps[0];
    assert_eq!(step.filter.module, digest(2));
    assert_eq!(step.filter.key, rig.only().key);
}

#[test]
fn a_version_in_force_serves_those_that_it_selects_and_no_others() {
    let mut rig = Rig::new();
    rig.modules.insert("a", 1);
    rig.see(version_for(1, "a", &json!({"app": "web"})));
    rig.attached(&[]);
    rig.see(version_for(2, "b", &json!({})));
    let meanwhile = rig.attached(&["web", "shop"]);
    let met = |pod| {
        let steps = meanwhile.chains[&pod].iter();
        let steps = steps.flat_map(|chain| chain.steps.iter());
        let steps = steps.map(|step| (&*step.filter.key.name, step.filter.module));
        steps.collect::<Vec<_>>()
    };
    assert_eq!(met(1), [("jwt", digest(1))]);
    assert_eq!(met(2), [("jwt@2", None)]);
    assert_eq!(meanwhile.keys().len(), 1);
}

#[test]
fn a_refused_version_leaves_the_one_before_it_also_after_a_restart() {
    let mut rig = Rig::new();
    rig.modules.insert("a", 1);
    rig.see(version(1, "a"));
    let good = rig.only();
    rig.see(broken("1", 2));
    let still = rig.only();
    assert_eq!(still.filter.attachments, good.filter.attachments);
    assert_eq!((still.generation, still.filter.spec.module), (1, digest(1)));
    let problem = still.problem.expect("the newest is refused");
    assert!(problem.contains("spec.phase"), "{problem}");

    rig.restart();
    assert!(rig.in_force().is_empty(), "not before the object is seen");
    rig.see(broken("1", 2));
    assert_eq!(rig.only().generation, 1);
    // Another object of the same name inherits nothing.
    rig.see(broken("2", 1));
    assert!(rig.in_force().is_empty());
}

#[test]
fn what_is_gone_is_forgotten_on_disk_too() {
    let mut rig = Rig::new();
    rig.modules.insert("a", 1);
    rig.see(version(1, "a"));
    rig.only();
    rig.restart();
    assert!(!rig.objects.complete());
    for kind in FilterKind::ALL {
        rig.objects.apply(kind, Delta::Replace(Vec::new()));
    }
    assert!(rig.objects.complete());
    assert!(rig.in_force().is_empty());
    rig.restart();
    rig.see(broken("1", 2));
    assert!(rig.in_force().is_empty());
    rig.see(version(3, "a"));
    rig.only();
    rig.objects
        .apply(KIND, Delta::Delete(ObjectKey::new("shop", "jwt")));
    assert!(rig.in_force().is_empty());
    rig.restart();
    rig.see(broken("1", 4));
    assert!(rig.in_force().is_empty());
}
