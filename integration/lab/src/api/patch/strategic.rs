//! Strategic merge patch: JSON merge that knows by which key the items of a list are told
//! apart. The keys are those of Kubernetes' own types (`x-kubernetes-patch-merge-key`).

use serde_json::{Map, Value};

/// How a field is merged. Fields that are not listed merge as plain JSON: maps by key,
/// lists replaced whole.
#[derive(Debug, Clone, Copy)]
enum Rule {
    /// A map (or the items of a list that is replaced whole) of this type.
    Map(&'static str),
    /// A list merged item by item; key and type of the items.
    Items(&'static str, &'static str),
    /// A list of plain values merged as a set.
    Set,
}

use Rule::{Items, Map as Inside, Set};

/// (type, field, rule)
const RULES: &[(&str, &str, Rule)] = &[
    ("Any", "metadata", Inside("ObjectMeta")),
    ("ObjectMeta", "ownerReferences", Items("uid", "")),
    ("ObjectMeta", "finalizers", Set),
    ("Pod", "spec", Inside("PodSpec")),
    ("Pod", "status", Inside("PodStatus")),
    ("PodSpec", "containers", Items("name", "Container")),
    ("PodSpec", "initContainers", Items("name", "Container")),
    ("PodSpec", "ephemeralContainers", Items("name", "Container")),
    ("PodSpec", "volumes", Items("name", "")),
    ("PodSpec", "imagePullSecrets", Items("name", "")),
    ("PodSpec", "hostAliases", Items("ip", "")),
    ("PodSpec", "schedulingGates", Items("name", "")),
    ("PodSpec", "resourceClaims", Items("name", "")),
    (
        "PodSpec",
        "topologySpreadConstraints",
        Items("topologyKey", ""),
    ),
    ("Container", "ports", Items("containerPort", "")),
    ("Container", "env", Items("name", "")),
    ("Container", "volumeMounts", Items("mountPath", "")),
    ("Container", "volumeDevices", Items("devicePath", "")),
    ("PodStatus", "conditions", Items("type", "")),
    ("PodStatus", "podIPs", Items("ip", "")),
    ("Template", "metadata", Inside("ObjectMeta")),
    ("Template", "spec", Inside("PodSpec")),
    ("Deployment", "spec", Inside("WorkloadSpec")),
    ("Deployment", "status", Inside("Conditions")),
    ("ReplicaSet", "spec", Inside("WorkloadSpec")),
    ("ReplicaSet", "status", Inside("Conditions")),
    ("DaemonSet", "spec", Inside("WorkloadSpec")),
    ("DaemonSet", "status", Inside("Conditions")),
    ("WorkloadSpec", "template", Inside("Template")),
    ("Conditions", "conditions", Items("type", "")),
    ("Namespace", "status", Inside("Conditions")),
    ("Service", "spec", Inside("ServiceSpec")),
    ("Service", "status", Inside("Conditions")),
    ("ServiceSpec", "ports", Items("port", "")),
    ("ServiceAccount", "secrets", Items("name", "")),
    (
        "ValidatingWebhookConfiguration",
        "webhooks",
        Items("name", ""),
    ),
    ("Node", "spec", Inside("NodeSpec")),
    ("Node", "status", Inside("NodeStatus")),
    ("NodeSpec", "podCIDRs", Set),
    ("NodeStatus", "conditions", Items("type", "")),
    ("NodeStatus", "addresses", Items("type", "")),
];

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

fn rule(kind: &str, field: &str) -> Rule {
    RULES
        .iter()
        .find(|(k, f, _)| *f == field && (*k == kind || *k == "Any" && !kind.is_empty()))
        .map_or(Inside(""), |(_, _, rule)| *rule)
}

/// How the list `field` of a built-in type is merged: the key of its items.
pub(super) fn list_key(kind: &str, field: &str) -> Option<(&'static str, &'static str)> {
    match rule(kind, field) {
        Items(key, of) => Some((key, of)),
        Inside(_) | Set => None,
    }
}

/// True for lists of plain values that merge as sets.
pub(super) fn is_set(kind: &str, field: &str) -> bool {
    matches!(rule(kind, field), Set)
}

/// The type of what is inside a map field.
pub(super) fn inside(kind: &str, field: &str) -> &'static str {
    match rule(kind, field) {
        Inside(of) => of,
        Items(..) | Set => "",
    }
}

/// `current` of a built-in kind after `patch`. No directive ever reaches the result.
///
/// # Errors
/// When the patch makes no sense: it is no object, or a list item lacks its key.
pub fn apply(kind: &str, current: &Value, patch: &Value) -> Result<Value, String> {
    let Value::Object(patch) = patch else {
        return Err("a strategic merge patch must be an object".to_owned());
    };
    let mut map = current.as_object().cloned().unwrap_or_default();
    merge_map(kind, &mut map, patch)?;
    Ok(Value::Object(map))
}

fn merge_map(
    kind: &str,
    current: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<(), String> {
    match patch.get(DIRECTIVE).and_then(Value::as_str) {
        None | Some("merge") => {}
        Some("replace") => {
            current.clear();
            current.extend(content(kind, patch)?);
            return Ok(());
        }
        Some("delete") => {
            current.clear();
            return Ok(());
        }
        Some(other) => return Err(format!("unknown $patch directive {other:?}")),
    }
    if let Some(kept) = patch.get(RETAIN) {
        let kept = kept.as_array().ok_or("$retainKeys must be a list")?;
        current.retain(|key, _| kept.iter().any(|k| k == key.as_str()));
    }
    for (key, gone) in with_prefix(patch, DELETE_FROM) {
        let gone = gone.as_array().ok_or("a list of values to delete")?;
        if let Some(Value::Array(items)) = current.get_mut(key) {
            items.retain(|item| !gone.contains(item));
        }
    }
    for (key, value) in patch.iter().filter(|(key, _)| !key.starts_with('$')) {
        merge_field(kind, current, key, value)?;
    }
    for (key, order) in with_prefix(patch, ORDER) {
        let order = order.as_array().ok_or("an order must be a list")?;
        if let Some(Value::Array(items)) = current.get_mut(key) {
            let identity = list_key(kind, key).map(|(key, _)| key);
            set_order(items, order, identity);
        }
    }
    Ok(())
}

fn with_prefix<'a>(
    patch: &'a Map<String, Value>,
    prefix: &'static str,
) -> impl Iterator<Item = (&'a str, &'a Value)> {
    patch
        .iter()
        .filter_map(move |(key, value)| Some((key.strip_prefix(prefix)?, value)))
}

fn merge_field(
    kind: &str,
    current: &mut Map<String, Value>,
    key: &str,
    value: &Value,
) -> Result<(), String> {
    let rule = rule(kind, key);
    match (value, rule) {
        (Value::Null, _) => {
            current.shift_remove(key);
        }
        (Value::Object(patch), Inside(of)) => {
            let slot = current.entry(key).or_insert(Value::Null);
            let mut map = match slot.take() {
                Value::Object(map) => map,
                _ => Map::new(),
            };
            merge_map(of, &mut map, patch)?;
            let deleted = patch.get(DIRECTIVE).is_some_and(|d| d == "delete");
            if deleted && map.is_empty() {
                current.shift_remove(key);
            } else {
                current.insert(key.to_owned(), Value::Object(map));
            }
        }
        (Value::Array(patch), Items(identity, of)) => {
            let mut items = take_list(current, key);
            merge_items(&mut items, patch, identity, of)?;
            current.insert(key.to_owned(), Value::Array(items));
        }
        (Value::Array(patch), Set) => {
            let mut items = take_list(current, key);
            for value in patch {
                if !items.contains(value) {
                    items.push(value.clone());
                }
            }
            current.insert(key.to_owned(), Value::Array(items));
        }
        (other, _) => {
            current.insert(key.to_owned(), other.clone());
        }
    }
    Ok(())
}

fn take_list(map: &mut Map<String, Value>, key: &str) -> Vec<Value> {
    match map.get_mut(key).map(Value::take) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

fn merge_items(
    items: &mut Vec<Value>,
    patch: &[Value],
    identity: &str,
    of: &str,
) -> Result<(), String> {
    let directive = |item: &Value| item[DIRECTIVE].as_str().map(str::to_owned);
    if patch
        .iter()
        .any(|i| directive(i).as_deref() == Some("replace"))
    {
        items.clear();
    }
    for item in patch {
        let Value::Object(map) = item else {
            return Err(format!(
                "items of this list must be objects with {identity:?}"
            ));
        };
        let wanted = &item[identity];
        match directive(item).as_deref() {
            Some("replace") if wanted.is_null() => continue,
            _ if wanted.is_null() => {
                return Err(format!(
                    "an item of the list lacks its merge key {identity:?}"
                ));
            }
            Some("delete") => {
                items.retain(|i| i[identity] != *wanted);
                continue;
            }
            _ => {}
        }
        match items.iter_mut().find(|i| i[identity] == *wanted) {
            Some(Value::Object(existing)) => merge_map(of, existing, map)?,
            _ => items.push(Value::Object(content(of, map)?)),
        }
    }
    Ok(())
}

/// The patch as plain content: merged into nothing, so that directives inside fall away.
fn content(kind: &str, patch: &Map<String, Value>) -> Result<Map<String, Value>, String> {
    let mut plain = patch.clone();
    plain.retain(|key, _| key != DIRECTIVE && key != RETAIN);
    let mut out = Map::new();
    merge_map(kind, &mut out, &plain)?;
    Ok(out)
}

/// Puts the items into the client's order. Items that the client does not know keep their
/// place relative to their neighbours; none is lost, not even with equal keys.
fn set_order(items: &mut Vec<Value>, order: &[Value], identity: Option<&str>) {
    let rank = |item: &Value| {
        order.iter().position(|o| match identity {
            Some(key) => o[key] == item[key],
            None => o == item,
        })
    };
    let all: Vec<(usize, Option<usize>, Value)> = std::mem::take(items)
        .into_iter()
        .enumerate()
        .map(|(place, item)| (place, rank(&item), item))
        .collect();
    let (mut ordered, others): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|(_, rank, _)| rank.is_some());
    ordered.sort_by_key(|(_, rank, _)| *rank);
    // Merge both runs: an unknown item goes before the first ordered one that it stood before.
    let mut others = others.into_iter().peekable();
    for (place, _, item) in ordered {
        while others.peek().is_some_and(|(other, ..)| *other < place) {
            items.extend(others.next().map(|(.., item)| item));
        }
        items.push(item);
    }
    items.extend(others.map(|(.., item)| item));
}

#[cfg(test)]
mod tests;
