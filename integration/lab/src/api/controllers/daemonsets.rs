//! DaemonSets: one pod on every node that fits, replaced node by node when the template
//! changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{pods, scheduler, set_status, share};
use crate::api::object;
use crate::api::resource::{DAEMON_SETS, NODES};
use crate::api::store::Store;

const HASH: &str = "controller-revision-hash";

/// One round over all DaemonSets.
pub(super) fn reconcile(store: &Store) {
    let (sets, _) = store.list_objects(&DAEMON_SETS, None);
    let (nodes, _) = store.list_objects(&NODES, None);
    for set in sets.iter().filter(|s| !object::is_deleting(s)) {
        one(store, set, &nodes);
    }
}

fn one(store: &Store, set: &Value, nodes: &[Arc<Value>]) {
    let hash = object::template_hash(&set["spec"]["template"]);
    let template = &set["spec"]["template"];
    let fitting: Vec<&str> = nodes
        .iter()
        .filter(|n| scheduler::selects(&template["spec"], n))
        .map(|n| object::name(n))
        .collect();
    let mut by_node: BTreeMap<String, Vec<Arc<Value>>> = BTreeMap::new();
    for pod in pods::active(store, set) {
        let node = object::text(&pod, "/spec/nodeName").to_owned();
        by_node.entry(node).or_default().push(pod);
    }
    for (node, found) in &by_node {
        let keep = usize::from(fitting.contains(&node.as_str()));
        for pod in found.iter().skip(keep) {
            pods::delete(store, set, pod);
        }
    }
    // A node whose old pod is still stopping gets the new one only after it.
    let leaving: Vec<String> = leaving(store, set);
    for node in &fitting {
        if !by_node.contains_key(*node) && !leaving.iter().any(|n| n == node) {
            pods::create(store, set, Some((HASH, &hash)), node);
        }
    }
    replace_old(store, set, &hash, fitting.len());
    report(store, set, &hash, fitting.len());
}

fn leaving(store: &Store, set: &Value) -> Vec<String> {
    let (all, _) = store.list_objects(&crate::api::resource::PODS, Some(object::namespace(set)));
    all.iter()
        .filter(|p| object::is_deleting(p) && object::is_controlled_by(p, object::uid(set)))
        .map(|p| object::text(p, "/spec/nodeName").to_owned())
        .collect()
}

fn replace_old(store: &Store, set: &Value, hash: &str, wanted: usize) {
    if set["spec"]["updateStrategy"]["type"] == "OnDelete" {
        return;
    }
    let found = pods::active(store, set);
    let limit = &set["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"];
    let wanted = i64::try_from(wanted).unwrap_or(i64::MAX);
    let limit = share(limit, wanted, true).max(1);
    let ready = found.iter().filter(|p| pods::is_ready(p)).count();
    let mut spare = limit - (wanted - i64::try_from(ready).unwrap_or(0));
    for pod in found
        .iter()
        .filter(|p| object::label(p, HASH) != Some(hash))
    {
        // One that does not serve costs nothing.
        if pods::is_ready(pod) {
            if spare <= 0 {
                continue;
            }
            spare -= 1;
        }
        pods::delete(store, set, pod);
    }
}

fn report(store: &Store, set: &Value, hash: &str, wanted: usize) {
    let found = pods::active(store, set);
    let ready = found.iter().filter(|p| pods::is_ready(p)).count();
    let updated = found
        .iter()
        .filter(|p| object::label(p, HASH) == Some(hash))
        .count();
    let mut status = json!({
        "currentNumberScheduled": found.len(), "desiredNumberScheduled": wanted,
        "numberMisscheduled": 0, "numberReady": ready,
        "observedGeneration": object::number(set, "/metadata/generation"),
    });
    for (field, count) in [
        ("updatedNumberScheduled", updated),
        ("numberAvailable", ready),
        ("numberUnavailable", wanted.saturating_sub(ready)),
    ] {
        if count > 0 {
            status[field] = json!(count);
        }
    }
    set_status(store, &DAEMON_SETS, set, status);
}
