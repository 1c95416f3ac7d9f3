use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::api::resource::{
    DEPLOYMENTS, ENDPOINT_SLICES, NAMESPACES, NODES, PODS, REPLICA_SETS, SERVICES,
};
use crate::api::store::DeleteOptions;

const DAEMON_SETS: ResourceId = crate::api::resource::DAEMON_SETS;

/// A store with two ready nodes.
fn cluster() -> Store {
    let store = Store::new();
    for name in ["n1", "n2"] {
        let node = json!({
            "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] },
        });
        create(&store, &NODES, "", node);
    }
    store
}

fn create(store: &Store, id: &ResourceId, namespace: &str, object: Value) {
    store.create_object(id, namespace, object).expect("created");
}

fn deployment(replicas: u64, image: &str) -> Value {
    json!({
        "metadata": { "name": "web" },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "c", "image": image, "ports": [{ "name": "http", "containerPort": 8080 }] }] },
            },
        },
    })
}

fn pods(store: &Store) -> Vec<Arc<Value>> {
    store.list_objects(&PODS, Some("default")).0
}

/// Says that these pods serve, as a kubelet would.
fn serve(store: &Store, pods: &[Arc<Value>]) {
    for (i, pod) in pods.iter().enumerate() {
        let status = json!({
            "phase": "Running", "podIP": format!("10.244.1.{i}"),
            "conditions": [{ "type": "Ready", "status": "True" }],
        });
        set_status(store, &PODS, pod, status);
    }
}

fn stop_leaving(store: &Store) {
    for pod in pods(store).iter().filter(|p| object::is_deleting(p)) {
        store.remove_object(&PODS, "default", object::name(pod), "");
    }
}

#[test]
fn a_deployment_becomes_pods_on_both_nodes() {
    let store = cluster();
    create(&store, &DEPLOYMENTS, "default", deployment(4, "a:1"));
    settle(&store);
    let found = pods(&store);
    assert_eq!(found.len(), 4);
    let on = |node: &str| {
        found
            .iter()
            .filter(|p| p["spec"]["nodeName"] == node)
            .count()
    };
    assert_eq!((on("n1"), on("n2")), (2, 2));
    let (sets, _) = store.list_objects(&REPLICA_SETS, Some("default"));
    let hash = object::label(&sets[0], "pod-template-hash").expect("a hash");
    assert_eq!(object::name(&sets[0]), format!("web-{hash}"));
    let name = object::name(&found[0]);
    let suffix = name
        .strip_prefix(&format!("web-{hash}-"))
        .expect("the set's name first");
    assert_eq!(suffix.len(), 5);
    serve(&store, &found);
    settle(&store);
    let deployment = store
        .get_object(&DEPLOYMENTS, "default", "web")
        .expect("there");
    assert_eq!(deployment["status"]["availableReplicas"], 4);
    assert!(object::has_condition(&deployment, "Available"));
    // At rest nothing is written.
    let revision = store.revision();
    settle(&store);
    assert_eq!(store.revision(), revision);
}

#[test]
fn a_new_image_rolls_without_ever_falling_below_what_must_serve() {
    let store = cluster();
    create(&store, &DEPLOYMENTS, "default", deployment(4, "a:1"));
    settle(&store);
    serve(&store, &pods(&store));
    settle(&store);
    store
        .update_object(&DEPLOYMENTS, "default", "web", Part::Main, |d| {
            let mut d = d.clone();
            d["spec"]["template"]["spec"]["containers"][0]["image"] = json!("a:2");
            Ok(d)
        })
        .expect("updated");
    let mut rounds = 0;
    loop {
        settle(&store);
        stop_leaving(&store);
        let found = pods(&store);
        let ready = found
            .iter()
            .filter(|p| object::has_condition(p, "Ready"))
            .count();
        assert!(
            ready >= 3 && found.len() <= 5,
            "{ready} of {} serve",
            found.len()
        );
        let new: Vec<_> = found
            .iter()
            .filter(|p| {
                p["spec"]["containers"][0]["image"] == "a:2" && !object::has_condition(p, "Ready")
            })
            .take(1)
            .cloned()
            .collect();
        if new.is_empty() {
            break;
        }
        serve(&store, &new);
        rounds += 1;
        assert!(rounds < 20, "the rollout does not end");
    }
    let found = pods(&store);
    assert_eq!(found.len(), 4);
    assert!(
        found
            .iter()
            .all(|p| p["spec"]["containers"][0]["image"] == "a:2")
    );
    let (sets, _) = store.list_objects(&REPLICA_SETS, Some("default"));
    assert_eq!(sets.len(), 2);
}

#[test]
fn owners_take_their_dependents_with_them() {
    let store = cluster();
    create(&store, &DEPLOYMENTS, "default", deployment(2, "a:1"));
    settle(&store);
    let options = DeleteOptions::default();
    store
        .delete_object(&DEPLOYMENTS, "default", "web", &options)
        .expect("deleted");
    settle(&store);
    assert_eq!(store.list_objects(&REPLICA_SETS, None).0.len(), 0);
    // Pods on a node wait for its kubelet.
    assert!(pods(&store).iter().all(|p| object::is_deleting(p)));
    stop_leaving(&store);
    settle(&store);
    assert_eq!(pods(&store).len(), 0);
}

#[test]
fn daemon_sets_have_one_pod_a_node_and_replace_one_at_a_time() {
    let store = cluster();
    let set = json!({
        "metadata": { "name": "agent" },
        "spec": {
            "selector": { "matchLabels": { "app": "agent" } },
            "template": { "metadata": { "labels": { "app": "agent" } }, "spec": { "containers": [{ "name": "c", "image": "a:1" }] } },
        },
    });
    create(&store, &DAEMON_SETS, "default", set);
    settle(&store);
    let found = pods(&store);
    let mut nodes: Vec<&str> = found
        .iter()
        .map(|p| object::text(p, "/spec/nodeName"))
        .collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["n1", "n2"]);
    serve(&store, &found);
    settle(&store);
    store
        .update_object(&DAEMON_SETS, "default", "agent", Part::Main, |s| {
            let mut s = s.clone();
            s["spec"]["template"]["metadata"]["annotations"] = json!({ "restartedAt": "now" });
            Ok(s)
        })
        .expect("updated");
    settle(&store);
    let leaving = pods(&store)
        .iter()
        .filter(|p| object::is_deleting(p))
        .count();
    assert_eq!(leaving, 1);
    stop_leaving(&store);
    settle(&store);
    // The second waits until the first's successor serves.
    assert_eq!(
        pods(&store)
            .iter()
            .filter(|p| object::is_deleting(p))
            .count(),
        0
    );
    serve(&store, &pods(&store));
    settle(&store);
    assert_eq!(
        pods(&store)
            .iter()
            .filter(|p| object::is_deleting(p))
            .count(),
        1
    );
}

#[test]
fn endpoints_follow_pods_and_their_port_names() {
    let store = cluster();
    let service = json!({
        "metadata": { "name": "web", "labels": { "x": "y" } },
        "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": "http" }] },
    });
    create(&store, &SERVICES, "default", service);
    create(&store, &DEPLOYMENTS, "default", deployment(2, "a:1"));
    settle(&store);
    let slices = || store.list_objects(&ENDPOINT_SLICES, Some("default")).0;
    assert_eq!(slices().len(), 0);
    let found = pods(&store);
    serve(&store, &found[..1]);
    settle(&store);
    let slice = &slices()[0];
    assert_eq!(
        object::label(slice, "kubernetes.io/service-name"),
        Some("web")
    );
    assert_eq!(slice["ports"][0]["port"], 8080);
    let endpoint = &slice["endpoints"][0];
    assert_eq!(endpoint["addresses"], json!(["10.244.1.0"]));
    assert_eq!(endpoint["conditions"]["ready"], true);
    assert_eq!(endpoint["targetRef"]["name"], object::name(&found[0]));
    let options = DeleteOptions::default();
    store
        .delete_object(&PODS, "default", object::name(&found[0]), &options)
        .expect("deleted");
    settle(&store);
    let conditions = &slices()[0]["endpoints"][0]["conditions"];
    assert_eq!(
        *conditions,
        json!({"ready": false, "serving": true, "terminating": true})
    );
    stop_leaving(&store);
    store
        .delete_object(&SERVICES, "default", "web", &options)
        .expect("deleted");
    settle(&store);
    assert_eq!(slices().len(), 0);
}

#[test]
fn namespaces_end_when_they_are_empty() {
    let store = cluster();
    create(
        &store,
        &NAMESPACES,
        "",
        json!({ "metadata": { "name": "tmp" } }),
    );
    settle(&store);
    assert!(
        store
            .get_object(&crate::api::resource::SERVICE_ACCOUNTS, "tmp", "default")
            .is_ok()
    );
    let pod = json!({ "metadata": { "name": "p" }, "spec": { "containers": [{ "name": "c", "image": "a" }] } });
    create(&store, &PODS, "tmp", pod.clone());
    settle(&store);
    store
        .delete_object(&NAMESPACES, "", "tmp", &DeleteOptions::default())
        .expect("deleted");
    settle(&store);
    let space = store
        .get_object(&NAMESPACES, "", "tmp")
        .expect("still there");
    assert_eq!(space["status"]["phase"], "Terminating");
    let refused = store
        .create_object(&PODS, "tmp", pod)
        .expect_err("too late");
    assert_eq!(refused.code, 403);
    store.remove_object(&PODS, "tmp", "p", "");
    settle(&store);
    assert!(store.get_object(&NAMESPACES, "", "tmp").is_err());
}

#[test]
fn the_scheduler_honours_affinity_and_says_when_it_cannot() {
    let store = cluster();
    let pod = |name: &str, affinity: Value, selector: Value| {
        json!({
            "metadata": { "name": name, "labels": { "name": name } },
            "spec": { "nodeSelector": selector, "affinity": affinity, "containers": [{ "name": "c", "image": "a" }] },
        })
    };
    let near = |what: &str, kind: &str| {
        json!({ kind: { "requiredDuringSchedulingIgnoredDuringExecution": [
            { "labelSelector": { "matchLabels": { "name": what } }, "topologyKey": "kubernetes.io/hostname" }] } })
    };
    let on = |name: &str| {
        let pod = store.get_object(&PODS, "default", name).expect("there");
        object::text(&pod, "/spec/nodeName").to_owned()
    };
    create(
        &store,
        &PODS,
        "default",
        pod(
            "client",
            Value::Null,
            json!({ "kubernetes.io/hostname": "n2" }),
        ),
    );
    settle(&store);
    create(
        &store,
        &PODS,
        "default",
        pod("same", near("client", "podAffinity"), Value::Null),
    );
    create(
        &store,
        &PODS,
        "default",
        pod("other", near("client", "podAntiAffinity"), Value::Null),
    );
    create(
        &store,
        &PODS,
        "default",
        pod("nowhere", Value::Null, json!({ "a": "b" })),
    );
    settle(&store);
    assert_eq!(
        (on("client"), on("same"), on("other")),
        ("n2".into(), "n2".into(), "n1".into())
    );
    assert_eq!(on("nowhere"), "");
    let stuck = store
        .get_object(&PODS, "default", "nowhere")
        .expect("there");
    assert_eq!(stuck["status"]["conditions"][0]["reason"], "Unschedulable");
}
