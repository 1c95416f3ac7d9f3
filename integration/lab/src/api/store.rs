//! The versioned object store: one revision counter, the objects of every kind, and a
//! bounded history that watches read from.
//!
//! Everything is behind one mutex and nothing in it waits, so a write and its checks are
//! one step. Watches are not fed: they are told that the revision moved and read the
//! history from where they were, so a slow one can fall behind but never miss something.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::object::{self, metadata_mut};
use super::resource::{self, ResourceId, ResourceType};
use super::status::ApiError;
use super::{admission, bootstrap, crd};

/// How many changes are kept for watches to catch up from.
const HISTORY: usize = 8192;

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

/// Everything that is behind the lock.
pub(super) struct State {
    revision: u64,
    kinds: BTreeMap<ResourceId, KindState>,
    history: VecDeque<Arc<StoreEvent>>,
    /// The revision of the newest change that has left the history.
    forgotten: u64,
}

struct KindState {
    info: Arc<ResourceType>,
    objects: BTreeMap<Key, Arc<Value>>,
}

impl Default for Store {
    fn default() -> Self {
        Self::new()
    }
}

impl Store {
    /// A store with the built-in kinds and what every cluster has from its first second.
    pub fn new() -> Self {
        let kinds = resource::built_in().map(|info| {
            let kind = KindState {
                info: Arc::new(info),
                objects: BTreeMap::new(),
            };
            (kind.info.id(), kind)
        });
        let state = State {
            revision: 1,
            kinds: kinds.collect(),
            history: VecDeque::new(),
            forgotten: 1,
        };
        let store = Self {
            inner: Arc::new(Inner {
                state: Mutex::new(state),
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
        let revision = state.revision;
        self.inner.revision.send_if_modified(|seen| {
            let moved = *seen != revision;
            *seen = revision;
            moved
        });
    }

    /// The current revision.
    pub fn revision(&self) -> u64 {
        self.lock().revision
    }

    /// Told of every new revision.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.inner.revision.subscribe()
    }

    /// The resource of that name, if it is served.
    pub fn resource(&self, id: &ResourceId) -> Result<Arc<ResourceType>, ApiError> {
        Ok(self.lock().kind(id)?.info.clone())
    }

    /// All resources that are served.
    pub fn resources(&self) -> Vec<Arc<ResourceType>> {
        self.lock().kinds.values().map(|k| k.info.clone()).collect()
    }

    /// One object.
    pub fn get_object(
        &self,
        id: &ResourceId,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Value>, ApiError> {
        let state = self.lock();
        let kind = state.kind(id)?;
        kind.get(&key(namespace, name))
            .cloned()
            .ok_or_else(|| ApiError::not_found(&kind.info, name))
    }

    /// The objects of one or (`None`) all namespaces, ordered by namespace and name, and
    /// the revision at which that was so. An unknown resource has none.
    pub fn list_objects(&self, id: &ResourceId, namespace: Option<&str>) -> (Vec<Arc<Value>>, u64) {
        let state = self.lock();
        let objects = state.objects(id, namespace).cloned().collect();
        (objects, state.revision)
    }

    /// Every object of every resource, all at one revision.
    pub fn everything(&self) -> Vec<(ResourceId, Arc<Value>)> {
        let state = self.lock();
        let kinds = state.kinds.iter();
        let all =
            kinds.flat_map(|(id, kind)| kind.objects.values().map(|o| (id.clone(), o.clone())));
        all.collect()
    }

    /// Adds an object: defaults, checks, `metadata` of its own.
    pub fn create_object(
        &self,
        id: &ResourceId,
        namespace: &str,
        mut object: Value,
        dry_run: bool,
    ) -> Result<Arc<Value>, ApiError> {
        let mut state = self.lock();
        let info = state.kind(id)?.info.clone();
        admission::prepare_create(&state, &info, namespace, &mut object)?;
        let key = key(namespace, object::name(&object));
        if state.kind(id)?.objects.contains_key(&key) {
            return Err(ApiError::already_exists(&info, &key.1));
        }
        if dry_run {
            return Ok(Arc::new(object));
        }
        let stored = state.put(id, key, object)?;
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
        dry_run: bool,
        edit: impl FnOnce(&Value) -> Result<Value, ApiError>,
    ) -> Result<Arc<Value>, ApiError> {
        let mut state = self.lock();
        let info = state.kind(id)?.info.clone();
        let key = key(namespace, name);
        let current = state
            .kind(id)?
            .get(&key)
            .cloned()
            .ok_or_else(|| ApiError::not_found(&info, name))?;
        let mut updated = edit(&current)?;
        admission::prepare_update(&state, &info, &current, &mut updated, part)?;
        if updated == *current {
            return Ok(current);
        }
        if dry_run {
            return Ok(Arc::new(updated));
        }
        let stored = if object::is_deleting(&updated) && !admission::is_held(&updated) {
            state.remove(id, &key, updated)?
        } else {
            state.put(id, key, updated)?
        };
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
        let info = state.kind(id)?.info.clone();
        let key = key(namespace, name);
        let current = state
            .kind(id)?
            .get(&key)
            .cloned()
            .ok_or_else(|| ApiError::not_found(&info, name))?;
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
        let Ok(kind) = state.kind(id) else { return };
        let Some(current) = kind.get(&key).cloned() else {
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
        if revision < state.forgotten {
            return Err(ApiError::expired(revision, state.forgotten));
        }
        let start = state.history.partition_point(|e| e.revision <= revision);
        let changes = state.history.range(start..).filter(|e| e.id == *id);
        Ok((changes.cloned().collect(), state.revision))
    }

    /// The resources that changed after a revision, and the revision reached; `None` when
    /// that is no longer known.
    pub fn changed_since(&self, revision: u64) -> (Option<Vec<ResourceId>>, u64) {
        let state = self.lock();
        if revision < state.forgotten {
            return (None, state.revision);
        }
        let start = state.history.partition_point(|e| e.revision <= revision);
        let ids = state.history.range(start..).map(|e| e.id.clone());
        (Some(ids.collect()), state.revision)
    }
}

fn key(namespace: &str, name: &str) -> Key {
    (namespace.to_owned(), name.to_owned())
}

impl KindState {
    fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key)
    }
}

impl State {
    fn kind(&self, id: &ResourceId) -> Result<&KindState, ApiError> {
        self.kinds.get(id).ok_or_else(ApiError::no_such_resource)
    }

    /// Objects of a resource, of one or all namespaces.
    pub(super) fn objects<'a>(
        &'a self,
        id: &ResourceId,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Arc<Value>> + use<'a> {
        let objects = self.kinds.get(id).map(|k| &k.objects);
        objects
            .into_iter()
            .flatten()
            .filter(move |((ns, _), _)| namespace.is_none_or(|wanted| wanted == ns))
            .map(|(_, object)| object)
    }

    /// One object, if it is there.
    pub(super) fn find(&self, id: &ResourceId, namespace: &str, name: &str) -> Option<&Value> {
        let object = self.kinds.get(id)?.get(&key(namespace, name))?;
        Some(object)
    }

    /// The resource's type.
    pub(super) fn info(&self, id: &ResourceId) -> Option<&Arc<ResourceType>> {
        self.kinds.get(id).map(|k| &k.info)
    }

    fn put(
        &mut self,
        id: &ResourceId,
        key: Key,
        mut object: Value,
    ) -> Result<Arc<Value>, ApiError> {
        self.revision += 1;
        metadata_mut(&mut object).insert(
            "resourceVersion".to_owned(),
            json!(self.revision.to_string()),
        );
        let object = Arc::new(object);
        let kind = self
            .kinds
            .get_mut(id)
            .ok_or_else(ApiError::no_such_resource)?;
        let previous = kind.objects.insert(key, object.clone());
        let change = if previous.is_some() {
            ChangeKind::Modified
        } else {
            ChangeKind::Added
        };
        self.record(id, change, object.clone(), previous);
        if *id == resource::CRDS {
            self.serve(crd::resource_of(&object));
        }
        Ok(object)
    }

    fn remove(
        &mut self,
        id: &ResourceId,
        key: &Key,
        mut last: Value,
    ) -> Result<Arc<Value>, ApiError> {
        self.revision += 1;
        metadata_mut(&mut last).insert(
            "resourceVersion".to_owned(),
            json!(self.revision.to_string()),
        );
        let last = Arc::new(last);
        let kind = self
            .kinds
            .get_mut(id)
            .ok_or_else(ApiError::no_such_resource)?;
        let previous = kind.objects.remove(key);
        self.record(id, ChangeKind::Deleted, last.clone(), previous);
        if *id == resource::CRDS
            && let Some(custom) = crd::resource_of(&last)
        {
            self.stop_serving(&custom.id());
        }
        Ok(last)
    }

    fn record(
        &mut self,
        id: &ResourceId,
        change: ChangeKind,
        object: Arc<Value>,
        previous: Option<Arc<Value>>,
    ) {
        self.history.push_back(Arc::new(StoreEvent {
            revision: self.revision,
            id: id.clone(),
            change,
            object,
            previous,
        }));
        while self.history.len() > HISTORY {
            if let Some(old) = self.history.pop_front() {
                self.forgotten = old.revision;
            }
        }
    }

    fn serve(&mut self, info: Option<ResourceType>) {
        let Some(info) = info else { return };
        let info = Arc::new(info);
        self.kinds
            .entry(info.id())
            .and_modify(|kind| kind.info = info.clone())
            .or_insert_with(|| KindState {
                info,
                objects: BTreeMap::new(),
            });
    }

    fn stop_serving(&mut self, id: &ResourceId) {
        let keys: Vec<(Key, Arc<Value>)> = self
            .kinds
            .get(id)
            .map(|k| {
                k.objects
                    .iter()
                    .map(|(k, v)| (k.clone(), v.clone()))
                    .collect()
            })
            .unwrap_or_default();
        for (key, object) in keys {
            let _ = self.remove(id, &key, Value::clone(&object));
        }
        self.kinds.remove(id);
    }

    fn orphan_dependents(&mut self, owner: &str) -> Result<(), ApiError> {
        let owned: Vec<(ResourceId, Key, Value)> = self
            .kinds
            .iter()
            .flat_map(|(id, kind)| kind.objects.iter().map(move |(k, o)| (id, k, o)))
            .filter_map(|(id, key, object)| {
                let owners = object::list(object, "/metadata/ownerReferences");
                let kept: Vec<_> = owners.iter().filter(|o| o["uid"] != owner).collect();
                (kept.len() < owners.len()).then(|| {
                    let mut freed = Value::clone(object);
                    freed["metadata"]["ownerReferences"] = json!(kept);
                    (id.clone(), key.clone(), freed)
                })
            })
            .collect();
        for (id, key, freed) in owned {
            self.put(&id, key, freed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
