use serde_json::json;

use super::state::HISTORY;
use super::*;
use crate::api::resource::{CRDS, PODS, SERVICES};

const CONFIG_MAPS: ResourceId = ResourceId::of("", "configmaps");

fn map(name: &str, value: &str) -> Value {
    json!({ "metadata": { "name": name }, "data": { "k": value } })
}

fn set(store: &Store, name: &str, value: &str) -> Result<Arc<Value>, ApiError> {
    store.update_object(&CONFIG_MAPS, "default", name, Part::Main, |current| {
        let mut updated = current.clone();
        updated["data"]["k"] = json!(value);
        Ok(updated)
    })
}

#[test]
fn versions_move_only_with_content() {
    let store = Store::new();
    let made = store
        .create_object(&CONFIG_MAPS, "default", map("a", "1"))
        .expect("new");
    let before = store.revision();
    let same = set(&store, "a", "1").expect("no change");
    assert_eq!((store.revision(), &same), (before, &made));
    let changed = set(&store, "a", "2").expect("a change");
    assert_eq!(
        object::meta(&changed, "resourceVersion"),
        store.revision().to_string()
    );
    assert_eq!(object::uid(&changed), object::uid(&made));

    // Whoever read the old version must read again.
    let stale = store.update_object(&CONFIG_MAPS, "default", "a", Part::Main, |_| {
        Ok(made.as_ref().clone())
    });
    assert_eq!(stale.expect_err("stale").reason, "Conflict");
    let twice = store.create_object(&CONFIG_MAPS, "default", map("a", "1"));
    assert!(twice.expect_err("there already").is_already_exists());
    assert!(set(&store, "b", "1").expect_err("not there").is_not_found());
    let nowhere = store.create_object(&CONFIG_MAPS, "nowhere", map("a", "1"));
    assert_eq!(
        nowhere.expect_err("no namespace").message,
        "namespaces \"nowhere\" not found"
    );
}

#[test]
fn history_tells_every_change_until_it_forgets() {
    let store = Store::new();
    let start = store.revision();
    store
        .create_object(&CONFIG_MAPS, "default", map("a", "0"))
        .expect("new");
    set(&store, "a", "1").expect("changed");
    store
        .delete_object(&CONFIG_MAPS, "default", "a", &DeleteOptions::default())
        .expect("gone");
    let (changes, reached) = store.changes_since(&CONFIG_MAPS, start).expect("known");
    let kinds: Vec<ChangeKind> = changes.iter().map(|c| c.change).collect();
    assert_eq!(
        kinds,
        [ChangeKind::Added, ChangeKind::Modified, ChangeKind::Deleted]
    );
    assert_eq!(reached, store.revision());
    assert!(changes.windows(2).all(|w| w[0].revision < w[1].revision));

    store
        .create_object(&CONFIG_MAPS, "default", map("b", "0"))
        .expect("new");
    for i in 1..=HISTORY {
        set(&store, "b", &i.to_string()).expect("changed");
    }
    let gone = store
        .changes_since(&CONFIG_MAPS, start)
        .expect_err("forgotten");
    assert_eq!((gone.code, &*gone.reason), (410, "Expired"));
    assert!(store.changed_since(start).0.is_none());
}

#[tokio::test]
async fn a_watch_that_fell_behind_reports_the_difference() {
    use k8s_openapi::api::core::v1::ConfigMap;

    use crate::api::typed::Change;

    let store = Store::new();
    for name in ["gone", "kept"] {
        store
            .create_object(&CONFIG_MAPS, "default", map(name, "0"))
            .expect("new");
    }
    let mut watch = store.watch::<ConfigMap>();
    let name = |change: &Change<ConfigMap>| match change {
        Change::Applied(map) | Change::Deleted(map) => {
            map.metadata.name.clone().unwrap_or_default()
        }
    };
    assert_eq!(name(&watch.next().await), "gone");
    assert_eq!(name(&watch.next().await), "kept");
    store
        .delete_object(&CONFIG_MAPS, "default", "gone", &DeleteOptions::default())
        .expect("gone");
    for i in 1..=HISTORY {
        set(&store, "kept", &i.to_string()).expect("changed");
    }
    let first = watch.next().await;
    assert!(matches!(&first, Change::Deleted(_)) && name(&first) == "gone");
    let Change::Applied(kept) = watch.next().await else {
        panic!("the other one is still there");
    };
    assert_eq!(kept.data.unwrap_or_default()["k"], HISTORY.to_string());
}

#[test]
fn deletion_waits_for_finalizers_and_kubelets() {
    let store = Store::new();
    let mut held = map("a", "0");
    held["metadata"]["finalizers"] = json!(["weft.dev/x"]);
    store
        .create_object(&CONFIG_MAPS, "default", held)
        .expect("new");
    let options = DeleteOptions::default();
    let outcome = store
        .delete_object(&CONFIG_MAPS, "default", "a", &options)
        .expect("marked");
    assert!(matches!(outcome, Deleted::Marked(_)));
    store
        .update_object(&CONFIG_MAPS, "default", "a", Part::Main, |current| {
            let mut updated = current.clone();
            updated["metadata"]["finalizers"] = json!([]);
            Ok(updated)
        })
        .expect("released");
    assert!(store.get_object(&CONFIG_MAPS, "default", "a").is_err());

    let pod = |node: &str| json!({ "metadata": { "name": "p" }, "spec": { "nodeName": node, "containers": [{ "name": "c", "image": "i" }] } });
    store
        .create_object(&PODS, "default", pod("n"))
        .expect("new");
    let Deleted::Marked(marked) = store
        .delete_object(&PODS, "default", "p", &options)
        .expect("marked")
    else {
        panic!("a kubelet has it");
    };
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    store.remove_object(&PODS, "default", "p", "another uid");
    assert!(store.get_object(&PODS, "default", "p").is_ok());
    let now = DeleteOptions {
        grace: Some(0),
        ..DeleteOptions::default()
    };
    assert!(matches!(
        store.delete_object(&PODS, "default", "p", &now),
        Ok(Deleted::Gone(_))
    ));
    store.create_object(&PODS, "default", pod("")).expect("new");
    assert!(matches!(
        store.delete_object(&PODS, "default", "p", &options),
        Ok(Deleted::Gone(_))
    ));
}

#[test]
fn services_get_addresses_and_keep_them() {
    let store = Store::new();
    let service = |name: &str, ip: Value| json!({ "metadata": { "name": name }, "spec": { "clusterIP": ip, "ports": [{ "port": 80 }] } });
    let make = |name: &str, ip: Value| store.create_object(&SERVICES, "default", service(name, ip));
    let a = make("a", Value::Null).expect("new");
    let address = object::text(&a, "/spec/clusterIP").to_owned();
    assert!(address.starts_with("10.96."));
    assert_eq!(
        make("b", json!("None")).expect("headless")["spec"]["clusterIP"],
        "None"
    );
    assert_eq!(
        make("c", json!("10.96.0.10")).expect("asked for")["spec"]["clusterIP"],
        "10.96.0.10"
    );
    assert_eq!(make("d", json!("10.96.0.10")).expect_err("taken").code, 422);
    assert_eq!(make("e", json!("10.0.0.1")).expect_err("outside").code, 422);
    // A manifest that says nothing of the address does not lose it.
    let again = store
        .update_object(&SERVICES, "default", "a", Part::Main, |_| {
            let mut again = service("a", Value::Null);
            again["spec"]["ports"][0]["port"] = json!(81);
            Ok(again)
        })
        .expect("updated");
    assert_eq!(again["spec"]["clusterIP"], address);
}

#[test]
fn definitions_are_served_at_once_and_keep_what_they_do_not_know() {
    let store = Store::new();
    let widgets = ResourceId::of("weft.dev", "widgets");
    let schema = json!({ "type": "object", "properties": { "spec": { "type": "object", "required": ["size"],
        "properties": { "size": { "type": "integer", "minimum": 1 }, "kind": { "type": "string", "enum": ["a", "b"] } } } } });
    let definition = json!({
        "metadata": { "name": "widgets.weft.dev" },
        "spec": { "group": "weft.dev", "scope": "Namespaced", "names": { "plural": "widgets", "kind": "Widget" },
            "versions": [{ "name": "v1", "served": true, "storage": true, "subresources": { "status": {} }, "schema": { "openAPIV3Schema": schema } }] },
    });
    let made = store.create_object(&CRDS, "", definition).expect("new");
    assert!(object::has_condition(&made, "Established"));
    let make = |spec: Value| {
        let widget = json!({ "metadata": { "name": "w" }, "spec": spec });
        store.create_object(&widgets, "default", widget)
    };
    let spec = json!({ "z": { "y": [1, { "x": null }] }, "size": 3, "a": "first", "kind": "b" });
    let kept = make(spec.clone()).expect("valid");
    assert_eq!(kept["spec"].to_string(), spec.to_string());
    for (bad, field) in [
        (json!({ "size": "3" }), "spec.size"),
        (json!({ "size": 0 }), "spec.size"),
        (json!({ "size": 1, "kind": "c" }), "spec.kind"),
        (json!({}), "spec.size"),
    ] {
        let error = make(bad).expect_err(field);
        assert_eq!(
            (error.code, &error.details["causes"][0]["field"]),
            (422, &json!(field))
        );
    }
    let status = store
        .update_object(&widgets, "default", "w", Part::Status, |current| {
            let mut updated = current.clone();
            updated["status"] = json!({ "ok": true });
            updated["spec"]["size"] = json!(9);
            Ok(updated)
        })
        .expect("a status");
    assert_eq!(
        (&status["spec"]["size"], &status["status"]["ok"]),
        (&json!(3), &json!(true))
    );
    assert_eq!(status["metadata"]["generation"], 1);
    store
        .delete_object(&CRDS, "", "widgets.weft.dev", &DeleteOptions::default())
        .expect("gone");
    assert!(store.get_object(&widgets, "default", "w").is_err());
    assert!(store.resource(&widgets).is_err());
}

#[test]
fn what_a_custom_object_leaves_out_is_filled_in() {
    let store = Store::new();
    let text = json!({ "type": "string", "default": "blue" });
    let item = json!({ "type": "object", "properties": { "colour": text } });
    let spec = json!({ "type": "object", "properties": {
        "colour": text,
        "ships": { "type": "array", "items": item },
        "fleet": { "type": "object", "properties": { "colour": text } },
    } });
    let schema = json!({ "type": "object", "properties": { "spec": spec } });
    let definition = json!({
        "metadata": { "name": "fleets.example.com" },
        "spec": {
            "group": "example.com",
            "scope": "Namespaced",
            "names": { "kind": "Fleet", "plural": "fleets" },
            "versions": [{ "name": "v1", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": schema } }],
        },
    });
    store.create_object(&CRDS, "", definition).expect("defined");
    let fleets = ResourceId::of("example.com", "fleets");
    let object = json!({
        "metadata": { "name": "a" },
        "spec": { "colour": null, "ships": [{}, { "colour": "red" }] },
    });
    let made = store
        .create_object(&fleets, "default", object)
        .expect("made");
    let filled = json!({
        "colour": "blue",
        "ships": [{ "colour": "blue" }, { "colour": "red" }],
    });
    assert_eq!(made["spec"], filled);
    let update = |current: &Value| {
        let mut updated = current.clone();
        updated["spec"] = json!({ "fleet": {} });
        Ok(updated)
    };
    let updated = store
        .update_object(&fleets, "default", "a", Part::Main, update)
        .expect("updated");
    let filled = json!({ "fleet": { "colour": "blue" }, "colour": "blue" });
    assert_eq!(updated["spec"], filled);
}
