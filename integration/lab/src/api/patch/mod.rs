//! The four ways to patch an object.

pub mod apply;
mod fields;
pub mod strategic;

use serde_json::{Map, Value};

use super::resource::ResourceType;
use super::status::ApiError;

/// How a patch's body is meant, by its content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 7386.
    Merge,
    /// RFC 6902.
    Json,
    /// Kubernetes' merge with keys for lists.
    Strategic,
    /// Server-side apply.
    Apply,
}

impl PatchKind {
    /// From a `Content-Type`.
    pub fn of(content_type: &str) -> Result<Self, ApiError> {
        let plain = content_type.split(';').next().unwrap_or_default().trim();
        match plain {
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/json-patch+json" => Ok(Self::Json),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            other => Err(ApiError::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml (not {other:?})"
            ))),
        }
    }
}

/// The patched object, for every kind but [`PatchKind::Apply`].
pub fn patched(
    kind: PatchKind,
    info: &ResourceType,
    current: &Value,
    patch: &Value,
) -> Result<Value, ApiError> {
    let mut updated = current.clone();
    match kind {
        PatchKind::Merge => merge(&mut updated, patch),
        PatchKind::Json => {
            let operations: json_patch::Patch = serde_json::from_value(patch.clone())
                .map_err(|error| ApiError::bad_request(format!("not a JSON patch: {error}")))?;
            json_patch::patch(&mut updated, &operations).map_err(|error| {
                ApiError::invalid_patch(format!(
                    "the server rejected our request due to an error in our request: {error}"
                ))
            })?;
        }
        PatchKind::Strategic if info.custom => {
            return Err(ApiError::unsupported_media_type(
                "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            ));
        }
        PatchKind::Strategic => {
            updated =
                strategic::apply(&info.kind, current, patch).map_err(ApiError::bad_request)?;
        }
        PatchKind::Apply => {
            return Err(ApiError::internal("apply is not a plain patch"));
        }
    }
    Ok(updated)
}

/// RFC 7386, keeping the order of the keys that stay (which `json_patch::merge` does not:
/// it removes by swapping with the last).
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(map) = target.as_object_mut() else {
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            map.shift_remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merge_keeps_order_and_drops_nulls() {
        let mut target = json!({"a": 1, "b": {"c": 1, "d": 2}, "e": [1, 2], "f": 3});
        merge(
            &mut target,
            &json!({"a": null, "b": {"c": null, "x": {"y": null, "z": 1}}, "e": [3]}),
        );
        assert_eq!(
            target.to_string(),
            r#"{"b":{"d":2,"x":{"z":1}},"e":[3],"f":3}"#
        );
    }
}
