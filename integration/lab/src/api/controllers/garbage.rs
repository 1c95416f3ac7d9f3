//! Whatever has lost its last owner goes too.

use std::collections::BTreeSet;

use super::note;
use crate::api::object;
use crate::api::store::{DeleteOptions, Store};

/// One round over everything.
pub(super) fn reconcile(store: &Store) {
    // One snapshot: an owner made between two looks must not seem to be missing.
    let all = store.everything();
    let alive: BTreeSet<&str> = all.iter().map(|(_, o)| object::uid(o)).collect();
    for (id, found) in &all {
        let owners = object::list(found, "/metadata/ownerReferences");
        let owned = |o: &serde_json::Value| alive.contains(object::text(o, "/uid"));
        if owners.is_empty() || owners.iter().any(owned) || object::is_deleting(found) {
            continue;
        }
        let (namespace, name) = (object::namespace(found), object::name(found));
        let deleted = store.delete_object(id, namespace, name, &DeleteOptions::default());
        note("cannot delete the orphan", found, deleted);
    }
}
