//! EndpointSlices (and the older Endpoints, which kubectl still shows) of Services.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::note;
use crate::api::object;
use crate::api::resource::{ENDPOINT_SLICES, PODS, ResourceId, SERVICES};
use crate::api::selector::LabelSelector;
use crate::api::store::{Part, Store};

const ENDPOINTS: ResourceId = ResourceId::of("", "endpoints");
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";

/// One round over all Services.
pub(super) fn reconcile(store: &Store) {
    let (services, _) = store.list_objects(&SERVICES, None);
    for service in services.iter().filter(|s| !object::is_deleting(s)) {
        // Without a selector the endpoints are somebody else's.
        let selected = service["spec"]["selector"].as_object();
        if selected.is_some_and(|s| !s.is_empty()) {
            one(store, service);
        }
    }
}

fn one(store: &Store, service: &Value) {
    let namespace = object::namespace(service);
    let selector = LabelSelector::from_map(&service["spec"]["selector"]);
    let (mut pods, _) = store.list_objects(&PODS, Some(namespace));
    pods.retain(|pod| {
        let done = matches!(object::text(pod, "/status/phase"), "Succeeded" | "Failed");
        selector.matches(pod) && !done && !object::text(pod, "/status/podIP").is_empty()
    });
    // Pods that call the port by different numbers need slices of their own.
    let mut groups: BTreeMap<String, (Value, Vec<Arc<Value>>)> = BTreeMap::new();
    for pod in pods {
        let ports = ports(service, &pod);
        let group = groups.entry(ports.to_string());
        group.or_insert_with(|| (ports, Vec::new())).1.push(pod);
    }
    let wanted: Vec<Value> = groups
        .values()
        .map(|(ports, pods)| slice(service, ports, pods))
        .collect();
    let (existing, _) = store.list_objects(&ENDPOINT_SLICES, Some(namespace));
    let ours = existing.iter().filter(|s| {
        object::is_controlled_by(s, object::uid(service))
            && object::label(s, MANAGED_BY) == Some(MANAGER)
    });
    for old in ours {
        if !wanted.iter().any(|w| object::name(w) == object::name(old)) {
            store.remove_object(&ENDPOINT_SLICES, namespace, object::name(old), "");
        }
    }
    for slice in &wanted {
        put(
            store,
            &ENDPOINT_SLICES,
            namespace,
            slice,
            &["endpoints", "ports"],
        );
    }
    let subsets: Vec<Value> = groups.values().map(|(p, pods)| subset(p, pods)).collect();
    let mut endpoints = json!({
        "metadata": { "name": object::name(service), "ownerReferences": [object::owner_reference(service)] },
    });
    if !subsets.is_empty() {
        endpoints["subsets"] = json!(subsets);
    }
    put(store, &ENDPOINTS, namespace, &endpoints, &["subsets"]);
}

/// Creates the object, or brings these fields of the one that is there up to date.
fn put(store: &Store, id: &ResourceId, namespace: &str, object: &Value, fields: &[&str]) {
    let name = object::name(object);
    let updated = store.update_object(id, namespace, name, Part::Whole, |current| {
        let mut updated = current.clone();
        for field in fields {
            updated[*field] = object[*field].clone();
        }
        Ok(updated)
    });
    let result = match updated {
        Err(error) if error.is_not_found() => store.create_object(id, namespace, object.clone()),
        other => other,
    };
    note("cannot write endpoints", object, result);
}

fn ports(service: &Value, pod: &Value) -> Value {
    let ports = object::list(service, "/spec/ports")
        .iter()
        .filter_map(|port| {
            let target = &port["targetPort"];
            let number = match target.as_str() {
                Some(name) => named_port(pod, name, &port["protocol"])?,
                None => target.clone(),
            };
            let name = object::text(port, "/name");
            Some(json!({ "name": name, "port": number, "protocol": port["protocol"] }))
        });
    Value::Array(ports.collect())
}

fn named_port(pod: &Value, name: &str, protocol: &Value) -> Option<Value> {
    let containers = object::list(pod, "/spec/containers").iter();
    let mut ports = containers.flat_map(|c| object::list(c, "/ports"));
    let found = ports.find(|p| p["name"] == name && p["protocol"] == *protocol)?;
    Some(found["containerPort"].clone())
}

fn reference(pod: &Value) -> Value {
    json!({
        "kind": "Pod", "name": object::name(pod), "namespace": object::namespace(pod), "uid": object::uid(pod),
    })
}

fn slice(service: &Value, ports: &Value, pods: &[Arc<Value>]) -> Value {
    let publish = service["spec"]["publishNotReadyAddresses"] == true;
    let endpoints: Vec<Value> = pods
        .iter()
        .map(|pod| {
            let serving = object::has_condition(pod, "Ready");
            let leaving = object::is_deleting(pod);
            json!({
                "addresses": [pod["status"]["podIP"]],
                "conditions": { "ready": publish || serving && !leaving, "serving": serving, "terminating": leaving },
                "nodeName": pod["spec"]["nodeName"],
                "targetRef": reference(pod),
            })
        })
        .collect();
    let hash = object::template_hash(&json!([object::uid(service), ports]));
    let suffix: String = hash.chars().take(5).collect();
    let mut labels = json!({ "labels": service["metadata"]["labels"] });
    let labels = object::child(&mut labels, "labels");
    labels.insert(SERVICE_NAME.to_owned(), json!(object::name(service)));
    labels.insert(MANAGED_BY.to_owned(), json!(MANAGER));
    json!({
        "metadata": {
            "name": format!("{}-{suffix}", object::name(service)),
            "labels": labels,
            "ownerReferences": [object::owner_reference(service)],
        },
        "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
    })
}

fn subset(ports: &Value, pods: &[Arc<Value>]) -> Value {
    let (ready, other): (Vec<_>, Vec<_>) = pods
        .iter()
        .partition(|p| object::has_condition(p, "Ready") && !object::is_deleting(p));
    let addresses = |pods: Vec<&Arc<Value>>| -> Vec<Value> {
        let all = pods.into_iter().map(|pod| {
            json!({ "ip": pod["status"]["podIP"], "nodeName": pod["spec"]["nodeName"], "targetRef": reference(pod) })
        });
        all.collect()
    };
    let mut out = json!({ "ports": ports });
    for (field, pods) in [("addresses", ready), ("notReadyAddresses", other)] {
        if !pods.is_empty() {
            out[field] = json!(addresses(pods));
        }
    }
    out
}
