//! Custom resource definitions: what they make the API serve, and the light validation
//! of custom objects. Unknown fields are kept, whatever the schema says: whoever reads
//! the object is to judge them.

use serde_json::{Map, Value, json};

use super::object;
use super::resource::{ResourceType, Scale, Version};
use super::status::ApiError;
use super::store::State;

type Causes = Vec<(String, String)>;

/// The resource that a definition defines; `None` when the definition is unusable.
pub(super) fn resource_of(definition: &Value) -> Option<ResourceType> {
    let spec = &definition["spec"];
    let names = &spec["names"];
    let mut versions: Vec<&Value> = object::list(spec, "/versions")
        .iter()
        .filter(|v| v["served"] == true)
        .collect();
    // Objects are kept in the storage version, so it leads.
    versions.sort_by_key(|v| v["storage"] != true);
    let first = versions.first()?;
    let scale = first.pointer("/subresources/scale").map(|scale| Scale {
        spec: pointer_of(object::text(scale, "/specReplicasPath")),
        status: pointer_of(object::text(scale, "/statusReplicasPath")),
        selector: scale["labelSelectorPath"].as_str().map(pointer_of),
    });
    let texts = |value: &Value| -> Vec<String> {
        let items = value.as_array().into_iter().flatten();
        items.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let kind = names["kind"].as_str()?.to_owned();
    Some(ResourceType {
        group: spec["group"].as_str()?.to_owned(),
        list_kind: names["listKind"]
            .as_str()
            .map_or_else(|| format!("{kind}List"), str::to_owned),
        plural: names["plural"].as_str()?.to_owned(),
        singular: names["singular"]
            .as_str()
            .map_or_else(|| kind.to_lowercase(), str::to_owned),
        short_names: texts(&names["shortNames"]),
        categories: texts(&names["categories"]),
        namespaced: spec["scope"] == "Namespaced",
        status: first.pointer("/subresources/status").is_some(),
        scale,
        custom: true,
        versions: versions.iter().map(|v| version_of(v)).collect(),
        kind,
    })
}

fn version_of(version: &Value) -> Version {
    Version {
        name: object::text(version, "/name").to_owned(),
        columns: object::list(version, "/additionalPrinterColumns").to_vec(),
        schema: version
            .pointer("/schema/openAPIV3Schema")
            .cloned()
            .unwrap_or_default(),
    }
}

/// `.spec.replicas` as a JSON pointer.
fn pointer_of(path: &str) -> String {
    path.replace('.', "/")
}

/// Checks a definition and writes the status that says it is served.
pub(super) fn accept(
    state: &State,
    info: &ResourceType,
    definition: &mut Value,
) -> Result<(), ApiError> {
    let spec = &definition["spec"];
    let name = object::name(definition).to_owned();
    let mut causes = Causes::new();
    let expected = format!(
        "{}.{}",
        object::text(spec, "/names/plural"),
        object::text(spec, "/group")
    );
    if name != expected {
        let message =
            format!("Invalid value: {name:?}: must be spec.names.plural+\".\"+spec.group");
        causes.push(("metadata.name".to_owned(), message));
    }
    if !matches!(object::text(spec, "/scope"), "Namespaced" | "Cluster") {
        causes.push(("spec.scope".to_owned(), "Required value".to_owned()));
    }
    let versions = object::list(spec, "/versions");
    if versions.iter().filter(|v| v["storage"] == true).count() != 1 {
        let message = "Invalid value: must have exactly one version marked as storage version";
        causes.push(("spec.versions".to_owned(), message.to_owned()));
    }
    match resource_of(definition) {
        None => causes.push(("spec.names".to_owned(), "Required value".to_owned())),
        Some(custom) => {
            if state.info(&custom.id()).is_some_and(|other| !other.custom) {
                let message = "Invalid value: the resource is built in".to_owned();
                causes.push(("spec.names.plural".to_owned(), message));
            }
            write_names_and_status(definition, &custom);
        }
    }
    if causes.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid(info, &name, &causes))
    }
}

fn write_names_and_status(definition: &mut Value, custom: &ResourceType) {
    let names = object::child(&mut definition["spec"], "names");
    names.insert("singular".to_owned(), json!(custom.singular));
    names.insert("listKind".to_owned(), json!(custom.list_kind));
    let names = definition["spec"]["names"].clone();
    let since = object::list(definition, "/status/conditions")
        .first()
        .map_or_else(|| json!(object::now()), |c| c["lastTransitionTime"].clone());
    let condition = |kind: &str, reason: &str, message: &str| json!({ "type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": since });
    let stored: Vec<&str> = custom
        .versions
        .iter()
        .take(1)
        .map(|v| v.name.as_str())
        .collect();
    definition["status"] = json!({
        "acceptedNames": names,
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
        "storedVersions": stored,
    });
}

/// Fills in what a custom object leaves out and its version's schema has a default for.
pub(super) fn fill_in(info: &ResourceType, object: &mut Value) {
    if let Some(version) = info.versions.first() {
        defaults(&version.schema, object);
    }
}

fn defaults(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            let known = schema["properties"].as_object();
            for (name, schema) in known.into_iter().flatten() {
                let absent = map.get(name).is_none_or(Value::is_null);
                if absent && let Some(default) = schema.get("default") {
                    map.insert(name.clone(), default.clone());
                }
            }
            for (name, inner) in map {
                let of_name = known.and_then(|known| known.get(name));
                defaults(of_name.unwrap_or(&schema["additionalProperties"]), inner);
            }
        }
        Value::Array(items) => {
            for item in items {
                defaults(&schema["items"], item);
            }
        }
        _ => {}
    }
}

/// Judges a custom object by its version's schema: types, required fields, enums, bounds.
pub(super) fn validate(info: &ResourceType, object: &Value, causes: &mut Causes) {
    let Some(version) = info.versions.first() else {
        return;
    };
    let properties = version.schema["properties"].as_object();
    for (key, schema) in properties.into_iter().flatten() {
        // The server owns the shape of these.
        if matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        match &object[key.as_str()] {
            Value::Null => {}
            value => check(schema, value, key, causes),
        }
    }
    required(&version.schema, object, "", causes);
}

fn check(schema: &Value, value: &Value, path: &str, causes: &mut Causes) {
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    if !type_fits(schema, value) {
        let wanted = object::text(schema, "/type");
        let message = format!(
            "Invalid value: {:?}: {path} in body must be of type {wanted}: {:?}",
            type_name(value),
            type_name(value)
        );
        causes.push((path.to_owned(), message));
        return;
    }
    let choices = object::list(schema, "/enum");
    if !choices.is_empty() && !choices.contains(value) {
        let supported: Vec<String> = choices.iter().map(Value::to_string).collect();
        let message = format!(
            "Unsupported value: {value}: supported values: {}",
            supported.join(", ")
        );
        causes.push((path.to_owned(), message));
    }
    bounds(schema, value, path, causes);
    match value {
        Value::Object(map) => members(schema, map, value, path, causes),
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                check(&schema["items"], item, &format!("{path}[{i}]"), causes);
            }
        }
        _ => {}
    }
}

fn members(
    schema: &Value,
    map: &Map<String, Value>,
    value: &Value,
    path: &str,
    causes: &mut Causes,
) {
    required(schema, value, path, causes);
    for (key, inner) in map {
        let known = &schema["properties"][key.as_str()];
        let schema = if known.is_null() {
            &schema["additionalProperties"]
        } else {
            known
        };
        // A null member counts as absent, unless the schema wants it.
        if schema.is_object() && !inner.is_null() {
            check(schema, inner, &format!("{path}.{key}"), causes);
        }
    }
}

fn required(schema: &Value, value: &Value, path: &str, causes: &mut Causes) {
    for field in object::list(schema, "/required")
        .iter()
        .filter_map(Value::as_str)
    {
        if value[field].is_null() {
            let path = if path.is_empty() {
                field.to_owned()
            } else {
                format!("{path}.{field}")
            };
            causes.push((path, "Required value".to_owned()));
        }
    }
}

fn bounds(schema: &Value, value: &Value, path: &str, causes: &mut Causes) {
    let length = match value {
        Value::Array(items) => Some(("Items", items.len())),
        Value::String(text) => Some(("Length", text.chars().count())),
        _ => None,
    };
    if let Some((what, length)) = length {
        let limit = |side: &str| schema[format!("{side}{what}")].as_u64();
        let length = length as u64;
        if limit("min").is_some_and(|least| length < least)
            || limit("max").is_some_and(|most| length > most)
        {
            let message = format!("Invalid value: {path} in body has a length of {length}");
            causes.push((path.to_owned(), message));
        }
    }
    if let Some(number) = value.as_f64() {
        let outside = schema["minimum"]
            .as_f64()
            .is_some_and(|least| number < least)
            || schema["maximum"].as_f64().is_some_and(|most| number > most);
        if outside {
            let message = format!("Invalid value: {value}: {path} in body is out of range");
            causes.push((path.to_owned(), message));
        }
    }
}

fn type_fits(schema: &Value, value: &Value) -> bool {
    if schema["x-kubernetes-int-or-string"] == true {
        return value.is_string() || value.is_i64() || value.is_u64();
    }
    match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => {
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|f| f.fract() == 0.0)
        }
        Some("number") => value.is_number(),
        _ => true,
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
