//! Namespaces: a default service account in each, and their orderly end.

use serde_json::{Value, json};

use super::{note, update};
use crate::api::object;
use crate::api::resource::{NAMESPACES, SERVICE_ACCOUNTS};
use crate::api::store::{DeleteOptions, Part, Store};

/// One round over all namespaces.
pub(super) fn reconcile(store: &Store) {
    let (spaces, _) = store.list_objects(&NAMESPACES, None);
    for space in &spaces {
        if object::is_deleting(space) {
            empty(store, space);
        } else {
            account(store, space);
        }
    }
}

fn account(store: &Store, space: &Value) {
    let name = object::name(space);
    if store
        .get_object(&SERVICE_ACCOUNTS, name, "default")
        .is_err()
    {
        let account = json!({ "metadata": { "name": "default" } });
        let created = store.create_object(&SERVICE_ACCOUNTS, name, account);
        note("cannot make the service account of", space, created);
    }
}

fn empty(store: &Store, space: &Value) {
    let name = object::name(space);
    let mut left = false;
    for (id, found) in store.everything() {
        if object::namespace(&found) != name {
            continue;
        }
        left = true;
        if !object::is_deleting(&found) {
            let deleted =
                store.delete_object(&id, name, object::name(&found), &DeleteOptions::default());
            note("cannot delete", &found, deleted);
        }
    }
    if !left {
        update(store, &NAMESPACES, space, Part::Whole, |s| {
            s["spec"]["finalizers"] = json!([])
        });
    }
}
