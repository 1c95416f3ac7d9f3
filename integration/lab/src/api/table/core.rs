//! Rows of everything built in that is no workload.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::workloads::labels;
use super::{Names, age};
use crate::api::object;
use crate::api::selector::LabelSelector;

const NONE: &str = "<none>";

pub(super) const SERVICE: Names = &[
    ("Type", false),
    ("Cluster-IP", false),
    ("External-IP", false),
    ("Port(s)", false),
    ("Age", false),
    ("Selector", true),
];
pub(super) const ENDPOINTS: Names = &[("Endpoints", false), ("Age", false)];
pub(super) const ENDPOINT_SLICE: Names = &[
    ("AddressType", false),
    ("Ports", false),
    ("Endpoints", false),
    ("Age", false),
];
pub(super) const NODE: Names = &[
    ("Status", false),
    ("Roles", false),
    ("Age", false),
    ("Version", false),
    ("Internal-IP", true),
    ("External-IP", true),
    ("OS-Image", true),
    ("Kernel-Version", true),
    ("Container-Runtime", true),
];
pub(super) const NAMESPACE: Names = &[("Status", false), ("Age", false)];
pub(super) const CONFIG_MAP: Names = &[("Data", false), ("Age", false)];
pub(super) const SECRET: Names = &[("Type", false), ("Data", false), ("Age", false)];
pub(super) const SERVICE_ACCOUNT: Names = &[("Secrets", false), ("Age", false)];
pub(super) const LEASE: Names = &[("Holder", false), ("Age", false)];
pub(super) const NETWORK_POLICY: Names = &[("Pod-Selector", false), ("Age", false)];
pub(super) const WEBHOOK_CONFIGURATION: Names = &[("Webhooks", false), ("Age", false)];
pub(super) const DEFINITION: Names = &[("Created At", false)];
pub(super) const EVENT: Names = &[
    ("Last Seen", false),
    ("Type", false),
    ("Reason", false),
    ("Object", false),
    ("Subobject", true),
    ("Source", true),
    ("Message", false),
    ("First Seen", true),
    ("Count", true),
    ("Name", true),
];

/// The cells after the name.
pub(super) fn cells(kind: &str, object: &Value, now: Timestamp) -> Vec<Value> {
    let age = json!(age::of(object, now));
    let count = |field: &str| object[field].as_object().map_or(0, serde_json::Map::len);
    match kind {
        "Service" => service(object, age),
        "Node" => node(object, age),
        "Namespace" => vec![json!(object::text(object, "/status/phase")), age],
        "ConfigMap" => vec![json!(count("data") + count("binaryData")), age],
        "Secret" => vec![json!(object["type"]), json!(count("data")), age],
        "ServiceAccount" => vec![json!(object::list(object, "/secrets").len()), age],
        "Endpoints" => vec![json!(endpoints(object)), age],
        "EndpointSlice" => vec![
            object["addressType"].clone(),
            json!(slice_ports(object)),
            json!(slice_addresses(object)),
            age,
        ],
        "Lease" => vec![json!(object::text(object, "/spec/holderIdentity")), age],
        "NetworkPolicy" => {
            let selector = LabelSelector::from_object(&object["spec"]["podSelector"]);
            let text = selector.unwrap_or_default().to_string();
            vec![json!(if text.is_empty() { NONE } else { &text }), age]
        }
        "ValidatingWebhookConfiguration" => {
            vec![json!(object::list(object, "/webhooks").len()), age]
        }
        "CustomResourceDefinition" => vec![object["metadata"]["creationTimestamp"].clone()],
        _ => vec![age],
    }
}

/// At most three, and how many more there are.
fn few(all: &[String], none: &str) -> String {
    match all {
        [] => none.to_owned(),
        few if few.len() <= 3 => few.join(","),
        many => format!("{} + {} more...", many[..3].join(","), many.len() - 3),
    }
}

fn service(service: &Value, age: Value) -> Vec<Value> {
    let text = |pointer: &str| object::text(service, pointer);
    let kind = text("/spec/type");
    let cluster = match text("/spec/clusterIP") {
        "" => NONE,
        address => address,
    };
    let outside: Vec<&str> = object::list(service, "/spec/externalIPs")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let balancer: Vec<&str> = object::list(service, "/status/loadBalancer/ingress")
        .iter()
        .map(|i| match object::text(i, "/ip") {
            "" => object::text(i, "/hostname"),
            ip => ip,
        })
        .collect();
    let external = match kind {
        "ExternalName" => text("/spec/externalName").to_owned(),
        "LoadBalancer" if balancer.is_empty() && outside.is_empty() => "<pending>".to_owned(),
        "LoadBalancer" => [balancer, outside].concat().join(","),
        _ if outside.is_empty() => NONE.to_owned(),
        _ => outside.join(","),
    };
    let ports: Vec<String> = object::list(service, "/spec/ports")
        .iter()
        .map(|p| {
            let protocol = object::text(p, "/protocol");
            match p["nodePort"].as_u64() {
                Some(node) => format!("{}:{node}/{protocol}", p["port"]),
                None => format!("{}/{protocol}", p["port"]),
            }
        })
        .collect();
    let selector = service["spec"]["selector"]
        .as_object()
        .filter(|m| !m.is_empty());
    vec![
        json!(kind),
        json!(cluster),
        json!(external),
        json!(if ports.is_empty() {
            NONE.to_owned()
        } else {
            ports.join(",")
        }),
        age,
        json!(selector.map_or_else(|| NONE.to_owned(), labels)),
    ]
}

fn node(node: &Value, age: Value) -> Vec<Value> {
    let mut status = if object::has_condition(node, "Ready") {
        "Ready".to_owned()
    } else {
        "NotReady".to_owned()
    };
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    let roles: Vec<&str> = node["metadata"]["labels"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(k, _)| k.strip_prefix("node-role.kubernetes.io/"))
        .collect();
    let address = |kind: &str| {
        let all = object::list(node, "/status/addresses");
        let one = all.iter().find(|a| a["type"] == kind);
        json!(one.map_or(NONE, |a| object::text(a, "/address")))
    };
    let fact = |field: &str| {
        let text = object::text(&node["status"]["nodeInfo"], field);
        json!(if text.is_empty() { "<unknown>" } else { text })
    };
    vec![
        json!(status),
        json!(if roles.is_empty() {
            NONE.to_owned()
        } else {
            roles.join(",")
        }),
        age,
        json!(object::text(node, "/status/nodeInfo/kubeletVersion")),
        address("InternalIP"),
        address("ExternalIP"),
        fact("/osImage"),
        fact("/kernelVersion"),
        fact("/containerRuntimeVersion"),
    ]
}

fn endpoints(object: &Value) -> String {
    let subsets = object::list(object, "/subsets").iter();
    let all: Vec<String> = subsets
        .flat_map(|subset| {
            let ports = object::list(subset, "/ports");
            object::list(subset, "/addresses").iter().flat_map(|a| {
                let ip = object::text(a, "/ip");
                ports.iter().map(move |p| format!("{ip}:{}", p["port"]))
            })
        })
        .collect();
    few(&all, NONE)
}

fn slice_ports(slice: &Value) -> String {
    let ports: Vec<String> = object::list(slice, "/ports")
        .iter()
        .map(|p| p["port"].to_string())
        .collect();
    few(&ports, "<unset>")
}

fn slice_addresses(slice: &Value) -> String {
    let all: Vec<String> = object::list(slice, "/endpoints")
        .iter()
        .flat_map(|e| object::list(e, "/addresses"))
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    few(&all, "<unset>")
}

/// All cells of an event: it has no name in front.
pub(super) fn event(event: &Value, now: Timestamp) -> Vec<Value> {
    let about = &event["involvedObject"];
    let text = |pointer: &str| json!(object::text(event, pointer));
    let seen = |fields: [&str; 2]| {
        let time = fields.iter().map(|f| &event[*f]).find(|t| t.is_string());
        json!(age::since(time.unwrap_or(&Value::Null), now))
    };
    let object = format!(
        "{}/{}",
        object::text(about, "/kind").to_lowercase(),
        object::text(about, "/name")
    );
    let source = match object::text(event, "/source/component") {
        "" => object::text(event, "/reportingComponent"),
        component => component,
    };
    let source = match object::text(event, "/source/host") {
        "" => source.to_owned(),
        host => format!("{source}, {host}"),
    };
    vec![
        seen(["lastTimestamp", "eventTime"]),
        text("/type"),
        text("/reason"),
        json!(object),
        json!(object::text(about, "/fieldPath")),
        json!(source),
        json!(object::text(event, "/message").trim()),
        seen(["firstTimestamp", "eventTime"]),
        json!(object::number(event, "/count").max(1)),
        json!(object::name(event)),
    ]
}
