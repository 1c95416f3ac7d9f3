//! Discovery: which groups, versions and resources there are.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::resource::ResourceType;
use super::store::Store;

const VERBS: [&str; 8] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

/// The Kubernetes that this stands in for, server and nodes: that of the newest kubectl that it was
/// tested with.
pub const KUBERNETES_VERSION: &str = "v1.32.0";

/// `/version`.
pub fn version() -> Value {
    json!({
        "major": "1", "minor": "32", "gitVersion": format!("{KUBERNETES_VERSION}+weft-lab"), "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64",
    })
}

/// `/api`.
pub fn core_versions() -> Value {
    json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": "" }],
    })
}

/// `/apis`.
pub fn groups(store: &Store) -> Value {
    let mut groups: BTreeMap<String, Vec<Arc<ResourceType>>> = BTreeMap::new();
    for info in store
        .resources()
        .into_iter()
        .filter(|r| !r.group.is_empty())
    {
        groups.entry(info.group.clone()).or_default().push(info);
    }
    let groups: Vec<Value> = groups
        .iter()
        .map(|(name, types)| group(name, types))
        .collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

/// `/apis/GROUP`; `None` when there is no such group.
pub fn one_group(store: &Store, name: &str) -> Option<Value> {
    let types: Vec<_> = store
        .resources()
        .into_iter()
        .filter(|r| r.group == name)
        .collect();
    if types.is_empty() || name.is_empty() {
        return None;
    }
    let mut group = group(name, &types);
    group["kind"] = json!("APIGroup");
    group["apiVersion"] = json!("v1");
    Some(group)
}

fn group(name: &str, types: &[Arc<ResourceType>]) -> Value {
    let mut versions: Vec<&str> = Vec::new();
    for version in types.iter().flat_map(|t| &t.versions) {
        if !versions.contains(&version.name.as_str()) {
            versions.push(&version.name);
        }
    }
    let versions: Vec<Value> = versions
        .into_iter()
        .map(|v| json!({ "groupVersion": format!("{name}/{v}"), "version": v }))
        .collect();
    json!({ "name": name, "versions": versions, "preferredVersion": versions[0] })
}

/// `/api/v1` or `/apis/GROUP/VERSION`; `None` when nothing is served there.
pub fn resources(store: &Store, group: &str, version: &str) -> Option<Value> {
    let types: Vec<_> = store
        .resources()
        .into_iter()
        .filter(|r| r.group == group && r.find_version(version).is_some())
        .collect();
    let api_version = types.first()?.api_version(version);
    let resources: Vec<Value> = types.iter().flat_map(|info| entries(info)).collect();
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": resources,
    }))
}

fn entries(info: &ResourceType) -> Vec<Value> {
    let mut main = json!({
        "name": info.plural, "singularName": info.singular, "namespaced": info.namespaced, "kind": info.kind, "verbs": VERBS,
    });
    if !info.short_names.is_empty() {
        main["shortNames"] = json!(info.short_names);
    }
    if !info.categories.is_empty() {
        main["categories"] = json!(info.categories);
    }
    let mut all = vec![main];
    let mut sub = |name: &str, kind: &str, verbs: &[&str]| {
        all.push(json!({
            "name": format!("{}/{name}", info.plural), "singularName": "", "namespaced": info.namespaced, "kind": kind, "verbs": verbs,
        }));
    };
    if info.status {
        sub("status", &info.kind, &["get", "patch", "update"]);
    }
    if info.scale.is_some() {
        sub("scale", "Scale", &["get", "patch", "update"]);
    }
    if info.is(&super::resource::PODS) {
        sub("log", "Pod", &["get"]);
        sub("exec", "PodExecOptions", &["create", "get"]);
        sub("portforward", "PodPortForwardOptions", &["create", "get"]);
    }
    all
}
