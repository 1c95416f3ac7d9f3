//! The store as the lab's own components use it: typed objects, watches that never end,
//! events.

use std::collections::{BTreeMap, VecDeque};
use std::marker::PhantomData;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::object;
use super::patch;
use super::resource::{EVENTS, ResourceId};
use super::status::ApiError;
use super::store::{ChangeKind, DeleteOptions, Key, Part, Store};

/// How many events a lab remembers.
const EVENT_LIMIT: usize = 1000;

/// A built-in kind as a Rust type.
pub trait Kind:
    k8s_openapi::Resource + k8s_openapi::Metadata<Ty = ObjectMeta> + Serialize + DeserializeOwned
{
}

impl<K> Kind for K where
    K: k8s_openapi::Resource
        + k8s_openapi::Metadata<Ty = ObjectMeta>
        + Serialize
        + DeserializeOwned
{
}

/// The resource of a built-in kind.
pub const fn id_of<K: Kind>() -> ResourceId {
    ResourceId::of(K::GROUP, K::URL_PATH_SEGMENT)
}

fn read<K: Kind>(value: &Value) -> Result<K, ApiError> {
    K::deserialize(value).map_err(|error| {
        ApiError::internal(format!("{} {}: {error}", K::KIND, object::name(value)))
    })
}

fn write<K: Kind>(object: &K) -> Result<Value, ApiError> {
    serde_json::to_value(object).map_err(|error| ApiError::internal(error.to_string()))
}

impl Store {
    /// One object; "" as namespace for cluster-scoped kinds.
    pub fn get<K: Kind>(&self, namespace: &str, name: &str) -> Result<K, ApiError> {
        read(&*self.get_object(&id_of::<K>(), namespace, name)?)
    }

    /// The objects of one namespace, or of all.
    pub fn list<K: Kind>(&self, namespace: Option<&str>) -> Vec<K> {
        let (objects, _) = self.list_objects(&id_of::<K>(), namespace);
        objects.iter().filter_map(|o| read(o).ok()).collect()
    }

    /// Makes an object as a client would: defaults and checks apply, the status of most
    /// kinds starts empty.
    pub fn create<K: Kind>(&self, object: &K) -> Result<K, ApiError> {
        let namespace = object.metadata().namespace.clone().unwrap_or_default();
        let value = write(object)?;
        read(&*self.create_object(&id_of::<K>(), &namespace, value)?)
    }

    /// Makes an object unless it is there already; either way the one that is there.
    pub fn ensure<K: Kind>(&self, object: &K) -> Result<K, ApiError> {
        match self.create(object) {
            Err(error) if error.is_already_exists() => {
                let metadata = object.metadata();
                let namespace = metadata.namespace.as_deref().unwrap_or_default();
                self.get(namespace, metadata.name.as_deref().unwrap_or_default())
            }
            other => other,
        }
    }

    /// Replaces an object's status. Nothing happens when it says the same already.
    pub fn set_status<K: Kind>(
        &self,
        namespace: &str,
        name: &str,
        status: &impl Serialize,
    ) -> Result<(), ApiError> {
        let status =
            serde_json::to_value(status).map_err(|error| ApiError::internal(error.to_string()))?;
        self.update_object(&id_of::<K>(), namespace, name, Part::Status, |current| {
            let mut updated = current.clone();
            updated["status"] = status;
            Ok(updated)
        })?;
        Ok(())
    }

    /// Changes an object by a JSON merge patch; the status can be changed too.
    pub fn merge<K: Kind>(&self, namespace: &str, name: &str, by: &Value) -> Result<K, ApiError> {
        let merged =
            self.update_object(&id_of::<K>(), namespace, name, Part::Whole, |current| {
                let mut updated = current.clone();
                patch::merge(&mut updated, by);
                Ok(updated)
            })?;
        read(&merged)
    }

    /// Deletes as `kubectl delete` does.
    pub fn delete<K: Kind>(&self, namespace: &str, name: &str) -> Result<(), ApiError> {
        self.delete_object(&id_of::<K>(), namespace, name, &DeleteOptions::default())?;
        Ok(())
    }

    /// Takes an object away for good, as a kubelet does once a pod has stopped. Nothing
    /// happens when it is gone already or when another has its name ("" as uid: any).
    pub fn remove<K: Kind>(&self, namespace: &str, name: &str, uid: &str) {
        self.remove_object(&id_of::<K>(), namespace, name, uid);
    }

    /// Everything there is of a kind, and then every change.
    pub fn watch<K: Kind>(&self) -> Watch<K> {
        Watch {
            raw: self.watch_objects(id_of::<K>()),
            kind: PhantomData,
        }
    }

    /// As [`Store::watch`], for any resource.
    pub fn watch_objects(&self, id: ResourceId) -> RawWatch {
        RawWatch {
            store: self.clone(),
            id,
            revisions: self.revisions(),
            known: BTreeMap::new(),
            cursor: None,
            pending: VecDeque::new(),
        }
    }

    /// Records that something happened to an object: what `kubectl describe` shows last.
    /// The same event again only counts up.
    pub fn event(&self, about: &Value, kind: &str, reason: &str, message: &str, source: &str) {
        let namespace = match object::namespace(about) {
            "" => "default",
            namespace => namespace,
        };
        // Kubernetes names events after the object and the time; here the content does.
        let content = json!([about["kind"], object::uid(about), reason, message, source]);
        let hash = object::template_hash(&content);
        let name = format!("{}.{hash}", object::name(about));
        let now = object::now();
        let seen = self.update_object(&EVENTS, namespace, &name, Part::Whole, |current| {
            let mut again = current.clone();
            again["count"] = json!(object::number(current, "/count") + 1);
            again["lastTimestamp"] = json!(now);
            Ok(again)
        });
        if seen.is_ok() {
            return;
        }
        let event = json!({
            "metadata": { "name": name },
            "involvedObject": {
                "apiVersion": about["apiVersion"], "kind": about["kind"], "name": object::name(about),
                "namespace": object::namespace(about), "uid": object::uid(about),
                "resourceVersion": object::meta(about, "resourceVersion"),
            },
            "reason": reason, "message": message, "type": kind, "count": 1,
            "firstTimestamp": now, "lastTimestamp": now,
            "source": { "component": source }, "reportingComponent": source, "reportingInstance": "",
        });
        if let Err(error) = self.create_object(&EVENTS, namespace, event) {
            tracing::debug!(%error, "event not recorded");
        }
        self.forget_old_events();
    }

    fn forget_old_events(&self) {
        let (events, _) = self.list_objects(&EVENTS, None);
        let Some(surplus) = events.len().checked_sub(EVENT_LIMIT).filter(|n| *n > 0) else {
            return;
        };
        let mut by_age: Vec<_> = events.iter().collect();
        by_age.sort_by_key(|e| object::text(e, "/lastTimestamp").to_owned());
        for old in by_age.into_iter().take(surplus) {
            self.remove_object(&EVENTS, object::namespace(old), object::name(old), "");
        }
    }
}

/// A change that a watch reports.
#[derive(Debug, Clone, PartialEq)]
pub enum Change<T> {
    /// It is new or has new content (or the watch has just begun).
    Applied(T),
    /// It is gone; its last content.
    Deleted(T),
}

/// A typed watch, from [`Store::watch`].
pub struct Watch<K> {
    raw: RawWatch,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Watch<K> {
    /// The next change. Waits for one; can be dropped while waiting without loss.
    pub async fn next(&mut self) -> Change<K> {
        loop {
            let change = match self.raw.next().await {
                Change::Applied(value) => read(&value).map(Change::Applied),
                Change::Deleted(value) => read(&value).map(Change::Deleted),
            };
            match change {
                Ok(change) => return change,
                Err(error) => tracing::warn!(%error, "stored object skipped"),
            }
        }
    }
}

/// An untyped watch, from [`Store::watch_objects`]. When it has fallen behind what the
/// store remembers it lists again and reports the difference.
pub struct RawWatch {
    store: Store,
    id: ResourceId,
    revisions: tokio::sync::watch::Receiver<u64>,
    known: BTreeMap<Key, Arc<Value>>,
    cursor: Option<u64>,
    pending: VecDeque<Change<Arc<Value>>>,
}

impl RawWatch {
    /// The next change. Waits for one; can be dropped while waiting without loss.
    pub async fn next(&mut self) -> Change<Arc<Value>> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return change;
            }
            // Marked as seen before looking, so a change in between wakes us at once.
            self.revisions.borrow_and_update();
            self.catch_up();
            if self.pending.is_empty() && self.revisions.changed().await.is_err() {
                // The watch holds a store, so its sender lives as long as the watch.
                std::future::pending::<()>().await;
            }
        }
    }

    fn catch_up(&mut self) {
        let changes = self
            .cursor
            .map(|cursor| self.store.changes_since(&self.id, cursor));
        let Some(Ok((changes, revision))) = changes else {
            self.list_again();
            return;
        };
        self.cursor = Some(revision);
        for change in changes {
            let key = key_of(&change.object);
            let report = if change.change == ChangeKind::Deleted {
                self.known.remove(&key);
                Change::Deleted(change.object.clone())
            } else {
                self.known.insert(key, change.object.clone());
                Change::Applied(change.object.clone())
            };
            self.pending.push_back(report);
        }
    }

    fn list_again(&mut self) {
        let (objects, revision) = self.store.list_objects(&self.id, None);
        self.cursor = Some(revision);
        let now: BTreeMap<Key, Arc<Value>> = objects.into_iter().map(|o| (key_of(&o), o)).collect();
        for (key, old) in &self.known {
            let same = now.get(key).map(|new| object::uid(new)) == Some(object::uid(old));
            if !same {
                self.pending.push_back(Change::Deleted(old.clone()));
            }
        }
        for (key, new) in &now {
            if self.known.get(key) != Some(new) {
                self.pending.push_back(Change::Applied(new.clone()));
            }
        }
        self.known = now;
    }
}

fn key_of(value: &Value) -> Key {
    (
        object::namespace(value).to_owned(),
        object::name(value).to_owned(),
    )
}
