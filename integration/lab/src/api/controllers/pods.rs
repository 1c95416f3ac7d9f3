//! What the workload controllers know about pods.

use std::sync::Arc;

use serde_json::{Value, json};

use super::note;
use crate::api::object;
use crate::api::resource::PODS;
use crate::api::store::{DeleteOptions, Store};

/// The pods that `owner` controls and that are not finished or on their way out.
pub(super) fn active(store: &Store, owner: &Value) -> Vec<Arc<Value>> {
    let (mut pods, _) = store.list_objects(&PODS, Some(object::namespace(owner)));
    pods.retain(|pod| {
        let done = matches!(object::text(pod, "/status/phase"), "Succeeded" | "Failed");
        object::is_controlled_by(pod, object::uid(owner)) && !object::is_deleting(pod) && !done
    });
    pods
}

/// True when the pod serves.
pub(super) fn is_ready(pod: &Value) -> bool {
    object::has_condition(pod, "Ready")
}

/// Makes a pod from the owner's template. `node` binds it at once.
pub(super) fn create(store: &Store, owner: &Value, extra_label: Option<(&str, &str)>, node: &str) {
    let template = &owner["spec"]["template"];
    let mut metadata = json!({
        "generateName": format!("{}-", object::name(owner)),
        "labels": template["metadata"]["labels"],
        "ownerReferences": [object::owner_reference(owner)],
    });
    if template["metadata"]["annotations"].is_object() {
        metadata["annotations"] = template["metadata"]["annotations"].clone();
    }
    if let Some((key, value)) = extra_label {
        object::child(&mut metadata, "labels").insert(key.to_owned(), json!(value));
    }
    let mut pod = json!({ "metadata": metadata, "spec": template["spec"] });
    if !node.is_empty() {
        pod["spec"]["nodeName"] = json!(node);
    }
    let created = store.create_object(&PODS, object::namespace(owner), pod);
    let source = source(owner);
    if let Some(pod) = note("cannot create a pod for", owner, created) {
        let message = format!("Created pod: {}", object::name(&pod));
        store.event(owner, "Normal", "SuccessfulCreate", &message, source);
    }
}

/// Deletes a pod of `owner`.
pub(super) fn delete(store: &Store, owner: &Value, pod: &Value) {
    let options = DeleteOptions::default();
    let (namespace, name) = (object::namespace(pod), object::name(pod));
    let deleted = store.delete_object(&PODS, namespace, name, &options);
    if note("cannot delete", pod, deleted).is_some() {
        let message = format!("Deleted pod: {name}");
        store.event(owner, "Normal", "SuccessfulDelete", &message, source(owner));
    }
}

fn source(owner: &Value) -> &'static str {
    if owner["kind"] == "DaemonSet" {
        "daemonset-controller"
    } else {
        "replicaset-controller"
    }
}
