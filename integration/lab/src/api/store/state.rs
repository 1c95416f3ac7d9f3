//! What is behind the store's lock: the objects, the revision, the history.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};

use super::{ChangeKind, Key, StoreEvent, key};
use crate::api::crd;
use crate::api::object::{self, metadata_mut};
use crate::api::resource::{self, ResourceId, ResourceType};
use crate::api::status::ApiError;

/// How many changes are kept for watches to catch up from.
pub(super) const HISTORY: usize = 8192;

/// Everything that is behind the lock.
pub(in crate::api) struct State {
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

impl State {
    /// The built-in kinds without objects, at revision 1.
    pub(super) fn new() -> Self {
        let kinds = resource::built_in().map(|info| {
            let kind = KindState {
                info: Arc::new(info),
                objects: BTreeMap::new(),
            };
            (kind.info.id(), kind)
        });
        Self {
            revision: 1,
            kinds: kinds.collect(),
            history: VecDeque::new(),
            forgotten: 1,
        }
    }

    /// The current revision.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// The resource's type, or 404.
    pub(super) fn served(&self, id: &ResourceId) -> Result<Arc<ResourceType>, ApiError> {
        let kind = self.kinds.get(id).ok_or_else(ApiError::no_such_resource)?;
        Ok(kind.info.clone())
    }

    /// The types of all resources.
    pub(super) fn all_served(&self) -> impl Iterator<Item = &Arc<ResourceType>> {
        self.kinds.values().map(|kind| &kind.info)
    }

    /// One object, or 404.
    pub(super) fn get(&self, id: &ResourceId, key: &Key) -> Result<Arc<Value>, ApiError> {
        let kind = self.kinds.get(id).ok_or_else(ApiError::no_such_resource)?;
        let object = kind.objects.get(key).cloned();
        object.ok_or_else(|| ApiError::not_found(&kind.info, &key.1))
    }

    /// Every object of every resource.
    pub(super) fn everything(&self) -> impl Iterator<Item = (&ResourceId, &Key, &Arc<Value>)> {
        let kinds = self.kinds.iter();
        kinds.flat_map(|(id, kind)| kind.objects.iter().map(move |(key, o)| (id, key, o)))
    }

    /// The changes after a revision, oldest first; `None` when not all are known any more.
    pub(super) fn changes_after(
        &self,
        revision: u64,
    ) -> Option<impl Iterator<Item = &Arc<StoreEvent>>> {
        (revision >= self.forgotten).then(|| {
            let start = self.history.partition_point(|e| e.revision <= revision);
            self.history.range(start..)
        })
    }

    /// The oldest revision that a watch can go on from.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Objects of a resource, of one or all namespaces.
    pub(in crate::api) fn objects<'a>(
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
    pub(in crate::api) fn find(
        &self,
        id: &ResourceId,
        namespace: &str,
        name: &str,
    ) -> Option<&Value> {
        let object = self.kinds.get(id)?.objects.get(&key(namespace, name))?;
        Some(object)
    }

    /// The resource's type.
    pub(in crate::api) fn info(&self, id: &ResourceId) -> Option<&Arc<ResourceType>> {
        self.kinds.get(id).map(|k| &k.info)
    }

    /// Stores a new version of an object.
    pub(super) fn put(
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

    /// Takes an object away; `last` is what its watchers see last.
    pub(super) fn remove(
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

    /// Strikes an owner out of whatever it owns.
    pub(super) fn orphan_dependents(&mut self, owner: &str) -> Result<(), ApiError> {
        let owned: Vec<(ResourceId, Key, Value)> = self
            .everything()
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
