//! The scheduler: a node for every pod, spread over the nodes that fit.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{condition, update};
use crate::api::object;
use crate::api::resource::{NODES, PODS};
use crate::api::selector::LabelSelector;
use crate::api::store::{Part, Store};

const HOSTNAME: &str = "kubernetes.io/hostname";

/// One round over all pods without a node.
pub(super) fn reconcile(store: &Store) {
    let (pods, _) = store.list_objects(&PODS, None);
    let waiting =
        |p: &&Arc<Value>| object::text(p, "/spec/nodeName").is_empty() && !object::is_deleting(p);
    for pod in pods.iter().filter(waiting) {
        place(store, pod);
    }
}

fn place(store: &Store, pod: &Value) {
    let (nodes, _) = store.list_objects(&NODES, None);
    let (others, _) = store.list_objects(&PODS, None);
    let fitting = nodes.iter().filter(|node| {
        let open = object::has_condition(node, "Ready") && node["spec"]["unschedulable"] != true;
        open && selects(&pod["spec"], node) && neighbours_fit(pod, node, &nodes, &others)
    });
    let owner = object::controller_of(pod).map_or(&Value::Null, |o| &o["uid"]);
    let best = fitting.min_by_key(|node| {
        let here = || {
            others
                .iter()
                .filter(|p| p["spec"]["nodeName"] == object::name(node))
        };
        let siblings = here().filter(|p| {
            !owner.is_null() && object::controller_of(p).is_some_and(|o| o["uid"] == *owner)
        });
        // Pods on the node's own network are part of it, not load.
        let pods = here().filter(|p| p["spec"]["hostNetwork"] != true);
        (siblings.count(), pods.count())
    });
    match best {
        Some(node) => bind(store, pod, object::name(node)),
        None => refuse(store, pod, nodes.len()),
    }
}

fn bind(store: &Store, pod: &Value, node: &str) {
    update(store, &PODS, pod, Part::Whole, |p| {
        p["spec"]["nodeName"] = json!(node);
        let scheduled = condition(&[], "PodScheduled", true, "", "");
        set_condition(p, scheduled);
    });
    let message = format!(
        "Successfully assigned {}/{} to {node}",
        object::namespace(pod),
        object::name(pod)
    );
    store.event(pod, "Normal", "Scheduled", &message, "default-scheduler");
}

fn refuse(store: &Store, pod: &Value, nodes: usize) {
    let old = object::list(pod, "/status/conditions");
    let message =
        format!("0/{nodes} nodes are available: none is ready and matches what the pod asks for.");
    let told = old
        .iter()
        .any(|c| c["type"] == "PodScheduled" && c["message"] == message.as_str());
    if told {
        return;
    }
    let refused = condition(old, "PodScheduled", false, "Unschedulable", &message);
    update(store, &PODS, pod, Part::Status, |p| {
        set_condition(p, refused)
    });
    store.event(
        pod,
        "Warning",
        "FailedScheduling",
        &message,
        "default-scheduler",
    );
}

fn set_condition(pod: &mut Value, condition: Value) {
    let mut conditions = object::list(pod, "/status/conditions").to_vec();
    conditions.retain(|c| c["type"] != condition["type"]);
    let mut condition = condition;
    // Pods have no such field, unlike deployments.
    object::child_or_null(&mut condition, "lastUpdateTime").take();
    conditions.push(condition);
    object::child(pod, "status").insert("conditions".to_owned(), json!(conditions));
}

/// True when the pod's node selector and required node affinity choose the node.
pub(super) fn selects(spec: &Value, node: &Value) -> bool {
    let by_map = LabelSelector::from_map(&spec["nodeSelector"]).matches(node);
    let terms =
        "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
    let terms = object::list(spec, terms);
    let by_term = terms.iter().any(|term| {
        let fields = object::list(term, "/matchFields").iter().all(|f| {
            let names = object::list(f, "/values");
            let named = names.iter().any(|v| v == object::name(node));
            f["key"] == "metadata.name" && (f["operator"] == "In") == named
        });
        let labels = json!({ "matchExpressions": term["matchExpressions"] });
        let labels = LabelSelector::from_object(&labels).unwrap_or_default();
        fields && labels.matches(node)
    });
    by_map && (terms.is_empty() || by_term)
}

/// Required affinity and anti-affinity to other pods, in both directions of time: who is
/// there already decides.
fn neighbours_fit(pod: &Value, node: &Value, nodes: &[Arc<Value>], others: &[Arc<Value>]) -> bool {
    let terms = |kind: &str| {
        let path = format!("/spec/affinity/{kind}/requiredDuringSchedulingIgnoredDuringExecution");
        object::list(pod, &path)
    };
    let present = |term: &&Value| {
        let key = match object::text(term, "/topologyKey") {
            "" => HOSTNAME,
            key => key,
        };
        let here = object::label(node, key);
        let selector = LabelSelector::from_object(&term["labelSelector"]).unwrap_or_default();
        let spaces = object::list(term, "/namespaces");
        others.iter().any(|other| {
            let space = object::namespace(other);
            let in_space = if spaces.is_empty() {
                space == object::namespace(pod)
            } else {
                spaces.iter().any(|s| s == space)
            };
            let home = nodes
                .iter()
                .find(|n| other["spec"]["nodeName"] == object::name(n));
            let there = home.and_then(|n| object::label(n, key));
            let same_place = here.is_some() && here == there;
            let itself = object::uid(other) == object::uid(pod);
            in_space && same_place && !itself && selector.matches(other)
        })
    };
    let wanted = terms("podAffinity");
    // The first of a group that wants to be together has nobody to join.
    let alone = |term: &&Value| {
        let selector = LabelSelector::from_object(&term["labelSelector"]).unwrap_or_default();
        let placed = |o: &&Arc<Value>| !object::text(o, "/spec/nodeName").is_empty();
        selector.matches(pod) && !others.iter().filter(placed).any(|o| selector.matches(o))
    };
    wanted.iter().all(|t| present(&t) || alone(&t))
        && !terms("podAntiAffinity").iter().any(|t| present(&t))
}
