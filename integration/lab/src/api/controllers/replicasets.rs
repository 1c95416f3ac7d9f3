//! ReplicaSets: as many pods as wanted.

use std::cmp::Reverse;

use serde_json::{Value, json};

use super::{pods, set_status};
use crate::api::object;
use crate::api::resource::REPLICA_SETS;
use crate::api::store::Store;

/// One round over all ReplicaSets.
pub(super) fn reconcile(store: &Store) {
    let (sets, _) = store.list_objects(&REPLICA_SETS, None);
    for set in sets.iter().filter(|s| !object::is_deleting(s)) {
        one(store, set);
    }
}

fn one(store: &Store, set: &Value) {
    let mut found = pods::active(store, set);
    let wanted = usize::try_from(object::number(set, "/spec/replicas")).unwrap_or(0);
    for _ in found.len()..wanted {
        pods::create(store, set, None, "");
    }
    // The ones that serve, and have for longest, stay.
    found.sort_by_key(|pod| {
        let bound = !object::text(pod, "/spec/nodeName").is_empty();
        let made = object::meta(pod, "creationTimestamp").to_owned();
        (Reverse((pods::is_ready(pod), bound)), made)
    });
    for pod in found.iter().skip(wanted) {
        pods::delete(store, set, pod);
    }
    let found = pods::active(store, set);
    let ready = found.iter().filter(|p| pods::is_ready(p)).count();
    let mut status = json!({
        "replicas": found.len(),
        "observedGeneration": object::number(set, "/metadata/generation"),
    });
    if !found.is_empty() {
        status["fullyLabeledReplicas"] = json!(found.len());
    }
    if ready > 0 {
        status["readyReplicas"] = json!(ready);
        status["availableReplicas"] = json!(ready);
    }
    set_status(store, &REPLICA_SETS, set, status);
}
