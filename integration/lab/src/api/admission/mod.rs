//! What happens to an object between the request and the store: the metadata that the
//! server owns, the built-in kinds' defaults, and the checks.

mod defaults;
mod schema;
mod service;
mod validate;
mod webhook_configuration;

use serde_json::{Value, json};

use super::object::{self, metadata_mut};
use super::resource::{CRDS, EVENTS, NAMESPACES, NODES, PODS, ResourceType, SERVICES};
use super::status::ApiError;
use super::store::{DeleteOptions, Part, State};
use super::{crd, names};

pub(super) use schema::unknown_fields;

/// `metadata` fields that only the server sets.
const SERVER_OWNED: [&str; 5] = [
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
];

/// Makes a new object complete, or says what is wrong with it.
pub(super) fn prepare_create(
    state: &State,
    info: &ResourceType,
    namespace: &str,
    object: &mut Value,
) -> Result<(), ApiError> {
    object["apiVersion"] = json!(info.api_version(info.version()));
    object["kind"] = json!(info.kind);
    *object = schema::canonical(info, object)?;
    let metadata = metadata_mut(object);
    let version = metadata.shift_remove("resourceVersion");
    if version.is_some_and(|v| v.as_str().is_some_and(|v| !v.is_empty())) {
        return Err(ApiError::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    for field in SERVER_OWNED {
        metadata.shift_remove(field);
    }
    name_it(info, namespace, metadata)?;
    metadata.insert("uid".to_owned(), json!(uuid::Uuid::new_v4().to_string()));
    metadata.insert("creationTimestamp".to_owned(), json!(object::now()));
    if has_generation(info) {
        metadata.insert("generation".to_owned(), json!(1));
    } else {
        metadata.shift_remove("generation");
    }
    check_namespace(state, info, namespace, object)?;
    // A kubelet registers its node with the status it has; all other status is earned.
    if info.status && !info.is(&NODES) {
        clear_status(object);
    }
    defaults::on_create(info, object);
    validate::on_create(info, object)?;
    if info.is(&SERVICES) {
        service::allocate(state, info, object)?;
    }
    if info.is(&CRDS) {
        crd::accept(state, info, object)?;
    }
    Ok(())
}

/// Completes a changed object from the one it replaces, or says what is wrong with it.
pub(super) fn prepare_update(
    state: &State,
    info: &ResourceType,
    current: &Value,
    updated: &mut Value,
    part: Part,
) -> Result<(), ApiError> {
    let name = object::name(current);
    let asked = object::meta(updated, "resourceVersion");
    if !asked.is_empty() && asked != object::meta(current, "resourceVersion") {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        return Err(ApiError::conflict(info, name, why));
    }
    let asked = object::uid(updated);
    if !asked.is_empty() && asked != object::uid(current) {
        let why = format!(
            "Precondition failed: UID in precondition: {asked}, UID in object meta: {}",
            object::uid(current)
        );
        return Err(ApiError::conflict(info, name, &why));
    }
    match part {
        Part::Status => {
            let mut whole = current.clone();
            let class = current["status"]["qosClass"].clone();
            whole["status"] = updated["status"].take();
            // It follows from the spec: a kubelet need not repeat it.
            if info.is(&PODS) && whole["status"]["qosClass"].is_null() {
                object::child(&mut whole, "status").insert("qosClass".to_owned(), class);
            }
            if whole["status"].is_null() {
                clear_status(&mut whole);
            }
            // Who applied which part of the status is kept in the metadata.
            let owners = updated["metadata"]["managedFields"].take();
            if !owners.is_null() {
                whole["metadata"]["managedFields"] = owners;
            }
            *updated = whole;
        }
        Part::Main if info.status => {
            updated["status"] = current["status"].clone();
            if updated["status"].is_null() {
                clear_status(updated);
            }
        }
        Part::Main | Part::Whole => {}
    }
    updated["apiVersion"] = json!(info.api_version(info.version()));
    updated["kind"] = json!(info.kind);
    *updated = schema::canonical(info, updated)?;
    keep_server_owned(current, updated);
    if part != Part::Status {
        defaults::on_update(info, current, updated);
        validate::on_update(info, current, updated, part)?;
        if info.is(&SERVICES) {
            service::allocate(state, info, updated)?;
        }
        if info.is(&CRDS) {
            crd::accept(state, info, updated)?;
        }
    }
    if has_generation(info) && differs_beyond_status(info, current, updated) {
        let generation = object::number(current, "/metadata/generation") + 1;
        metadata_mut(updated).insert("generation".to_owned(), json!(generation));
    }
    Ok(())
}

/// The object with the marks of its deletion.
pub(super) fn prepare_delete(
    info: &ResourceType,
    current: &Value,
    options: &DeleteOptions,
) -> Result<Value, ApiError> {
    let name = object::name(current);
    for (asked, field) in [
        (&options.uid, "uid"),
        (&options.resource_version, "resourceVersion"),
    ] {
        let found = object::meta(current, field);
        if asked.as_deref().is_some_and(|asked| asked != found) {
            let why = format!("Precondition failed: {field} of the object is {found}");
            return Err(ApiError::conflict(info, name, &why));
        }
    }
    let mut marked = current.clone();
    let on_a_node = !object::text(current, "/spec/nodeName").is_empty();
    let grace = if info.is(&PODS) && on_a_node {
        let own = current.pointer("/spec/terminationGracePeriodSeconds");
        let own = own.and_then(Value::as_i64).unwrap_or(30);
        options.grace.unwrap_or(own).max(0)
    } else {
        0
    };
    let earlier = current.pointer("/metadata/deletionGracePeriodSeconds");
    let earlier = earlier.and_then(Value::as_i64);
    if object::is_deleting(current) && earlier.is_some_and(|earlier| earlier <= grace) {
        return Ok(marked);
    }
    let metadata = metadata_mut(&mut marked);
    metadata.insert(
        "deletionTimestamp".to_owned(),
        json!(object::in_seconds(grace)),
    );
    metadata.insert("deletionGracePeriodSeconds".to_owned(), json!(grace));
    if info.is(&NAMESPACES) {
        object::child(&mut marked, "status").insert("phase".to_owned(), json!("Terminating"));
    }
    Ok(marked)
}

/// True while a deleted object must stay: finalizers, a kubelet that has not reported,
/// or (namespaces) content.
pub(super) fn is_held(object: &Value) -> bool {
    let finalizers = !object::list(object, "/metadata/finalizers").is_empty();
    let grace = object::number(object, "/metadata/deletionGracePeriodSeconds") > 0;
    let namespace = object["kind"] == "Namespace" && object["apiVersion"] == "v1";
    let content = namespace && !object::list(object, "/spec/finalizers").is_empty();
    finalizers || grace || content
}

fn name_it(
    info: &ResourceType,
    namespace: &str,
    metadata: &mut serde_json::Map<String, Value>,
) -> Result<(), ApiError> {
    let text = |key: &str| {
        metadata
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (mut name, prefix) = (text("name").to_owned(), text("generateName"));
    if name.is_empty() && !prefix.is_empty() {
        // Kubernetes cuts the prefix so that the name still fits a label.
        let prefix: String = prefix.chars().take(58).collect();
        name = format!("{prefix}{}", object::name_suffix(5));
    }
    if name.is_empty() {
        let cause = (
            "metadata.name".to_owned(),
            "Required value: name or generateName is required".to_owned(),
        );
        return Err(ApiError::invalid(info, "", &[cause]));
    }
    let stated = text("namespace").to_owned();
    if info.namespaced && !stated.is_empty() && stated != namespace {
        return Err(ApiError::bad_request(format!(
            "the namespace of the provided object does not match the namespace sent on the request ({stated} != {namespace})"
        )));
    }
    names::check(info, &name)?;
    metadata.insert("name".to_owned(), json!(name));
    if info.namespaced {
        metadata.insert("namespace".to_owned(), json!(namespace));
    } else {
        metadata.shift_remove("namespace");
    }
    Ok(())
}

fn check_namespace(
    state: &State,
    info: &ResourceType,
    namespace: &str,
    object: &Value,
) -> Result<(), ApiError> {
    if !info.namespaced {
        return Ok(());
    }
    let Some(space) = state.find(&NAMESPACES, "", namespace) else {
        return Err(match state.info(&NAMESPACES) {
            Some(namespaces) => ApiError::not_found(namespaces, namespace),
            None => ApiError::no_such_resource(),
        });
    };
    // Events about the end of a namespace may still be written into it.
    if object::is_deleting(space) && !info.is(&EVENTS) {
        let why = format!(
            "unable to create new content in namespace {namespace} because it is being terminated"
        );
        return Err(ApiError::forbidden(info, object::name(object), &why));
    }
    Ok(())
}

fn keep_server_owned(current: &Value, updated: &mut Value) {
    let metadata = metadata_mut(updated);
    let kept = [
        "name",
        "namespace",
        "resourceVersion",
        "generation",
        "generateName",
    ];
    for field in SERVER_OWNED.iter().chain(&kept) {
        match &current["metadata"][field] {
            Value::Null => metadata.shift_remove(*field),
            value => metadata.insert((*field).to_owned(), value.clone()),
        };
    }
    // New finalizers on a dying object would keep it for ever.
    let old = object::list(current, "/metadata/finalizers");
    if object::is_deleting(current)
        && let Some(Value::Array(finalizers)) = metadata.get_mut("finalizers")
    {
        finalizers.retain(|f| old.contains(f));
    }
}

fn clear_status(object: &mut Value) {
    if let Some(map) = object.as_object_mut() {
        map.shift_remove("status");
    }
}

fn has_generation(info: &ResourceType) -> bool {
    let counted = matches!(
        info.group.as_str(),
        "apps" | "apiextensions.k8s.io" | "networking.k8s.io" | "admissionregistration.k8s.io"
    );
    info.custom || counted
}

fn differs_beyond_status(info: &ResourceType, current: &Value, updated: &Value) -> bool {
    let of = |object: &Value| {
        let mut rest = object.as_object().cloned().unwrap_or_default();
        rest.shift_remove("metadata");
        if info.status {
            rest.shift_remove("status");
        }
        rest
    };
    of(current) != of(updated)
}
