//! The controllers: what turns a Deployment into pods and a Service into endpoints.
//!
//! Each is a plain function from what is in the store to what should be. They run one
//! after the other whenever something changed, until nothing changes any more, so none
//! needs a queue, a cache or a retry of its own.

mod daemonsets;
mod deployments;
mod endpoints;
mod garbage;
mod namespaces;
mod pods;
mod replicasets;
mod scheduler;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::object;
use super::resource::{EVENTS, LEASES, ResourceId};
use super::status::ApiError;
use super::store::{Part, Store};

/// More rounds than this without rest mean that two controllers disagree.
const MAX_ROUNDS: usize = 100;

/// Runs the controllers on a store for as long as the task lives.
pub fn spawn(store: Store) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut revisions = store.revisions();
        let mut seen = 0;
        loop {
            revisions.borrow_and_update();
            let (changed, revision) = store.changed_since(seen);
            seen = revision;
            // Nothing here depends on what changes all the time by itself.
            let idle = |id: &ResourceId| *id == EVENTS || *id == LEASES;
            if changed.is_none_or(|ids| !ids.iter().all(idle)) {
                settle(&store);
            }
            if revisions.changed().await.is_err() {
                return;
            }
        }
    })
}

/// Runs every controller until the store rests.
pub fn settle(store: &Store) {
    for _ in 0..MAX_ROUNDS {
        let before = store.revision();
        namespaces::reconcile(store);
        deployments::reconcile(store);
        replicasets::reconcile(store);
        daemonsets::reconcile(store);
        scheduler::reconcile(store);
        endpoints::reconcile(store);
        garbage::reconcile(store);
        if store.revision() == before {
            return;
        }
    }
    tracing::warn!("the controllers do not come to rest");
}

/// Logs what went wrong with one object: the next round tries again, and the other
/// objects are not to suffer.
fn note<T>(what: &str, object: &Value, result: Result<T, ApiError>) -> Option<T> {
    result
        .inspect_err(|error| {
            // Somebody deleted it meanwhile: that is no failure.
            if !error.is_not_found() {
                tracing::warn!(namespace = object::namespace(object), name = object::name(object), %error, "{what}");
            }
        })
        .ok()
}

/// Changes an object in the store by a function on it.
fn update(
    store: &Store,
    id: &ResourceId,
    object: &Value,
    part: Part,
    edit: impl FnOnce(&mut Value),
) -> Option<()> {
    let (namespace, name) = (object::namespace(object), object::name(object));
    let result = store.update_object(id, namespace, name, part, |current| {
        let mut updated = current.clone();
        edit(&mut updated);
        Ok(updated)
    });
    note("cannot update", object, result).map(|_| ())
}

fn set_status(store: &Store, id: &ResourceId, object: &Value, status: Value) {
    update(store, id, object, Part::Status, |updated| {
        updated["status"] = status
    });
}

/// A condition, with the time of its last change carried over from `old` ones.
fn condition(old: &[Value], kind: &str, status: bool, reason: &str, message: &str) -> Value {
    let status = if status { "True" } else { "False" };
    let before = old.iter().find(|c| c["type"] == kind);
    let now = object::now();
    let same_status = before.filter(|c| c["status"] == status);
    let same = same_status.filter(|c| c["reason"] == reason && c["message"] == message);
    let since =
        |found: Option<&Value>, field: &str| found.map_or_else(|| json!(now), |c| c[field].clone());
    json!({
        "type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": since(same_status, "lastTransitionTime"),
        "lastUpdateTime": since(same, "lastUpdateTime"),
    })
}

/// A number or a percentage of `total`.
fn share(value: &Value, total: i64, round_up: bool) -> i64 {
    if let Some(number) = value.as_i64() {
        return number;
    }
    let percent = value.as_str().and_then(|t| t.strip_suffix('%'));
    let percent: i64 = percent.and_then(|p| p.parse().ok()).unwrap_or(0);
    let up = if round_up { 99 } else { 0 };
    (total * percent + up) / 100
}

#[cfg(test)]
mod tests;
