//! Writes in two steps: what a write comes to, and the write itself. In between
//! somebody may be asked, without the lock.

use std::sync::Arc;

use serde_json::Value;

use super::{Key, Part, State, Store, key};
use crate::api::resource::{CRDS, NAMESPACES, ResourceId, SERVICES};
use crate::api::status::ApiError;
use crate::api::{admission, object};

/// What a write comes to: complete and checked, and not stored.
#[derive(Debug)]
pub(in crate::api) struct Draft {
    id: ResourceId,
    key: Key,
    custom: bool,
    revision: u64,
    /// The object that it replaces; none when it is new.
    pub(in crate::api) current: Option<Arc<Value>>,
    /// The object to be stored.
    pub(in crate::api) object: Arc<Value>,
}

impl Draft {
    pub(super) fn create(
        state: &State,
        id: &ResourceId,
        namespace: &str,
        mut object: Value,
    ) -> Result<Self, ApiError> {
        let info = state.served(id)?;
        admission::prepare_create(state, &info, namespace, &mut object)?;
        let key = key(namespace, object::name(&object));
        if state.get(id, &key).is_ok() {
            return Err(ApiError::already_exists(&info, &key.1));
        }
        Ok(Self {
            id: id.clone(),
            key,
            custom: info.custom,
            revision: state.revision(),
            current: None,
            object: Arc::new(object),
        })
    }

    pub(super) fn update(
        state: &State,
        id: &ResourceId,
        key: Key,
        part: Part,
        edit: impl FnOnce(&Value) -> Result<Value, ApiError>,
    ) -> Result<Self, ApiError> {
        let info = state.served(id)?;
        let current = state.get(id, &key)?;
        let mut updated = edit(&current)?;
        admission::prepare_update(state, &info, &current, &mut updated, part)?;
        let same = updated == *current;
        Ok(Self {
            id: id.clone(),
            key,
            custom: info.custom,
            revision: state.revision(),
            object: if same {
                current.clone()
            } else {
                Arc::new(updated)
            },
            current: Some(current),
        })
    }

    /// True once something has changed that it was drafted from: its object, its
    /// namespace, what all Services share, the definition of its kind.
    fn is_stale(&self, state: &State) -> bool {
        let Some(mut changes) = state.changes_after(self.revision) else {
            return true;
        };
        changes.any(|change| {
            let (namespace, name) = (
                object::namespace(&change.object),
                object::name(&change.object),
            );
            let same_kind = change.id == self.id;
            let same_object = (namespace, name) == (&self.key.0, &self.key.1);
            let shared = self.id == SERVICES || self.id == CRDS;
            same_kind && (same_object || shared)
                || change.id == NAMESPACES && name == self.key.0
                || change.id == CRDS && self.custom
        })
    }

    /// Makes it so.
    pub(super) fn store(&self, state: &mut State) -> Result<Arc<Value>, ApiError> {
        if let Some(current) = &self.current
            && Arc::ptr_eq(current, &self.object)
        {
            return Ok(current.clone());
        }
        let object = Value::clone(&self.object);
        if object::is_deleting(&object) && !admission::is_held(&object) {
            state.remove(&self.id, &self.key, object)
        } else {
            state.put(&self.id, self.key.clone(), object)
        }
    }
}

impl Store {
    /// What [`Store::create_object`] would add.
    pub(in crate::api) fn draft_create(
        &self,
        id: &ResourceId,
        namespace: &str,
        object: Value,
    ) -> Result<Draft, ApiError> {
        Draft::create(&self.lock(), id, namespace, object)
    }

    /// What [`Store::update_object`] would come to. The function runs under the lock, so
    /// it must not use the store.
    pub(in crate::api) fn draft_update(
        &self,
        id: &ResourceId,
        namespace: &str,
        name: &str,
        part: Part,
        edit: impl FnOnce(&Value) -> Result<Value, ApiError>,
    ) -> Result<Draft, ApiError> {
        Draft::update(&self.lock(), id, key(namespace, name), part, edit)
    }

    /// Stores exactly what was drafted; `None`, and nothing is stored, when what it was
    /// drafted from has changed meanwhile.
    pub(in crate::api) fn commit(&self, draft: &Draft) -> Result<Option<Arc<Value>>, ApiError> {
        let mut state = self.lock();
        if draft.is_stale(&state) {
            return Ok(None);
        }
        let stored = draft.store(&mut state)?;
        self.publish(&state);
        Ok(Some(stored))
    }
}
