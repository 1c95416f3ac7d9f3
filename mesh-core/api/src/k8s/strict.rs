//! Objects against the schemas of their types: every field known, every value
//! of its type.

use serde_json::{Map, Value};

use super::error::{Errors, Path};
use super::spec::NOT_YET;

/// Checks a value against a schema and adds what is wrong to `errors`. A null
/// is as good as no value.
pub(super) fn check(value: &Value, schema: &Value, path: &Path, errors: &mut Errors) {
    if value.is_null() {
        return;
    }
    if schema.get(NOT_YET).is_some() {
        errors.add(path, "not supported yet");
        return;
    }
    let kind = schema.get("type").and_then(Value::as_str);
    match (kind, value) {
        (Some("object"), Value::Object(object)) => fields(object, schema, path, errors),
        (Some("array"), Value::Array(items)) => {
            let Some(item) = schema.get("items") else {
                return;
            };
            for (index, value) in items.iter().enumerate() {
                let path = path.index(index);
                match value {
                    Value::Null => errors.add(&path, "must not be null"),
                    value => check(value, item, &path, errors),
                }
            }
        }
        (Some("string"), Value::String(_)) | (Some("boolean"), Value::Bool(_)) | (None, _) => {}
        (Some("integer"), Value::Number(number)) if number.is_i64() || number.is_u64() => {}
        (Some(expected), value) => errors.add(path, wrong_type(expected, value)),
    }
}

fn wrong_type(expected: &str, value: &Value) -> String {
    let (found, hint) = match value {
        Value::Null => ("null", String::new()),
        Value::Bool(value) => ("a boolean", format!(", write \"{value}\"")),
        Value::Number(value) => ("a number", format!(", write \"{value}\"")),
        Value::String(_) => ("a string", String::new()),
        Value::Array(_) => ("a list", String::new()),
        Value::Object(_) => ("an object", String::new()),
    };
    let hint = if expected == "string" {
        hint
    } else {
        String::new()
    };
    let expected = match expected {
        "array" => "a list",
        "object" => "an object",
        "string" => "a string",
        "integer" => "an integer",
        "boolean" => "true or false",
        other => other,
    };
    format!("must be {expected}, not {found}{hint}")
}

fn fields(object: &Map<String, Value>, schema: &Value, path: &Path, errors: &mut Errors) {
    let known = schema.get("properties").and_then(Value::as_object);
    for (name, value) in object {
        let path = path.field(name);
        match (known.and_then(|known| known.get(name)), known) {
            (Some(schema), _) => check(value, schema, &path, errors),
            (None, Some(known)) => errors.add_with(&path, || {
                unknown_field(name, known.keys().map(String::as_str))
            }),
            (None, None) => match schema.get("additionalProperties") {
                Some(Value::Object(_)) if value.is_null() => {
                    errors.add(&path, "must not be null");
                }
                Some(schema @ Value::Object(_)) => check(value, schema, &path, errors),
                _ => {}
            },
        }
    }
    let required = schema.get("required").and_then(Value::as_array);
    for name in required.into_iter().flatten().filter_map(Value::as_str) {
        if object.get(name).is_none_or(Value::is_null) {
            errors.add(&path.field(name), "is required");
        }
    }
}

/// Says that there is no such field, and which one was probably meant.
pub(super) fn unknown_field<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    match suggestion(name, known) {
        Some(known) => format!("unknown field, did you mean {known}"),
        None => "unknown field".into(),
    }
}

/// Longest name for which a known one is suggested: comparing takes time.
const LONGEST_NAME: usize = 64;

/// Says that a value is none of those that are known, and which one was probably meant.
pub(super) fn none_of(name: &str, known: &[&str]) -> String {
    let hint = suggestion(name, known.iter().copied())
        .map_or(String::new(), |known| format!(", did you mean {known}"));
    format!("`{name}` is none of {}{hint}", known.join(", "))
}

/// The known name that a mistyped one was probably meant to be.
pub(super) fn suggestion<'a>(
    name: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if name.len() > LONGEST_NAME {
        return None;
    }
    let lower = name.to_lowercase();
    known
        .into_iter()
        .map(|known| (distance(&lower, &known.to_lowercase()), known))
        .filter(|(distance, known)| *distance <= 2 && *distance < known.len())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// Levenshtein distance.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, from) in left.chars().enumerate() {
        let mut next = Vec::with_capacity(row.len());
        next.push(index + 1);
        for ((to, substitute), above) in right.iter().zip(&row).zip(row.iter().skip(1)) {
            let insert = next.last().copied().unwrap_or(usize::MAX - 1) + 1;
            let substitute = substitute + usize::from(from != *to);
            next.push(insert.min(above + 1).min(substitute));
        }
        row = next;
    }
    row.last().copied().unwrap_or(usize::MAX)
}
