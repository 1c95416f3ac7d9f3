//! The definitions of the kinds.

use serde_json::{Value, json};
use weft_core::filter::FilterKind;

use super::super::crd::{Names, definition};
use super::super::schema::{published, schema_of};
use super::status::{FilterReport, FilterStatus};
use super::{convert, istio};

/// Group of our own kinds.
pub const GROUP: &str = "weft.dev";
/// Group of Istio's.
pub const ISTIO_GROUP: &str = "extensions.istio.io";
/// Version of all of them.
pub const VERSION: &str = "v1alpha1";

/// All of them, in the order in which they are installed.
pub(in crate::k8s) fn definitions() -> [Value; 4] {
    [
        filter(FilterKind::WeftFilter),
        filter(FilterKind::WeftClusterFilter),
        wasm_plugin(),
        report(),
    ]
}

/// The name of a kind as it stands in paths.
pub const fn plural(kind: FilterKind) -> &'static str {
    match kind {
        FilterKind::WeftFilter => "weftfilters",
        FilterKind::WeftClusterFilter => "weftclusterfilters",
        FilterKind::WasmPlugin => "wasmplugins",
    }
}

/// The group of a kind.
pub const fn group(kind: FilterKind) -> &'static str {
    match kind {
        FilterKind::WeftFilter | FilterKind::WeftClusterFilter => GROUP,
        FilterKind::WasmPlugin => ISTIO_GROUP,
    }
}

fn filter(kind: FilterKind) -> Value {
    let clusterwide = kind == FilterKind::WeftClusterFilter;
    let names = Names {
        group: GROUP,
        kind: kind.as_str(),
        plural: plural(kind),
        short: if clusterwide { &["wcf"] } else { &["wf"] },
        categories: &["weft"],
        namespaced: !clusterwide,
    };
    let mut spec = convert::SPEC.clone();
    if !clusterwide {
        if let Some(properties) = spec["properties"].as_object_mut() {
            properties.shift_remove("namespaces");
        }
        spec["properties"]["phase"]["enum"] = json!(["afterPolicy", "upstream"]);
    }
    // So that tables and readers see what holds.
    for (field, default) in [
        ("direction", json!("ingress")),
        ("phase", json!("afterPolicy")),
        ("priority", json!(0)),
        ("isolation", json!("worker")),
    ] {
        spec["properties"][field]["default"] = default;
    }
    let columns = [
        column("Phase", ".spec.phase", 0),
        column("Direction", ".spec.direction", 0),
        column("Accepted", &condition(FilterStatus::ACCEPTED), 0),
        column("Loaded", &condition(FilterStatus::LOADED), 0),
        column("Configured", &condition(FilterStatus::CONFIGURED), 0),
        age(),
        column("Module", ".spec.module.url", 1),
    ];
    definition(&names, &version(&columns, spec))
}

/// As Istio installs it, but that unknown fields are kept.
fn wasm_plugin() -> Value {
    let names = Names {
        group: ISTIO_GROUP,
        kind: FilterKind::WasmPlugin.as_str(),
        plural: plural(FilterKind::WasmPlugin),
        short: &[],
        categories: &["istio-io", "extensions-istio-io", "weft"],
        namespaced: true,
    };
    let spec = published(istio::SPEC.clone());
    definition(&names, &version(&[age()], spec))
}

/// What nodes say: an object for each.
fn report() -> Value {
    let names = Names {
        group: GROUP,
        kind: FilterReport::KIND,
        plural: FilterReport::PLURAL,
        short: &[],
        categories: &["weft"],
        namespaced: false,
    };
    let mut schema = schema_of::<FilterReport>();
    schema["description"] = json!("What a node says of its filters; the name is the node's.");
    let version = json!({
        "name": VERSION,
        "served": true,
        "storage": true,
        "additionalPrinterColumns": [age()],
        "schema": { "openAPIV3Schema": schema },
    });
    definition(&names, &version)
}

fn version(columns: &[Value], spec: Value) -> Value {
    let mut status = schema_of::<FilterStatus>();
    status["description"] = json!("What the operator says about the object.");
    json!({
        "name": VERSION,
        "served": true,
        "storage": true,
        "subresources": { "status": {} },
        "additionalPrinterColumns": columns,
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "x-kubernetes-preserve-unknown-fields": true,
                "required": ["spec"],
                "properties": { "spec": spec, "status": status },
            },
        },
    })
}

fn condition(name: &str) -> String {
    format!(".status.conditions[?(@.type=='{name}')].status")
}

/// Of a priority above 0 for `-o wide` alone.
fn column(name: &str, path: &str, priority: i32) -> Value {
    json!({ "name": name, "type": "string", "jsonPath": path, "priority": priority })
}

fn age() -> Value {
    json!({ "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" })
}
