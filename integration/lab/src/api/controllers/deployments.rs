//! Deployments: one ReplicaSet for each version of the template, and rolling from one to
//! the next within `maxSurge` and `maxUnavailable`.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{condition, note, set_status, share, update};
use crate::api::object;
use crate::api::resource::{DEPLOYMENTS, REPLICA_SETS};
use crate::api::store::{DeleteOptions, Part, Store};

const HASH: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";

/// One round over all Deployments.
pub(super) fn reconcile(store: &Store) {
    let (deployments, _) = store.list_objects(&DEPLOYMENTS, None);
    for deployment in deployments.iter().filter(|d| !object::is_deleting(d)) {
        one(store, deployment);
    }
}

fn sets_of(store: &Store, deployment: &Value) -> Vec<Arc<Value>> {
    let (mut sets, _) = store.list_objects(&REPLICA_SETS, Some(object::namespace(deployment)));
    sets.retain(|s| {
        object::is_controlled_by(s, object::uid(deployment)) && !object::is_deleting(s)
    });
    sets.sort_by_key(|s| revision(s));
    sets
}

fn revision(object: &Value) -> u64 {
    let text = object["metadata"]["annotations"][REVISION].as_str();
    text.and_then(|t| t.parse().ok()).unwrap_or(0)
}

fn one(store: &Store, deployment: &Value) {
    let hash = object::template_hash(&deployment["spec"]["template"]);
    let sets = sets_of(store, deployment);
    let current = sets.iter().find(|s| object::label(s, HASH) == Some(&hash));
    let newest = sets.last().map_or(0, |s| revision(s));
    match current {
        None => {
            create_set(store, deployment, &hash, newest + 1);
        }
        // Rolled back to: it becomes the newest again.
        Some(set) if revision(set) < newest => {
            annotate(store, set, newest + 1);
        }
        Some(_) => {}
    }
    let sets = sets_of(store, deployment);
    let (new, old): (Vec<_>, Vec<_>) = sets
        .into_iter()
        .partition(|s| object::label(s, HASH) == Some(&hash));
    let Some(new) = new.first() else { return };
    roll(store, deployment, new, &old);
    forget_old_sets(store, deployment, &old);
    report(store, deployment, &hash);
}

fn create_set(store: &Store, deployment: &Value, hash: &str, revision: u64) {
    let spec = &deployment["spec"];
    let mut template = spec["template"].clone();
    object::child(&mut template["metadata"], "labels").insert(HASH.to_owned(), json!(hash));
    let mut selector = spec["selector"].clone();
    object::child(&mut selector, "matchLabels").insert(HASH.to_owned(), json!(hash));
    let set = json!({
        "metadata": {
            "name": format!("{}-{hash}", object::name(deployment)),
            "labels": template["metadata"]["labels"],
            "annotations": { REVISION: revision.to_string() },
            "ownerReferences": [object::owner_reference(deployment)],
        },
        "spec": { "replicas": 0, "selector": selector, "template": template },
    });
    let created = store.create_object(&REPLICA_SETS, object::namespace(deployment), set);
    if note("cannot create a replica set for", deployment, created).is_some() {
        update(store, &DEPLOYMENTS, deployment, Part::Whole, |d| {
            object::child(&mut d["metadata"], "annotations")
                .insert(REVISION.to_owned(), json!(revision.to_string()));
        });
    }
}

fn annotate(store: &Store, set: &Value, revision: u64) {
    update(store, &REPLICA_SETS, set, Part::Whole, |s| {
        object::child(&mut s["metadata"], "annotations")
            .insert(REVISION.to_owned(), json!(revision.to_string()));
    });
}

fn replicas(set: &Value) -> i64 {
    object::number(set, "/spec/replicas")
}

fn available(set: &Value) -> i64 {
    object::number(set, "/status/availableReplicas")
}

fn scale(store: &Store, deployment: &Value, set: &Value, to: i64) {
    let from = replicas(set);
    if from == to {
        return;
    }
    update(store, &REPLICA_SETS, set, Part::Whole, |s| {
        s["spec"]["replicas"] = json!(to)
    });
    let way = if to > from { "up" } else { "down" };
    let message = format!(
        "Scaled {way} replica set {} from {from} to {to}",
        object::name(set)
    );
    store.event(
        deployment,
        "Normal",
        "ScalingReplicaSet",
        &message,
        "deployment-controller",
    );
}

/// One step from the old sets to the new one.
fn roll(store: &Store, deployment: &Value, new: &Value, old: &[Arc<Value>]) {
    let wanted = replicas(deployment);
    let strategy = &deployment["spec"]["strategy"];
    let active_old: Vec<&Arc<Value>> = old.iter().filter(|s| replicas(s) > 0).collect();
    if strategy["type"] == "Recreate" {
        for set in &active_old {
            scale(store, deployment, set, 0);
        }
        let gone = old
            .iter()
            .all(|s| object::number(s, "/status/replicas") == 0);
        if gone && active_old.is_empty() {
            scale(store, deployment, new, wanted);
        }
        return;
    }
    if active_old.is_empty() {
        scale(store, deployment, new, wanted);
        return;
    }
    let rolling = &strategy["rollingUpdate"];
    let surge = share(&rolling["maxSurge"], wanted, true);
    let mut missing = share(&rolling["maxUnavailable"], wanted, false);
    if surge == 0 && missing == 0 {
        missing = 1;
    }
    let total = replicas(new) + active_old.iter().map(|s| replicas(s)).sum::<i64>();
    let grown = replicas(new) + (wanted + surge - total).clamp(0, (wanted - replicas(new)).max(0));
    scale(store, deployment, new, grown.min(wanted));
    let starting = (replicas(new) - available(new)).max(0);
    let mut spare = total - (wanted - missing) - starting;
    let mut healthy_spare =
        available(new) + active_old.iter().map(|s| available(s)).sum::<i64>() - (wanted - missing);
    for set in active_old {
        // What does not serve can go without harm; what does, only while others do.
        let broken = (replicas(set) - available(set)).clamp(0, spare.max(0));
        let serving = available(set).clamp(0, healthy_spare.min(spare - broken).max(0));
        spare -= broken + serving;
        healthy_spare -= serving;
        scale(store, deployment, set, replicas(set) - broken - serving);
    }
}

fn forget_old_sets(store: &Store, deployment: &Value, old: &[Arc<Value>]) {
    let limit = object::number(deployment, "/spec/revisionHistoryLimit");
    let limit = usize::try_from(limit).unwrap_or(0);
    let mut idle: Vec<&Arc<Value>> = old
        .iter()
        .filter(|s| replicas(s) == 0 && object::number(s, "/status/replicas") == 0)
        .collect();
    idle.truncate(idle.len().saturating_sub(limit));
    for set in idle {
        let (namespace, name) = (object::namespace(set), object::name(set));
        let options = DeleteOptions::default();
        let deleted = store.delete_object(&REPLICA_SETS, namespace, name, &options);
        note("cannot delete", set, deleted);
    }
}

fn report(store: &Store, deployment: &Value, hash: &str) {
    let sets = sets_of(store, deployment);
    let sum = |field: &str, only_new: bool| -> i64 {
        let counted = sets
            .iter()
            .filter(|s| !only_new || object::label(s, HASH) == Some(hash));
        counted.map(|s| object::number(s, field)).sum()
    };
    let wanted = replicas(deployment);
    let total = sum("/status/replicas", false);
    let updated = sum("/status/replicas", true);
    let available = sum("/status/availableReplicas", false);
    let old = object::list(deployment, "/status/conditions");
    let missing = share(
        &deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"],
        wanted,
        false,
    );
    let enough = available >= wanted - missing;
    let name = sets
        .iter()
        .find(|s| object::label(s, HASH) == Some(hash))
        .map_or("", |s| object::name(s));
    let done = updated == wanted && total == wanted && available == wanted;
    let conditions = [
        if enough {
            condition(
                old,
                "Available",
                true,
                "MinimumReplicasAvailable",
                "Deployment has minimum availability.",
            )
        } else {
            condition(
                old,
                "Available",
                false,
                "MinimumReplicasUnavailable",
                "Deployment does not have minimum availability.",
            )
        },
        if done {
            let message = format!("ReplicaSet \"{name}\" has successfully progressed.");
            condition(old, "Progressing", true, "NewReplicaSetAvailable", &message)
        } else {
            let message = format!("ReplicaSet \"{name}\" is progressing.");
            condition(old, "Progressing", true, "ReplicaSetUpdated", &message)
        },
    ];
    let mut status = json!({
        "observedGeneration": object::number(deployment, "/metadata/generation"),
        "conditions": conditions,
    });
    for (field, count) in [
        ("replicas", total),
        ("updatedReplicas", updated),
        ("readyReplicas", sum("/status/readyReplicas", false)),
        ("availableReplicas", available),
        (
            "unavailableReplicas",
            (wanted.max(total) - available).max(0),
        ),
    ] {
        if count > 0 {
            status[field] = json!(count);
        }
    }
    set_status(store, &DEPLOYMENTS, deployment, status);
}
