//! Sets of fields in the `FieldsV1` form of `managedFields`: `f:` a field, `k:` a list
//! item by its keys, `v:` a value of a set, `.` the thing itself.

use serde_json::{Map, Value, json};

use super::strategic;

/// A set of fields.
pub(super) type Fields = Map<String, Value>;

/// How a value of a field is told apart further down.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    /// A map whose fields follow this type's rules.
    Map(&'static str),
    /// A list of items told apart by these keys, of this type.
    Items(&'static [&'static str], &'static str),
    /// A list of plain values.
    Set,
    /// All or nothing.
    Atom,
}

/// The shape of `value` in the field `field` of a `kind`.
pub(super) fn shape(kind: &str, field: &str, value: &Value) -> Shape {
    match value {
        Value::Object(_) => Shape::Map(strategic::inside(kind, field)),
        Value::Array(items) => {
            if strategic::is_set(kind, field) {
                return Shape::Set;
            }
            let Some((key, of)) = strategic::list_key(kind, field) else {
                return Shape::Atom;
            };
            let keys = identity(key);
            let complete = items.iter().all(|item| !item[key].is_null());
            if complete {
                Shape::Items(keys, of)
            } else {
                Shape::Atom
            }
        }
        _ => Shape::Atom,
    }
}

/// Ports are told apart by protocol too, other than in strategic merge.
fn identity(merge_key: &'static str) -> &'static [&'static str] {
    match merge_key {
        "containerPort" => &["containerPort", "protocol"],
        "port" => &["port", "protocol"],
        "name" => &["name"],
        "type" => &["type"],
        "uid" => &["uid"],
        "ip" => &["ip"],
        "mountPath" => &["mountPath"],
        "devicePath" => &["devicePath"],
        _ => &["topologyKey", "whenUnsatisfiable"],
    }
}

/// The `k:` name of a list item.
pub(super) fn item_name(keys: &[&str], item: &Value) -> String {
    let mut identity = Map::new();
    for key in keys {
        let value = match &item[*key] {
            Value::Null if *key == "protocol" => json!("TCP"),
            value => value.clone(),
        };
        if !value.is_null() {
            identity.insert((*key).to_owned(), value);
        }
    }
    format!("k:{}", Value::Object(identity))
}

/// The fields that a map of a `kind` sets.
pub(super) fn of_map(kind: &str, map: &Map<String, Value>) -> Fields {
    let set = map.iter().filter(|(_, value)| !value.is_null());
    set.map(|(field, value)| {
        let inner = match (shape(kind, field, value), value) {
            (Shape::Map(of), Value::Object(map)) => of_map(of, map),
            (Shape::Items(keys, of), Value::Array(items)) => of_items(keys, of, items),
            (Shape::Set, Value::Array(values)) => {
                let names = values.iter().map(|v| (format!("v:{v}"), json!({})));
                names.collect()
            }
            _ => Fields::new(),
        };
        (format!("f:{field}"), Value::Object(inner))
    })
    .collect()
}

fn of_items(keys: &[&str], of: &str, items: &[Value]) -> Fields {
    let mut out = Fields::new();
    for item in items {
        let mut inner = item.as_object().map(|m| of_map(of, m)).unwrap_or_default();
        inner.insert(".".to_owned(), json!({}));
        out.insert(item_name(keys, item), Value::Object(inner));
    }
    out
}
