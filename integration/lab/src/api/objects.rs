//! The verbs on objects.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::admission;
use super::body;
use super::object;
use super::patch::{self, PatchKind, apply};
use super::server::Call;
use super::status::ApiError;
use super::store::{DeleteOptions, Deleted, Part, Propagation};
use super::warning;
use super::write::{self, Written};

/// The namespace of a collection; `None` for all of them, and for cluster-scoped kinds.
pub(super) fn scope<'a>(call: &'a Call<'_>) -> Result<Option<&'a str>, ApiError> {
    match &call.target.namespace {
        Some(_) if !call.info.namespaced => Err(ApiError::no_such_resource()),
        namespace => Ok(namespace.as_deref()),
    }
}

fn namespace<'a>(call: &'a Call<'_>) -> Result<&'a str, ApiError> {
    call.target.namespace_for(&call.info)
}

fn part(call: &Call<'_>) -> Part {
    if call.target.subresource == "status" {
        Part::Status
    } else {
        Part::Main
    }
}

fn show(call: &Call<'_>, code: StatusCode, object: &Value, warnings: &[String]) -> Response {
    let mut response = (code, Json(call.view.one(object))).into_response();
    warning::warn(response.headers_mut(), warnings);
    response
}

fn show_written(call: &Call<'_>, written: &Written) -> Response {
    let code = match written.new {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    show(call, code, &written.object, &written.warnings)
}

/// `GET` of one object.
pub(super) fn get(call: &Call<'_>, name: &str) -> Result<Response, ApiError> {
    let object = call
        .store
        .get_object(&call.target.id, namespace(call)?, name)?;
    Ok(show(call, StatusCode::OK, &object, &[]))
}

/// `GET` of a collection, in pages if the client wants that.
pub(super) fn list(call: &Call<'_>) -> Result<Response, ApiError> {
    let selector = call.query.selector()?;
    let (mut objects, revision) = call.store.list_objects(&call.target.id, scope(call)?);
    objects.retain(|o| selector.matches(o));
    let mut metadata = json!({ "resourceVersion": revision.to_string() });
    let place = |o: &Value| format!("{}/{}", object::namespace(o), object::name(o));
    let after = call.query.get("continue");
    if !after.is_empty() {
        let decoded = URL_SAFE_NO_PAD.decode(after).ok();
        let after = decoded
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or_else(|| ApiError::bad_request("continue key is not valid"))?;
        let (namespace, name) = after.split_once('/').unwrap_or_default();
        objects.retain(|o| (object::namespace(o), object::name(o)) > (namespace, name));
    }
    let limit = call
        .query
        .number("limit")
        .and_then(|n| usize::try_from(n).ok());
    if let Some(limit) = limit.filter(|n| (1..objects.len()).contains(n)) {
        let rest = objects.split_off(limit);
        if let Some(last) = objects.last() {
            metadata["continue"] = json!(URL_SAFE_NO_PAD.encode(place(last)));
            metadata["remainingItemCount"] = json!(rest.len());
        }
    }
    Ok(Json(call.view.many(&objects, metadata)).into_response())
}

/// The body as an object of the path's kind, and what is odd about it.
fn read_object(call: &Call<'_>) -> Result<(Value, Vec<String>), ApiError> {
    let object = body::decode(&call.parts.headers, &call.body)?;
    body::check_kind(&call.info, &call.target.version, &object)?;
    let warnings = check_fields(call, &object)?;
    Ok((object, warnings))
}

/// Applies `fieldValidation`: unknown fields refused, warned of, or let fall silently.
fn check_fields(call: &Call<'_>, object: &Value) -> Result<Vec<String>, ApiError> {
    let validation = call.query.get("fieldValidation");
    if validation == "Ignore" {
        return Ok(Vec::new());
    }
    let unknown: Vec<String> = admission::unknown_fields(&call.info, object)
        .iter()
        .map(|path| format!("unknown field \"{path}\""))
        .collect();
    if validation == "Strict" && !unknown.is_empty() {
        return Err(ApiError::bad_request(format!(
            "{kind} in version \"{}\" cannot be handled as a {kind}: strict decoding error: {}",
            call.target.version,
            unknown.join(", "),
            kind = call.info.kind,
        )));
    }
    Ok(unknown)
}

/// `POST`.
pub(super) async fn create(call: &Call<'_>) -> Result<Response, ApiError> {
    let (object, warnings) = read_object(call)?;
    let namespace = namespace(call)?;
    let created = write::put(call, || {
        let draft = call
            .store
            .draft_create(&call.target.id, namespace, object.clone())?;
        Ok((draft, warnings.clone()))
    });
    Ok(show_written(call, &created.await?))
}

/// `PUT`.
pub(super) async fn replace(call: &Call<'_>, name: &str) -> Result<Response, ApiError> {
    let (object, warnings) = read_object(call)?;
    same_name(name, &object)?;
    let (id, namespace) = (&call.target.id, namespace(call)?);
    let updated = write::put(call, || {
        let draft = call
            .store
            .draft_update(id, namespace, name, part(call), |_| Ok(object.clone()))?;
        Ok((draft, warnings.clone()))
    });
    Ok(show_written(call, &updated.await?))
}

fn same_name(name: &str, object: &Value) -> Result<(), ApiError> {
    let found = object::name(object);
    if found.is_empty() || found == name {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "the name of the object ({found}) does not match the name on the URL ({name})"
    )))
}

/// `PATCH`, of any kind.
pub(super) async fn patch(call: &Call<'_>, name: &str) -> Result<Response, ApiError> {
    let kind = PatchKind::of(body::content_type(&call.parts.headers))?;
    let patch = body::decode(&call.parts.headers, &call.body)?;
    if kind == PatchKind::Apply {
        return apply_patch(call, name, patch).await;
    }
    let (id, namespace) = (&call.target.id, namespace(call)?);
    let updated = write::put(call, || {
        let mut warnings = Vec::new();
        let edit = |current: &Value| {
            let updated = patch::patched(kind, &call.info, current, &patch)?;
            same_name(name, &updated)?;
            warnings = check_fields(call, &updated)?;
            Ok(updated)
        };
        let draft = call
            .store
            .draft_update(id, namespace, name, part(call), edit)?;
        Ok((draft, warnings))
    });
    Ok(show_written(call, &updated.await?))
}

async fn apply_patch(call: &Call<'_>, name: &str, mut config: Value) -> Result<Response, ApiError> {
    body::check_kind(&call.info, &call.target.version, &config)?;
    same_name(name, &config)?;
    let manager = call.query.get("fieldManager");
    if manager.is_empty() {
        return Err(ApiError::bad_request(
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ));
    }
    let warnings = check_fields(call, &config)?;
    let namespace = namespace(call)?;
    object::metadata_mut(&mut config).insert("name".to_owned(), json!(name));
    if call.info.namespaced {
        object::metadata_mut(&mut config).insert("namespace".to_owned(), json!(namespace));
    }
    let request = apply::Apply {
        config: &config,
        manager,
        force: call.query.flag("force"),
        subresource: &call.target.subresource,
    };
    let id = &call.target.id;
    let applied = write::put(call, || {
        let edit = |current: &Value| apply::apply(&call.info, current, &request);
        let update = call
            .store
            .draft_update(id, namespace, name, part(call), edit);
        let draft = match update {
            Err(error) if error.is_not_found() && part(call) == Part::Main => {
                let object = edit(&Value::Null)?;
                call.store.draft_create(id, namespace, object)?
            }
            update => update?,
        };
        Ok((draft, warnings.clone()))
    });
    Ok(show_written(call, &applied.await?))
}

fn delete_options(call: &Call<'_>) -> Result<DeleteOptions, ApiError> {
    let body = body::decode(&call.parts.headers, &call.body)?;
    let policy = match call.query.get("propagationPolicy") {
        "" => object::text(&body, "/propagationPolicy"),
        policy => policy,
    };
    let text = |pointer: &str| {
        body.pointer(pointer)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let asked = call.query.get("gracePeriodSeconds").parse().ok();
    let dry = object::list(&body, "/dryRun").iter().any(|d| d == "All");
    Ok(DeleteOptions {
        grace: asked.or(body["gracePeriodSeconds"].as_i64()),
        uid: text("/preconditions/uid"),
        resource_version: text("/preconditions/resourceVersion"),
        propagation: if policy == "Orphan" || body["orphanDependents"] == true {
            Propagation::Orphan
        } else {
            Propagation::Background
        },
        dry_run: dry || write::dry_run(call),
    })
}

/// `DELETE` of one object.
pub(super) async fn delete(call: &Call<'_>, name: &str) -> Result<Response, ApiError> {
    let options = delete_options(call)?;
    let (outcome, warnings) = write::delete(call, namespace(call)?, name, &options).await?;
    let mut response = match outcome {
        Deleted::Marked(object) => show(call, StatusCode::OK, &object, &[]),
        Deleted::Gone(object) => Json(json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
            "details": {
                "name": name, "group": call.info.group, "kind": call.info.plural, "uid": object::uid(&object),
            },
        }))
        .into_response(),
    };
    warning::warn(response.headers_mut(), &warnings);
    Ok(response)
}

/// `DELETE` of a collection.
pub(super) async fn delete_collection(call: &Call<'_>) -> Result<Response, ApiError> {
    let options = delete_options(call)?;
    let selector = call.query.selector()?;
    let id = &call.target.id;
    let (mut objects, revision) = call.store.list_objects(id, scope(call)?);
    objects.retain(|o| selector.matches(o));
    let mut warnings = Vec::new();
    for found in &objects {
        let (namespace, name) = (object::namespace(found), object::name(found));
        // Someone else may be faster.
        if call.store.get_object(id, namespace, name).is_err() {
            continue;
        }
        warnings.extend(write::delete(call, namespace, name, &options).await?.1);
    }
    let metadata = json!({ "resourceVersion": revision.to_string() });
    let mut response = Json(call.view.many(&objects, metadata)).into_response();
    warning::warn(response.headers_mut(), &warnings);
    Ok(response)
}
