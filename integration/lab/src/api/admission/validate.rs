//! The checks that keep a manifest's mistakes from becoming puzzles later. A fraction of
//! what a real server checks, in the same words.

use serde_json::Value;

use super::webhook_configuration;
use crate::api::names;
use crate::api::object;
use crate::api::resource::{PODS, ResourceType};
use crate::api::selector::LabelSelector;
use crate::api::status::ApiError;
use crate::api::store::Part;

pub(super) type Causes = Vec<(String, String)>;

/// Judges a new, complete object.
pub(super) fn on_create(info: &ResourceType, object: &Value) -> Result<(), ApiError> {
    let mut causes = Vec::new();
    labels(
        &object["metadata"]["labels"],
        "metadata.labels",
        &mut causes,
    );
    if info.custom {
        crate::api::crd::validate(info, object, &mut causes);
    } else {
        match info.kind.as_str() {
            "Pod" => pod_spec(&object["spec"], "spec", &mut causes),
            "Deployment" | "ReplicaSet" | "DaemonSet" => workload(object, &mut causes),
            "Service" => service(object, &mut causes),
            "ValidatingWebhookConfiguration" => webhook_configuration::check(object, &mut causes),
            _ => {}
        }
    }
    finish(info, object, causes)
}

/// Judges a change.
pub(super) fn on_update(
    info: &ResourceType,
    current: &Value,
    updated: &Value,
    part: Part,
) -> Result<(), ApiError> {
    on_create(info, updated)?;
    let mut causes = Vec::new();
    if info.is(&PODS) && part == Part::Main && frozen(current) != frozen(updated) {
        let message = "Forbidden: pod updates may not change fields other than `spec.containers[*].image`, `spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.tolerations` (only additions to existing tolerations), `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
        causes.push(("spec".to_owned(), message.to_owned()));
    }
    let fixed = |field: &str, causes: &mut Causes| {
        let (old, new) = (&current["spec"][field], &updated["spec"][field]);
        if old != new {
            let message = format!("Invalid value: {new}: field is immutable");
            causes.push((format!("spec.{field}"), message));
        }
    };
    if !info.custom {
        match info.kind.as_str() {
            "Deployment" | "ReplicaSet" | "DaemonSet" => fixed("selector", &mut causes),
            "Service"
                if updated["spec"]["type"] != "ExternalName"
                    && !current["spec"]["clusterIP"].is_null() =>
            {
                fixed("clusterIP", &mut causes);
            }
            _ => {}
        }
    }
    finish(info, updated, causes)
}

fn finish(info: &ResourceType, object: &Value, causes: Causes) -> Result<(), ApiError> {
    if causes.is_empty() {
        Ok(())
    } else {
        Err(ApiError::invalid(info, object::name(object), &causes))
    }
}

/// A pod's spec without what may change.
fn frozen(pod: &Value) -> Value {
    let mut spec = pod["spec"].clone();
    for list in ["containers", "initContainers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            container["image"] = Value::Null;
            container["imagePullPolicy"] = Value::Null;
        }
    }
    for field in ["activeDeadlineSeconds", "tolerations"] {
        spec[field] = Value::Null;
    }
    spec
}

fn labels(labels: &Value, path: &str, causes: &mut Causes) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        if !names::is_label_key(key) {
            let message = format!(
                "Invalid value: {key:?}: name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"
            );
            causes.push((path.to_owned(), message));
        } else if let Some(problem) = names::label_value_problem(value) {
            causes.push((
                path.to_owned(),
                format!("Invalid value: {value:?}: {problem}"),
            ));
        }
    }
}

fn pod_spec(spec: &Value, path: &str, causes: &mut Causes) {
    let containers = object::list(spec, "/containers");
    if containers.is_empty() {
        causes.push((format!("{path}.containers"), "Required value".to_owned()));
    }
    let mut seen: Vec<&str> = Vec::new();
    for list in ["initContainers", "containers"] {
        for (i, container) in object::list(spec, &format!("/{list}")).iter().enumerate() {
            let path = format!("{path}.{list}[{i}]");
            let name = object::text(container, "/name");
            if name.is_empty() {
                causes.push((format!("{path}.name"), "Required value".to_owned()));
            } else if !names::is_label(name) {
                let message = format!(
                    "Invalid value: {name:?}: a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-'"
                );
                causes.push((format!("{path}.name"), message));
            } else if seen.contains(&name) {
                let message = format!("Duplicate value: {name:?}");
                causes.push((format!("{path}.name"), message));
            }
            seen.push(name);
            if object::text(container, "/image").is_empty() {
                causes.push((format!("{path}.image"), "Required value".to_owned()));
            }
            for (i, port) in object::list(container, "/ports").iter().enumerate() {
                port_number(
                    &port["containerPort"],
                    &format!("{path}.ports[{i}].containerPort"),
                    causes,
                );
            }
        }
    }
    let policy = object::text(spec, "/restartPolicy");
    if !matches!(policy, "Always" | "OnFailure" | "Never") {
        let message = format!(
            "Unsupported value: {policy:?}: supported values: \"Always\", \"OnFailure\", \"Never\""
        );
        causes.push((format!("{path}.restartPolicy"), message));
    }
}

fn workload(object: &Value, causes: &mut Causes) {
    let selector = LabelSelector::from_object(&object["spec"]["selector"]).unwrap_or_default();
    let template = &object["spec"]["template"];
    let path = "spec.template.metadata.labels";
    labels(&template["metadata"]["labels"], path, causes);
    if selector.is_empty() {
        causes.push(("spec.selector".to_owned(), "Required value".to_owned()));
    } else if !selector.matches(template) {
        let message = format!(
            "Invalid value: {}: `selector` does not match template `labels`",
            template["metadata"]["labels"]
        );
        causes.push((path.to_owned(), message));
    }
    if object::number(object, "/spec/replicas") < 0 {
        let message = "Invalid value: must be greater than or equal to 0".to_owned();
        causes.push(("spec.replicas".to_owned(), message));
    }
    pod_spec(&template["spec"], "spec.template.spec", causes);
}

fn service(object: &Value, causes: &mut Causes) {
    let ports = object::list(object, "/spec/ports");
    let kind = object::text(object, "/spec/type");
    let headless = object["spec"]["clusterIP"] == "None";
    if !matches!(
        kind,
        "ClusterIP" | "NodePort" | "LoadBalancer" | "ExternalName"
    ) {
        let message = format!(
            "Unsupported value: {kind:?}: supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\""
        );
        causes.push(("spec.type".to_owned(), message));
    }
    if ports.is_empty() && !headless && kind != "ExternalName" {
        causes.push(("spec.ports".to_owned(), "Required value".to_owned()));
    }
    for (i, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{i}]");
        port_number(&port["port"], &format!("{path}.port"), causes);
        if ports.len() > 1 && object::text(port, "/name").is_empty() {
            causes.push((format!("{path}.name"), "Required value".to_owned()));
        }
        let same =
            |other: &Value| other["port"] == port["port"] && other["protocol"] == port["protocol"];
        if ports.iter().take(i).any(same) {
            let message = format!(
                "Duplicate value: {{\"port\":{},\"protocol\":{}}}",
                port["port"], port["protocol"]
            );
            causes.push((path, message));
        }
    }
}

pub(super) fn port_number(value: &Value, path: &str, causes: &mut Causes) {
    let fine = value.as_i64().is_some_and(|n| (1..=65_535).contains(&n));
    if !fine {
        let message = format!("Invalid value: {value}: must be between 1 and 65535, inclusive");
        causes.push((path.to_owned(), message));
    }
}
