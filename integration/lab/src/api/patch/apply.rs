//! Server-side apply, reduced: every applier owns the fields it sent, a field that its
//! only owner no longer sends goes away, and a value that another applier owns is a
//! conflict unless forced. Writers that do not apply own nothing here, so their values
//! are simply overwritten.

use serde_json::{Map, Value, json};

use super::fields::{self, Fields, Shape, shape};
use crate::api::object::{self, metadata_mut};
use crate::api::resource::ResourceType;
use crate::api::status::ApiError;

/// One apply request.
#[derive(Debug, Clone)]
pub struct Apply<'a> {
    /// What the manager wants to be so.
    pub config: &'a Value,
    /// Who applies (`fieldManager`).
    pub manager: &'a str,
    /// Take over fields that others own.
    pub force: bool,
    /// "status" when applied to that, "" otherwise.
    pub subresource: &'a str,
}

/// The object after an apply; `current` is null when there is none yet.
///
/// # Errors
/// 409 with every conflicting field, unless forced.
pub fn apply(info: &ResourceType, current: &Value, apply: &Apply) -> Result<Value, ApiError> {
    let kind = if info.custom { "Object" } else { &info.kind };
    let mut config = apply.config.clone();
    if let Some(map) = config.get_mut("metadata").and_then(Value::as_object_mut) {
        map.shift_remove("managedFields");
        map.shift_remove("resourceVersion");
        map.shift_remove("uid");
    }
    let wanted = config.as_object().cloned().unwrap_or_default();
    let mut owned = fields::of_map(kind, &wanted);
    for identity in ["f:apiVersion", "f:kind"] {
        owned.shift_remove(identity);
    }
    if let Some(Value::Object(metadata)) = owned.get_mut("f:metadata") {
        metadata.shift_remove("f:name");
        metadata.shift_remove("f:namespace");
        if metadata.is_empty() {
            owned.shift_remove("f:metadata");
        }
    }
    let (own, mut others) = managers(current, apply);
    let mut conflicts = Vec::new();
    for (manager, other) in &mut others {
        find_conflicts(kind, &config, current, &owned, other, &mut |path| {
            conflicts.push((manager.clone(), path));
        });
    }
    if !conflicts.is_empty() && !apply.force {
        return Err(ApiError::apply_conflict(&conflicts));
    }
    let mut updated = current.clone();
    if updated.is_null() {
        updated = json!({});
    }
    let rest: Vec<&Fields> = others.iter().map(|(_, fields)| fields).collect();
    remove_dropped(&mut updated, &own, &owned, &rest);
    if let Value::Object(map) = &mut updated {
        merge_map(kind, map, &wanted);
    }
    write_managers(current, &mut updated, apply, owned, &others);
    Ok(updated)
}

/// The applier's own earlier fields, and those of other appliers.
fn managers(current: &Value, apply: &Apply) -> (Fields, Vec<(String, Fields)>) {
    let mut own = Fields::new();
    let mut others = Vec::new();
    for entry in applied_entries(current) {
        let fields = entry["fieldsV1"].as_object().cloned().unwrap_or_default();
        if is_own(entry, apply) {
            own = fields;
        } else {
            others.push((object::text(entry, "/manager").to_owned(), fields));
        }
    }
    (own, others)
}

fn applied_entries(current: &Value) -> impl Iterator<Item = &Value> {
    object::list(current, "/metadata/managedFields")
        .iter()
        .filter(|e| e["operation"] == "Apply")
}

fn is_own(entry: &Value, apply: &Apply) -> bool {
    entry["manager"] == apply.manager && object::text(entry, "/subresource") == apply.subresource
}

fn write_managers(
    current: &Value,
    updated: &mut Value,
    apply: &Apply,
    owned: Fields,
    others: &[(String, Fields)],
) {
    let mut entries: Vec<Value> = object::list(current, "/metadata/managedFields")
        .iter()
        .filter(|e| e["operation"] != "Apply")
        .cloned()
        .collect();
    let foreign = applied_entries(current).filter(|e| !is_own(e, apply));
    for (entry, (_, fields)) in foreign.zip(others) {
        let mut entry = entry.clone();
        entry["fieldsV1"] = Value::Object(fields.clone());
        if !fields.is_empty() {
            entries.push(entry);
        }
    }
    let same = applied_entries(current)
        .find(|e| is_own(e, apply) && e["fieldsV1"].as_object() == Some(&owned));
    let time = same.map_or_else(|| json!(object::now()), |e| e["time"].clone());
    let mut entry = json!({
        "manager": apply.manager, "operation": "Apply", "apiVersion": updated["apiVersion"],
        "time": time, "fieldsType": "FieldsV1", "fieldsV1": owned,
    });
    if !apply.subresource.is_empty() {
        entry["subresource"] = json!(apply.subresource);
    }
    entries.push(entry);
    metadata_mut(updated).insert("managedFields".to_owned(), json!(entries));
}

/// Reports the fields whose values differ, and takes them out of the other's set (which
/// counts only if the apply is forced).
fn find_conflicts(
    kind: &str,
    config: &Value,
    current: &Value,
    owned: &Fields,
    other: &mut Fields,
    report: &mut impl FnMut(String),
) {
    let mut walk = Walk { report };
    walk.map(kind, config, current, owned, other, "");
}

struct Walk<'a, F> {
    report: &'a mut F,
}

impl<F: FnMut(String)> Walk<'_, F> {
    fn map(
        &mut self,
        kind: &str,
        config: &Value,
        current: &Value,
        owned: &Fields,
        other: &mut Fields,
        path: &str,
    ) {
        let shared: Vec<String> = owned
            .keys()
            .filter(|k| other.contains_key(*k))
            .cloned()
            .collect();
        for name in shared {
            let Some(field) = name.strip_prefix("f:") else {
                continue;
            };
            let (want, have) = (&config[field], &current[field]);
            let path = format!("{path}.{field}");
            let (Some(Value::Object(mine)), Some(Value::Object(theirs))) =
                (owned.get(&name), other.get_mut(&name))
            else {
                continue;
            };
            let taken = match shape(kind, field, want) {
                _ if want == have => false,
                Shape::Map(of) if !theirs.is_empty() => {
                    self.map(of, want, have, mine, theirs, &path);
                    theirs.is_empty()
                }
                Shape::Items(keys, of) => {
                    self.items(keys, of, (want, have), mine, theirs, &path);
                    theirs.is_empty()
                }
                // An empty map says that the map is there, not what is in it.
                Shape::Set | Shape::Map(_) => false,
                Shape::Atom => {
                    (self.report)(path);
                    true
                }
            };
            if taken {
                other.shift_remove(&name);
            }
        }
    }

    fn items(
        &mut self,
        keys: &[&str],
        of: &str,
        (want, have): (&Value, &Value),
        owned: &Fields,
        other: &mut Fields,
        path: &str,
    ) {
        let none = Value::Null;
        for item in want.as_array().into_iter().flatten() {
            let name = fields::item_name(keys, item);
            let existing = have.as_array().into_iter().flatten();
            let existing = existing
                .clone()
                .find(|i| fields::item_name(keys, i) == name)
                .unwrap_or(&none);
            if let (Some(Value::Object(mine)), Some(Value::Object(theirs))) =
                (owned.get(&name), other.get_mut(&name))
            {
                let path = format!("{path}[{}]", &name[2..]);
                self.map(of, item, existing, mine, theirs, &path);
            }
        }
    }
}

/// Takes away what the applier owned, owns no more, and nobody else owns.
fn remove_dropped(value: &mut Value, old: &Fields, new: &Fields, others: &[&Fields]) {
    for (name, inner) in old.iter().filter(|(name, _)| *name != ".") {
        let kept = new.get(name);
        let theirs: Vec<&Fields> = others
            .iter()
            .filter_map(|o| o.get(name)?.as_object())
            .collect();
        let is_leaf = inner.as_object().is_none_or(Map::is_empty);
        let whole = is_leaf || name.starts_with("k:") || name.starts_with("v:");
        if kept.is_none() && theirs.is_empty() && whole {
            remove_child(value, name);
            continue;
        }
        let empty = Fields::new();
        let kept_inner = kept.and_then(Value::as_object).unwrap_or(&empty);
        let Some(child) = child_mut(value, name) else {
            continue;
        };
        if let Value::Object(inner) = inner {
            remove_dropped(child, inner, kept_inner, &theirs);
        }
        let hollow = match child {
            Value::Object(map) => map.is_empty(),
            Value::Array(items) => items.is_empty(),
            _ => false,
        };
        if hollow && kept.is_none() && theirs.is_empty() {
            remove_child(value, name);
        }
    }
}

fn child_mut<'a>(value: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    if let Some(field) = name.strip_prefix("f:") {
        return value.as_object_mut()?.get_mut(field);
    }
    let identity = identity_of(name)?;
    let items = value.as_array_mut()?;
    items.iter_mut().find(|item| is_item(item, &identity))
}

fn remove_child(value: &mut Value, name: &str) {
    if let (Some(field), Value::Object(map)) = (name.strip_prefix("f:"), &mut *value) {
        map.shift_remove(field);
    } else if let (Some(plain), Value::Array(items)) = (name.strip_prefix("v:"), &mut *value) {
        items.retain(|item| !prints_as(item, plain));
    } else if let (Some(identity), Value::Array(items)) = (identity_of(name), value) {
        items.retain(|item| !is_item(item, &identity));
    }
}

/// Whether `value` is written as `text` in JSON.
fn prints_as(value: &Value, text: &str) -> bool {
    let written = value.to_string();
    written == text
}

fn identity_of(name: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(name.strip_prefix("k:")?).ok()
}

fn is_item(item: &Value, identity: &Map<String, Value>) -> bool {
    identity.iter().all(|(key, value)| {
        let default = key == "protocol" && item[key].is_null() && value == "TCP";
        default || item[key] == *value
    })
}

fn merge_map(kind: &str, target: &mut Map<String, Value>, config: &Map<String, Value>) {
    for (field, value) in config.iter().filter(|(_, v)| !v.is_null()) {
        let slot = target.entry(field.clone()).or_insert(Value::Null);
        match (shape(kind, field, value), value, &mut *slot) {
            (Shape::Map(of), Value::Object(config), Value::Object(map)) => {
                merge_map(of, map, config);
            }
            (Shape::Items(keys, of), Value::Array(config), Value::Array(items)) => {
                merge_items(keys, of, items, config);
            }
            (Shape::Set, Value::Array(config), Value::Array(items)) => {
                let new: Vec<Value> = config
                    .iter()
                    .filter(|v| !items.contains(v))
                    .cloned()
                    .collect();
                items.extend(new);
            }
            _ => *slot = value.clone(),
        }
    }
}

fn merge_items(keys: &[&str], of: &str, items: &mut Vec<Value>, config: &[Value]) {
    for wanted in config {
        let name = fields::item_name(keys, wanted);
        let same = items
            .iter_mut()
            .find(|i| fields::item_name(keys, i) == name);
        match (same, wanted) {
            (Some(Value::Object(map)), Value::Object(wanted)) => merge_map(of, map, wanted),
            (Some(other), wanted) => *other = wanted.clone(),
            (None, wanted) => items.push(wanted.clone()),
        }
    }
}

#[cfg(test)]
mod tests;
