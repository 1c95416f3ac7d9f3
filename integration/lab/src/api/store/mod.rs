//! The versioned object store: one revision counter, the objects of every kind, and a
//! bounded history that watches read from.
//!
//! Everything is behind one mutex and nothing in it waits, so a write and its checks are
//! one step. Watches are not fed: they are told that the revision moved and read the
//! history from where they were, so a slow one can fall behind but never miss something.

mod draft;
mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::watch;

use super::object;
use super::resource::{ResourceId, ResourceType};
use super::status::ApiError;
use super::{admission, bootstrap};

pub(super) use draft::Draft;
pub(super) use state::State;

/// Namespace ("" for cluster-scoped) and name.
pub type Key = (String, String);

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It has new content.
    Modified,
    /// It is gone.
    Deleted,
}

/// One entry of the history.
#[derive(Debug, Clone)]
pub struct StoreEvent {
    /// The store's revision of this change.
    pub revision: u64,
    /// Which resource.
    pub id: ResourceId,
    /// What happened.
    pub change: ChangeKind,
    /// The object after the change; its last content when it was deleted.
    pub object: Arc<Value>,
    /// The object before the change.
    pub previous: Option<Arc<Value>>,
}

/// Which part of an object a write may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything but the status (where the kind has one).
    Main,
    /// Only the status.
    Status,
    /// Everything: for the cluster's own components.
    Whole,
}

/// What becomes of an object's dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Propagation {
    /// They are deleted after it.
    #[default]
    Background,
    /// They stay and lose their owner.
    Orphan,
}

/// Options of a delete.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Seconds to stop in; the pod's own figure when absent.
    pub grace: Option<i64>,
    /// Refuse when the object has another uid.
    pub uid: Option<String>,
    /// Refuse when the object has another version.
    pub resource_version: Option<String>,
    /// What becomes of dependents.
    pub propagation: Propagation,
    /// Check and answer, but change nothing.
    pub dry_run: bool,
}

/// What a delete came to.
#[derive(Debug, Clone)]
pub enum Deleted {
    /// The object has gone.
    Gone(Arc<Value>),
    /// It is marked, and goes when its finalizers or its kubelet are done.
    Marked(Arc<Value>),
}

/// The store. Clones share the same content.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    revision: watch::Sender<u64>,
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl Store {
    /// A store with the built-in kinds and what every cluster has from its first second.
    pub fn new() -> Self {
        let store = Self {
            inner: Arc::new(Inner {
                state: Mutex::new(State::new()),
                revision: watch::Sender::new(1),
            }),
        };
        bootstrap::fill(&store);
        store
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held leaves whole objects: every write is one assignment.
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, state: &State) {
        let revision = state.revision();
        self.inner.revision.send_if_modified(|seen| {
            let moved = *seen != revision;
            *seen = revision;
            moved
        });
    }

    /// The current revision.
    pub fn revision(&self) -> u64 {
        self.lock().revision()
    }

    /// Told of every new revision.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.inner.revision.subscribe()
    }

    /// The resource of that name, if it is served.
    pub fn resource(&self, id: &ResourceId) -> Result<Arc<ResourceType>, ApiError> {
        self.lock().served(id)
    }

    /// All resources that are served.
    pub fn resources(&self) -> Vec<Arc<ResourceType>> {
        self.lock().all_served().cloned().collect()
    }

    /// One object.
    pub fn get_object(
        &self,
        id: &ResourceId,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Value>, ApiError> {
        self.lock().get(id, &key(namespace, name))
    }

    /// The objects of one or (`None`) all namespaces, ordered by namespace and name, and
    /// the revision at which that was so. An unknown resource has none.
    pub fn list_objects(&self, id: &ResourceId, namespace: Option<&str>) -> (Vec<Arc<Value>>, u64) {
        let state = self.lock();
        let objects = state.objects(id, namespace).cloned().collect();
        (objects, state.revision())
    }

    /// Every object of every resource, all at one revision.
    pub fn everything(&self) -> Vec<(ResourceId, Arc<Value>)> {
        let state = self.lock();
        let all = state.everything();
        all.map(|(id, _, object)| (id.clone(), object.clone()))
            .collect()
    }

    /// Adds an object: defaults, checks, `metadata` of its own.
    pub fn create_object(
        &self,
        id: &ResourceId,
        namespace: &str,
        object: Value,
    ) -> Result<Arc<Value>, ApiError> {
        let mut state = self.lock();
        let draft = Draft::create(&state, id, namespace, object)?;
        let stored = draft.store(&mut state)?;
        self.publish(&state);
        Ok(stored)
    }

    /// Changes an object by a function of its present content. The function may run
    /// under the lock, so it must not use the store.
    pub fn update_object(
        &self,
        id: &ResourceId,
        namespace: &str,
        name: &str,
        part: Part,
        edit: impl FnOnce(&Value) -> Result<Value, ApiError>,
    ) -> Result<Arc<Value>, ApiError> {
        let mut state = self.lock();
        let draft = Draft::update(&state, id, key(namespace, name), part, edit)?;
        let stored = draft.store(&mut state)?;
        self.publish(&state);
        Ok(stored)
    }

    /// Deletes an object, at once or (pods on a node, finalizers, namespaces) in steps.
    pub fn delete_object(
        &self,
        id: &ResourceId,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        let mut state = self.lock();
        let info = state.served(id)?;
        let key = key(namespace, name);
        let current = state.get(id, &key)?;
        let marked = admission::prepare_delete(&info, &current, options)?;
        let held = admission::is_held(&marked);
        if options.dry_run {
            let marked = Arc::new(marked);
            return Ok(if held {
                Deleted::Marked(marked)
            } else {
                Deleted::Gone(marked)
            });
        }
        if options.propagation == Propagation::Orphan {
            state.orphan_dependents(object::uid(&current))?;
        }
        let outcome = if !held {
            Deleted::Gone(state.remove(id, &key, marked)?)
        } else if marked == *current {
            Deleted::Marked(current)
        } else {
            Deleted::Marked(state.put(id, key, marked)?)
        };
        self.publish(&state);
        Ok(outcome)
    }

    /// Takes an object away whatever holds it; nothing happens when it is not there or
    /// has another uid (an empty one matches any).
    pub fn remove_object(&self, id: &ResourceId, namespace: &str, name: &str, uid: &str) {
        let mut state = self.lock();
        let key = key(namespace, name);
        let Ok(current) = state.get(id, &key) else {
            return;
        };
        if !uid.is_empty() && object::uid(&current) != uid {
            return;
        }
        // The kind is there, so there is nothing that removing could fail on.
        let _ = state.remove(id, &key, Value::clone(&current));
        self.publish(&state);
    }

    /// The changes of one resource after a revision, oldest first, and the revision
    /// reached. Errors with 410 when they are no longer all known.
    pub fn changes_since(
        &self,
        id: &ResourceId,
        revision: u64,
    ) -> Result<(Vec<Arc<StoreEvent>>, u64), ApiError> {
        let state = self.lock();
        let changes = state
            .changes_after(revision)
            .ok_or_else(|| ApiError::expired(revision, state.forgotten()))?;
        let changes = changes.filter(|e| e.id == *id).cloned().collect();
        Ok((changes, state.revision()))
    }

    /// The resources that changed after a revision, and the revision reached; `None` when
    /// that is no longer known.
    pub fn changed_since(&self, revision: u64) -> (Option<Vec<ResourceId>>, u64) {
        let state = self.lock();
        let changes = state.changes_after(revision);
        let ids = changes.map(|changes| changes.map(|e| e.id.clone()).collect());
        (ids, state.revision())
    }
}

fn key(namespace: &str, name: &str) -> Key {
    (namespace.to_owned(), name.to_owned())
}

#[cfg(test)]
mod tests;
