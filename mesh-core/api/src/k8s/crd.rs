//! The custom resource definitions that are installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use super::filter;
use super::identity::IdentityFields;
use super::policy::{GROUP, SPEC, VERSION};
use super::schema::{published, schema_of};
use super::status::PolicyStatus;

/// All definitions, in the order in which they are installed.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let policies = [
        Names {
            group: GROUP,
            kind: "CiliumNetworkPolicy",
            plural: "ciliumnetworkpolicies",
            short: &["cnp", "ciliumnp"],
            categories: &["cilium", "weft"],
            namespaced: true,
        },
        Names {
            group: GROUP,
            kind: "CiliumClusterwideNetworkPolicy",
            plural: "ciliumclusterwidenetworkpolicies",
            short: &["ccnp"],
            categories: &["cilium", "weft"],
            namespaced: false,
        },
    ];
    let envoy = [
        Names {
            group: GROUP,
            kind: "CiliumEnvoyConfig",
            plural: "ciliumenvoyconfigs",
            short: &["cec"],
            categories: &["cilium", "weft"],
            namespaced: true,
        },
        Names {
            group: GROUP,
            kind: "CiliumClusterwideEnvoyConfig",
            plural: "ciliumclusterwideenvoyconfigs",
            short: &["ccec"],
            categories: &["cilium", "weft"],
            namespaced: false,
        },
    ];
    let identity = Names {
        group: GROUP,
        kind: "CiliumIdentity",
        plural: "ciliumidentities",
        short: &["ciliumid"],
        categories: &["cilium", "weft"],
        namespaced: false,
    };
    let policies = policies
        .iter()
        .map(|names| definition(names, &policy_version()));
    let envoy = envoy
        .iter()
        .map(|names| definition(names, &envoy_version()));
    let identity = definition(&identity, &identity_version());
    // A definition that does not parse would be a bug that the tests catch;
    // there is nothing to install then.
    policies
        .chain(envoy)
        .chain([identity])
        .chain(filter::definitions())
        .filter_map(|definition| serde_json::from_value(definition).ok())
        .collect()
}

/// How a kind is called.
pub(super) struct Names {
    pub(super) group: &'static str,
    pub(super) kind: &'static str,
    pub(super) plural: &'static str,
    pub(super) short: &'static [&'static str],
    pub(super) categories: &'static [&'static str],
    pub(super) namespaced: bool,
}

/// A definition with one version.
pub(super) fn definition(names: &Names, version: &Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{}.{}", names.plural, names.group) },
        "spec": {
            "group": names.group,
            "names": {
                "kind": names.kind,
                "listKind": format!("{}List", names.kind),
                "plural": names.plural,
                "singular": names.kind.to_lowercase(),
                "shortNames": names.short,
                "categories": names.categories,
            },
            "scope": if names.namespaced { "Namespaced" } else { "Cluster" },
            "versions": [version],
        },
    })
}

/// What the operator says.
fn status_schema() -> Value {
    let mut status = schema_of::<PolicyStatus>();
    status["description"] = json!("What the operator says about the object.");
    status
}

/// Whatever Envoy understands: kept key for key.
fn envoy_version() -> Value {
    let spec = json!({
        "type": "object",
        "description": "Envoy resources, and the Services whose traffic goes through them.",
        "x-kubernetes-preserve-unknown-fields": true,
    });
    json!({
        "name": VERSION,
        "served": true,
        "storage": true,
        "subresources": { "status": {} },
        "additionalPrinterColumns": [
            { "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" },
        ],
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "x-kubernetes-preserve-unknown-fields": true,
                "properties": { "spec": spec, "status": status_schema() },
            },
        },
    })
}

fn policy_version() -> Value {
    let spec = published(SPEC.clone());
    let status = status_schema();
    json!({
        "name": VERSION,
        "served": true,
        "storage": true,
        "subresources": { "status": {} },
        "additionalPrinterColumns": [
            { "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" },
            {
                "name": "Valid",
                "type": "string",
                "jsonPath": ".status.conditions[?(@.type=='Valid')].status",
            },
        ],
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "x-kubernetes-preserve-unknown-fields": true,
                "properties": {
                    "spec": spec,
                    "specs": {
                        "type": "array",
                        "description": "Several rules in one object.",
                        "items": spec,
                    },
                    "status": status,
                },
            },
        },
    })
}

fn identity_version() -> Value {
    let mut schema = schema_of::<IdentityFields>();
    schema["description"] = json!("A number, the object's name, and the labels it stands for.");
    json!({
        "name": VERSION,
        "served": true,
        "storage": true,
        "additionalPrinterColumns": [
            {
                "name": "Namespace",
                "type": "string",
                "jsonPath": r".security-labels.k8s:io\.kubernetes\.pod\.namespace",
            },
            { "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" },
        ],
        "schema": { "openAPIV3Schema": schema },
    })
}

#[cfg(test)]
mod tests;
