//! Tables of custom resources, from their CRD's `additionalPrinterColumns`.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, age, path};
use crate::api::object;
use crate::api::resource::ResourceType;

fn defined<'a>(info: &'a ResourceType, version: &str) -> &'a [Value] {
    info.find_version(version)
        .map_or(&[], |v| v.columns.as_slice())
}

/// Name, then the CRD's columns; age when it has none.
pub(super) fn columns(info: &ResourceType, version: &str) -> Vec<Column> {
    let mut columns = vec![Column::new("Name", "string", false)];
    let own = defined(info, version);
    if own.is_empty() {
        columns.push(Column::new("Age", "date", false));
    }
    columns.extend(own.iter().map(|c| Column {
        name: object::text(c, "/name").to_owned(),
        kind: object::text(c, "/type").to_owned(),
        description: object::text(c, "/description").to_owned(),
        priority: object::number(c, "/priority"),
    }));
    columns
}

/// The cells of those columns.
pub(super) fn cells(
    info: &ResourceType,
    version: &str,
    object: &Value,
    now: Timestamp,
) -> Vec<Value> {
    let mut cells = vec![json!(object::name(object))];
    let own = defined(info, version);
    if own.is_empty() {
        cells.push(json!(age::of(object, now)));
    }
    cells.extend(own.iter().map(|column| {
        let found = path::find(object, object::text(column, "/jsonPath"));
        cell(object::text(column, "/type"), &found, now)
    }));
    cells
}

fn cell(kind: &str, found: &[&Value], now: Timestamp) -> Value {
    match (kind, found) {
        (_, []) => Value::Null,
        ("date", [first, ..]) => json!(age::since(first, now)),
        ("integer" | "number" | "boolean", [first, ..]) => Value::clone(first),
        (_, [Value::String(text)]) => json!(text),
        (_, many) => {
            let texts = many.iter().map(|v| match v {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            });
            json!(texts.collect::<Vec<_>>().join(","))
        }
    }
}
