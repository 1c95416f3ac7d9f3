//! Built-in kinds have the shape that Kubernetes' own types say: an object is read into
//! its type and written again, so wrong types are refused and unknown fields fall away
//! (and can be named). Custom resources are kept as they came.

use k8s_openapi::api::{admissionregistration, apps, coordination, core, discovery, networking};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::resource::ResourceType;
use crate::api::status::ApiError;

/// The object as its type writes it.
pub(super) fn canonical(info: &ResourceType, object: &Value) -> Result<Value, ApiError> {
    if info.custom {
        return Ok(object.clone());
    }
    let mut object = object.clone();
    quantities_to_text(&mut object);
    typed(info, &object).map_err(|error| {
        ApiError::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: json: {error}",
            info.kind,
            info.version(),
            info.kind
        ))
    })
}

/// The paths of fields that the kind does not have: `spec.containers[0].imagee`.
pub(in crate::api) fn unknown_fields(info: &ResourceType, object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if info.custom {
        return found;
    }
    let mut object = object.clone();
    quantities_to_text(&mut object);
    if let Ok(known) = typed(info, &object) {
        compare(&object, &known, "", &mut found);
    }
    found
}

fn typed(info: &ResourceType, object: &Value) -> Result<Value, serde_json::Error> {
    match (info.group.as_str(), info.kind.as_str()) {
        ("", "Namespace") => pass::<core::v1::Namespace>(object),
        ("", "Node") => pass::<core::v1::Node>(object),
        ("", "Pod") => pass::<core::v1::Pod>(object),
        ("", "Service") => pass::<core::v1::Service>(object),
        ("", "Endpoints") => pass::<core::v1::Endpoints>(object),
        ("", "ConfigMap") => pass::<core::v1::ConfigMap>(object),
        ("", "Secret") => pass::<core::v1::Secret>(object),
        ("", "ServiceAccount") => pass::<core::v1::ServiceAccount>(object),
        ("", "Event") => pass::<core::v1::Event>(object),
        ("apps", "DaemonSet") => pass::<apps::v1::DaemonSet>(object),
        ("apps", "Deployment") => pass::<apps::v1::Deployment>(object),
        ("apps", "ReplicaSet") => pass::<apps::v1::ReplicaSet>(object),
        ("discovery.k8s.io", _) => pass::<discovery::v1::EndpointSlice>(object),
        ("coordination.k8s.io", _) => pass::<coordination::v1::Lease>(object),
        ("networking.k8s.io", _) => pass::<networking::v1::NetworkPolicy>(object),
        ("admissionregistration.k8s.io", _) => {
            pass::<admissionregistration::v1::ValidatingWebhookConfiguration>(object)
        }
        ("apiextensions.k8s.io", _) => pass::<apiextensions::v1::CustomResourceDefinition>(object),
        _ => Ok(object.clone()),
    }
}

fn pass<T: DeserializeOwned + Serialize>(object: &Value) -> Result<Value, serde_json::Error> {
    serde_json::to_value(T::deserialize(object)?)
}

/// Manifests may say `cpu: 1`; the type wants text, and so does the real server's answer.
fn quantities_to_text(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map.iter_mut() {
                let holds = matches!(
                    key.as_str(),
                    "limits" | "requests" | "capacity" | "allocatable"
                );
                if holds && let Value::Object(amounts) = inner {
                    for amount in amounts.values_mut().filter(|a| a.is_number()) {
                        *amount = Value::String(amount.to_string());
                    }
                } else {
                    quantities_to_text(inner);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(quantities_to_text),
        _ => {}
    }
}

fn compare(given: &Value, known: &Value, path: &str, found: &mut Vec<String>) {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => {
            for (key, value) in given.iter().filter(|(_, v)| !v.is_null()) {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                match known.get(key) {
                    Some(known) => compare(value, known, &path, found),
                    None => found.push(path),
                }
            }
        }
        (Value::Array(given), Value::Array(known)) => {
            for (i, (given, known)) in given.iter().zip(known).enumerate() {
                compare(given, known, &format!("{path}[{i}]"), found);
            }
        }
        _ => {}
    }
}
