//! The defaults of the built-in kinds, as far as users see them and controllers need them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::webhook_configuration;
use crate::api::resource::ResourceType;
use crate::api::{crd, object};

/// Fills in a new object.
pub(super) fn on_create(info: &ResourceType, object: &mut Value) {
    if info.custom {
        return crd::fill_in(info, object);
    }
    fill(info, object);
    match info.kind.as_str() {
        "Namespace" => {
            let name = object::name(object).to_owned();
            let labels = object::child(&mut object["metadata"], "labels");
            labels.insert("kubernetes.io/metadata.name".to_owned(), json!(name));
            object["spec"] = json!({ "finalizers": ["kubernetes"] });
            object["status"] = json!({ "phase": "Active" });
        }
        "Pod" => {
            let class = qos_class(&object["spec"]);
            object["status"] = json!({ "phase": "Pending", "qosClass": class });
        }
        "Service" => object["status"] = json!({ "loadBalancer": {} }),
        "Deployment" | "ReplicaSet" | "DaemonSet" => object["status"] = json!({}),
        _ => {}
    }
}

/// Fills in what an update left out, keeping what the server had chosen.
pub(super) fn on_update(info: &ResourceType, current: &Value, updated: &mut Value) {
    if info.custom {
        return crd::fill_in(info, updated);
    }
    if info.kind == "Service" {
        keep_service_addresses(current, updated);
    }
    fill(info, updated);
}

fn fill(info: &ResourceType, object: &mut Value) {
    match info.kind.as_str() {
        "Pod" => pod(object),
        "Service" => service(object::child(object, "spec")),
        "Secret" => secret(object),
        "Deployment" => deployment(object),
        "ValidatingWebhookConfiguration" => webhook_configuration::fill(object),
        "ReplicaSet" => {
            let spec = object::child(object, "spec");
            default(spec, "replicas", json!(1));
            template(&mut object["spec"]);
        }
        "DaemonSet" => {
            let spec = object::child(object, "spec");
            default(
                spec,
                "updateStrategy",
                json!({ "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 1, "maxSurge": 0 } }),
            );
            default(spec, "revisionHistoryLimit", json!(10));
            template(&mut object["spec"]);
        }
        _ => {}
    }
}

pub(super) fn default(map: &mut Map<String, Value>, key: &str, value: Value) {
    let slot = map.entry(key).or_insert(Value::Null);
    if slot.is_null() {
        *slot = value;
    }
}

fn pod(object: &mut Value) {
    let spec = object::child(object, "spec");
    let account = spec
        .get("serviceAccountName")
        .or_else(|| spec.get("serviceAccount"))
        .and_then(Value::as_str)
        .unwrap_or("default")
        .to_owned();
    spec.insert("serviceAccountName".to_owned(), json!(account));
    spec.insert("serviceAccount".to_owned(), json!(account));
    default(spec, "priority", json!(0));
    default(spec, "preemptionPolicy", json!("PreemptLowerPriority"));
    pod_spec(&mut object["spec"]);
}

fn template(workload: &mut Value) {
    let spec = &mut workload["template"]["spec"];
    if spec.is_object() {
        pod_spec(spec);
    }
}

fn pod_spec(spec: &mut Value) {
    let Some(map) = spec.as_object_mut() else {
        return;
    };
    default(map, "restartPolicy", json!("Always"));
    default(map, "terminationGracePeriodSeconds", json!(30));
    default(map, "dnsPolicy", json!("ClusterFirst"));
    default(map, "securityContext", json!({}));
    default(map, "schedulerName", json!("default-scheduler"));
    default(map, "enableServiceLinks", json!(true));
    let on_host = map.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["initContainers", "containers"] {
        for item in map
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            container(item, on_host);
        }
    }
    for volume in map
        .get_mut("volumes")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        for source in ["configMap", "secret", "projected"] {
            if let Some(source) = volume.get_mut(source).and_then(Value::as_object_mut) {
                default(source, "defaultMode", json!(420));
            }
        }
    }
}

fn container(item: &mut Value, on_host: bool) {
    let image = object::text(item, "/image");
    let tag = image
        .rsplit('/')
        .next()
        .and_then(|last| last.split_once(':'));
    let newest = !image.contains('@') && tag.is_none_or(|(_, tag)| tag == "latest");
    let pull = if newest { "Always" } else { "IfNotPresent" };
    let Some(map) = item.as_object_mut() else {
        return;
    };
    default(map, "imagePullPolicy", json!(pull));
    default(map, "terminationMessagePath", json!("/dev/termination-log"));
    default(map, "terminationMessagePolicy", json!("File"));
    default(map, "resources", json!({}));
    for port in map
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let number = port["containerPort"].clone();
        if let Some(port) = port.as_object_mut() {
            default(port, "protocol", json!("TCP"));
            if on_host {
                default(port, "hostPort", number);
            }
        }
    }
    for env in map
        .get_mut("env")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let field = env
            .pointer_mut("/valueFrom/fieldRef")
            .and_then(Value::as_object_mut);
        if let Some(field) = field {
            default(field, "apiVersion", json!("v1"));
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = map.get_mut(probe).and_then(Value::as_object_mut) else {
            continue;
        };
        default(probe, "timeoutSeconds", json!(1));
        default(probe, "periodSeconds", json!(10));
        default(probe, "successThreshold", json!(1));
        default(probe, "failureThreshold", json!(3));
        if let Some(http) = probe.get_mut("httpGet").and_then(Value::as_object_mut) {
            default(http, "path", json!("/"));
            default(http, "scheme", json!("HTTP"));
        }
    }
}

fn deployment(object: &mut Value) {
    let spec = object::child(object, "spec");
    default(spec, "replicas", json!(1));
    default(spec, "revisionHistoryLimit", json!(10));
    default(spec, "progressDeadlineSeconds", json!(600));
    default(spec, "strategy", json!({}));
    let strategy = object::child(&mut object["spec"], "strategy");
    default(strategy, "type", json!("RollingUpdate"));
    if strategy.get("type") == Some(&json!("RollingUpdate")) {
        let rolling = object::child(&mut object["spec"]["strategy"], "rollingUpdate");
        default(rolling, "maxUnavailable", json!("25%"));
        default(rolling, "maxSurge", json!("25%"));
    }
    template(&mut object["spec"]);
}

fn service(spec: &mut Map<String, Value>) {
    default(spec, "type", json!("ClusterIP"));
    default(spec, "sessionAffinity", json!("None"));
    let kind = spec
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    if kind != "ExternalName" {
        default(spec, "internalTrafficPolicy", json!("Cluster"));
        default(spec, "ipFamilies", json!(["IPv4"]));
        default(spec, "ipFamilyPolicy", json!("SingleStack"));
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        default(spec, "externalTrafficPolicy", json!("Cluster"));
    }
    if kind == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", json!(true));
    }
    for port in spec
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let number = port["port"].clone();
        if let Some(port) = port.as_object_mut() {
            default(port, "protocol", json!("TCP"));
            default(port, "targetPort", number);
        }
    }
}

/// A manifest that is applied again says nothing of the address and ports that it was given.
fn keep_service_addresses(current: &Value, updated: &mut Value) {
    let external = updated["spec"]["type"] == "ExternalName";
    for field in ["clusterIP", "clusterIPs"] {
        if updated["spec"][field].is_null() && !external && !current["spec"][field].is_null() {
            updated["spec"][field] = current["spec"][field].clone();
        }
    }
    let old = object::list(current, "/spec/ports");
    let ports = updated["spec"]["ports"].as_array_mut();
    for port in ports
        .into_iter()
        .flatten()
        .filter(|p| p["nodePort"].is_null())
    {
        let same = |o: &&Value| o["port"] == port["port"] && o["protocol"] == port["protocol"];
        if let Some(number) = old.iter().find(same).map(|o| o["nodePort"].clone())
            && number.is_number()
        {
            port["nodePort"] = number;
        }
    }
}

fn secret(object: &mut Value) {
    let plain = object["stringData"].take();
    let Some(map) = object.as_object_mut() else {
        return;
    };
    map.shift_remove("stringData");
    default(map, "type", json!("Opaque"));
    for (key, text) in plain.as_object().into_iter().flatten() {
        let encoded = STANDARD.encode(text.as_str().unwrap_or_default());
        object::child(object, "data").insert(key.clone(), json!(encoded));
    }
}

fn qos_class(spec: &Value) -> &'static str {
    let containers = object::list(spec, "/containers");
    let amount = |c: &Value, kind: &str, what: &str| c["resources"][kind][what].clone();
    let none = containers.iter().all(|c| {
        ["limits", "requests"]
            .iter()
            .all(|k| c["resources"][k].as_object().is_none_or(Map::is_empty))
    });
    let fixed = containers.iter().all(|c| {
        ["cpu", "memory"].iter().all(|what| {
            let (limit, request) = (amount(c, "limits", what), amount(c, "requests", what));
            !limit.is_null() && (request.is_null() || request == limit)
        })
    });
    match (none, fixed) {
        (true, _) => "BestEffort",
        (_, true) => "Guaranteed",
        _ => "Burstable",
    }
}
