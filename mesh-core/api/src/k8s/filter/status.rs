//! What is said of filters: by each node in a report of its own, and by the
//! operator in the status of the objects.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::status::Condition;

/// Status of a filter.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FilterStatus {
    /// Conditions by type. Accepted: what the object says can be honoured; Loaded: every node
    /// that needs the module has it; Configured: and it has taken its configuration there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// What nodes say, those with a trouble first; of many nodes not all are here.
    pub nodes: Vec<NodeStatus>,
}

impl FilterStatus {
    /// The condition that says whether the object can be honoured.
    pub const ACCEPTED: &str = "Accepted";
    /// The condition that says whether nodes have the module.
    pub const LOADED: &str = "Loaded";
    /// The condition that says whether it has taken its configuration.
    pub const CONFIGURED: &str = "Configured";
}

/// A filter on a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// The node.
    pub name: String,
    /// The module that the object names is loaded.
    pub loaded: bool,
    /// It has taken the configuration that the object has.
    pub configured: bool,
    /// SHA-256 of the module that serves.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// Why it is not loaded or configured, or what else is wrong.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// Its namespace has used up its CPU time on the node: until then it is not called.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub quarantined_until: Option<Time>,
}

/// What a node says of all its filters. The object's name is the node's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FilterReport {
    /// The filters that are attached to something on the node.
    pub filters: Vec<NodeFilter>,
}

impl FilterReport {
    /// Kind of the object that holds it.
    pub const KIND: &str = "WeftFilterReport";
    /// As it stands in paths.
    pub const PLURAL: &str = "weftfilterreports";
}

/// A filter as a node reports it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeFilter {
    /// WeftFilter, WeftClusterFilter or WasmPlugin.
    pub kind: String,
    /// Its namespace; absent for objects of the whole cluster.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Generation of the object that this is about.
    pub observed_generation: i64,
    /// The module that the object names is loaded.
    pub loaded: bool,
    /// It has taken the configuration that the object has.
    pub configured: bool,
    /// SHA-256 of the module that serves.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// Why it is not loaded or configured, or what else is wrong.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// Until when it is not called.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub quarantined_until: Option<Time>,
}
