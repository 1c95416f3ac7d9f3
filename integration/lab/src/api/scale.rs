//! `/scale`: the number of replicas of anything that has one.

use axum::Json;
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::body;
use super::object;
use super::patch::{self, PatchKind};
use super::resource::{ResourceType, Scale};
use super::selector::LabelSelector;
use super::server::Call;
use super::status::ApiError;
use super::store::Part;
use super::warning;
use super::write;

/// Reads, replaces or patches the scale of an object.
pub(super) async fn serve(call: &Call<'_>) -> Result<Response, ApiError> {
    let (Some(scale), Some(name)) = (&call.info.scale, &call.target.name) else {
        return Err(ApiError::no_such_resource());
    };
    let id = &call.target.id;
    let namespace = call.target.namespace_for(&call.info)?;
    let (headers, body) = (&call.parts.headers, &call.body);
    let kind = match call.parts.method {
        Method::GET => {
            let object = call.store.get_object(id, namespace, name)?;
            return Ok(Json(show(scale, &object)).into_response());
        }
        Method::PUT => None,
        Method::PATCH => Some(PatchKind::of(body::content_type(headers))?),
        _ => return Err(ApiError::method_not_allowed()),
    };
    let sent = body::decode(headers, body)?;
    let edit = |current: &Value| {
        let wanted = match kind {
            Some(kind) => patched(kind, &call.info, &show(scale, current), &sent)?,
            None => sent.clone(),
        };
        let replicas = &wanted["spec"]["replicas"];
        let replicas = replicas.as_u64().unwrap_or(0);
        let mut updated = current.clone();
        let version = object::meta(&wanted, "resourceVersion");
        if !version.is_empty() {
            updated["metadata"]["resourceVersion"] = json!(version);
        }
        set(&mut updated, &scale.spec, json!(replicas));
        Ok(updated)
    };
    let updated = write::put(call, || {
        let draft = call
            .store
            .draft_update(id, namespace, name, Part::Main, edit)?;
        Ok((draft, Vec::new()))
    });
    let updated = updated.await?;
    let mut response = Json(show(scale, &updated.object)).into_response();
    warning::warn(response.headers_mut(), &updated.warnings);
    Ok(response)
}

fn patched(
    kind: PatchKind,
    info: &ResourceType,
    current: &Value,
    patch: &Value,
) -> Result<Value, ApiError> {
    match kind {
        PatchKind::Json => patch::patched(kind, info, current, patch),
        // A Scale has no lists: all the merging kinds come to the same.
        PatchKind::Merge | PatchKind::Strategic | PatchKind::Apply => {
            let mut updated = current.clone();
            patch::merge(&mut updated, patch);
            Ok(updated)
        }
    }
}

/// The scale of an object.
fn show(scale: &Scale, object: &Value) -> Value {
    let selector = scale
        .selector
        .as_deref()
        .and_then(|path| object.pointer(path))
        .map(|selector| match selector {
            Value::String(text) => text.clone(),
            other => LabelSelector::from_object(other)
                .unwrap_or_default()
                .to_string(),
        });
    let metadata = &object["metadata"];
    let mut status = json!({ "replicas": object::number(object, &scale.status) });
    if let Some(selector) = selector {
        status["selector"] = json!(selector);
    }
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"],
        },
        "spec": { "replicas": object::number(object, &scale.spec) },
        "status": status,
    })
}

/// Sets the value at a pointer, making the maps on the way.
fn set(object: &mut Value, pointer: &str, value: Value) {
    let mut slot = object;
    for key in pointer.split('/').filter(|k| !k.is_empty()) {
        slot = object::child_or_null(slot, key);
    }
    *slot = value;
}
