//! Where references count from.

use serde_json::Value;

/// Refuses a schema that has schemas with a base of their own: the library resolves what is below
/// them from there, and not from the top; and one of them may bear the top's own name.
///
/// It looks for them where it knows schemas to be, also in those that nothing refers to, and on the
/// way of each reference as long as that leads through such places. Elsewhere, as in the values of
/// `enum`, `const`, `default` and `examples`, these are names like others.
pub(super) fn check(root: &Value) -> Result<(), String> {
    fields(root).try_for_each(|(name, value)| below(name, value))
}

pub(super) fn refused(name: &str) -> String {
    format!("{name} is supported at its top only")
}

fn fields(schema: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let fields = schema.as_object().into_iter().flatten();
    fields.map(|(name, value)| (name.as_str(), value))
}

/// Looks at the schemas that a keyword has. Reading JSON has bounded their depth.
fn below(keyword: &str, value: &Value) -> Result<(), String> {
    match keyword {
        "additionalItems"
        | "additionalProperties"
        | "contains"
        | "contentSchema"
        | "else"
        | "if"
        | "items"
        | "not"
        | "propertyNames"
        | "then"
        | "unevaluatedItems"
        | "unevaluatedProperties"
        | "allOf"
        | "anyOf"
        | "oneOf"
        | "prefixItems" => match value {
            Value::Array(schemas) => schemas.iter().try_for_each(schema),
            one => schema(one),
        },
        "$defs" | "definitions" | "dependencies" | "dependentSchemas" | "patternProperties"
        | "properties" => fields(value).try_for_each(|(_name, it)| schema(it)),
        _ => Ok(()),
    }
}

/// Looks at a schema below the top.
fn schema(it: &Value) -> Result<(), String> {
    fields(it).try_for_each(|(name, value)| match name {
        "$id" | "$schema" if value.is_string() => Err(refused(name)),
        _ => below(name, value),
    })
}

#[cfg(test)]
mod tests;
