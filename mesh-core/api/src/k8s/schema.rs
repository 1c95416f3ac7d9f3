//! Schemas as Kubernetes wants them, generated from types.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::spec::NotYet;

/// Marks a property that is known but refused. Left out of what is published.
pub(super) const NOT_YET: &str = "x-weft-not-yet";
const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";

impl JsonSchema for NotYet {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "NotYet".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ PRESERVE: true, NOT_YET: true })
    }

    fn inline_schema() -> bool {
        true
    }
}

/// The schema of a type: no references, one `type` and `nullable` instead of
/// lists of types, objects that keep fields they do not know.
pub(super) fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let mut schema = schema.to_value();
    simplify(&mut schema);
    schema
}

fn simplify(schema: &mut Value) {
    let Value::Object(object) = schema else {
        return;
    };
    // `Option<Struct>`: any of the struct and null.
    if let Some(Value::Array(options)) = object.remove("anyOf") {
        let is_null = |option: &Value| option.get("type") == Some(&json!("null"));
        for option in options.into_iter().filter(|option| !is_null(option)) {
            if let Value::Object(fields) = option {
                let enum_of_null = fields.get("enum") == Some(&json!([null]));
                if !enum_of_null {
                    // The property's own description says more than the type's.
                    for (key, value) in fields {
                        object.entry(key).or_insert(value);
                    }
                }
            }
        }
    }
    for noise in ["title", "default", "$schema", "nullable"] {
        object.remove(noise);
    }
    // Numbers of bits are Rust's business; an API server knows int32 and int64.
    if object
        .get("format")
        .and_then(Value::as_str)
        .is_some_and(|format| format.starts_with("uint"))
    {
        object.remove("format");
    }
    if let Some(Value::Array(types)) = object.get("type") {
        let only = types.iter().find(|kind| *kind != "null").cloned();
        object.insert("type".into(), only.unwrap_or_default());
    }
    if object.contains_key("properties") {
        object.insert(PRESERVE.into(), json!(true));
    }
    for nested in ["items", "additionalProperties"] {
        if let Some(inner) = object.get_mut(nested) {
            simplify(inner);
        }
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        properties.values_mut().for_each(simplify);
    }
}

/// The schema without our own marks, to be installed.
pub(super) fn published(mut schema: Value) -> Value {
    fn clean(schema: &mut Map<String, Value>) {
        schema.remove(NOT_YET);
        for value in schema.values_mut() {
            if let Value::Object(inner) = value {
                clean(inner);
            }
        }
    }
    if let Value::Object(object) = &mut schema {
        clean(object);
    }
    schema
}
