//! `Table` answers: the columns that kubectl shows, computed by the server.

mod age;
mod core;
mod custom;
mod path;
mod print;
mod workloads;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::resource::ResourceType;

pub use print::print;

/// One column: name, type, description, and whether it is for `-o wide` only.
#[derive(Debug, Clone)]
struct Column {
    name: String,
    kind: String,
    description: String,
    priority: i64,
}

impl Column {
    fn new(name: &str, kind: &str, wide: bool) -> Self {
        Self {
            name: name.to_owned(),
            kind: kind.to_owned(),
            description: String::new(),
            priority: i64::from(wide),
        }
    }
}

/// What of an object goes along with its row (`includeObject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Include {
    /// Nothing.
    None,
    /// Its metadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

/// A `Table` of objects of one resource, as seen in one of its versions.
pub fn table<'a>(
    info: &ResourceType,
    version: &str,
    objects: impl Iterator<Item = &'a Value>,
    include: Include,
    metadata: Value,
) -> Value {
    let now = Timestamp::now();
    let columns = columns(info, version);
    let rows: Vec<Value> = objects
        .map(|object| {
            let cells = cells(info, version, object, now);
            match include {
                Include::None => json!({ "cells": cells }),
                Include::Metadata => json!({ "cells": cells, "object": partial(object) }),
                Include::Object => json!({ "cells": cells, "object": object }),
            }
        })
        .collect();
    let columns: Vec<Value> = columns
        .into_iter()
        .map(|c| {
            let format = if c.name == "Name" { "name" } else { "" };
            json!({
                "name": c.name, "type": c.kind, "format": format,
                "description": c.description, "priority": c.priority,
            })
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": columns, "rows": rows,
    })
}

/// Only the metadata of an object.
pub fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"],
    })
}

/// (name, wide only) of a built-in kind, after the name.
type Names = &'static [(&'static str, bool)];

fn built_in(info: &ResourceType) -> Option<Names> {
    if info.custom {
        return None;
    }
    Some(match info.kind.as_str() {
        "Pod" => workloads::POD,
        "Deployment" => workloads::DEPLOYMENT,
        "ReplicaSet" => workloads::REPLICA_SET,
        "DaemonSet" => workloads::DAEMON_SET,
        "Service" => core::SERVICE,
        "Endpoints" => core::ENDPOINTS,
        "EndpointSlice" => core::ENDPOINT_SLICE,
        "Node" => core::NODE,
        "Namespace" => core::NAMESPACE,
        "ConfigMap" => core::CONFIG_MAP,
        "Secret" => core::SECRET,
        "ServiceAccount" => core::SERVICE_ACCOUNT,
        "Lease" => core::LEASE,
        "NetworkPolicy" => core::NETWORK_POLICY,
        "ValidatingWebhookConfiguration" => core::WEBHOOK_CONFIGURATION,
        "CustomResourceDefinition" => core::DEFINITION,
        "Event" => core::EVENT,
        _ => return None,
    })
}

fn columns(info: &ResourceType, version: &str) -> Vec<Column> {
    let Some(names) = built_in(info) else {
        return custom::columns(info, version);
    };
    let name = Column::new("Name", "string", false);
    let mut columns: Vec<Column> = names
        .iter()
        .map(|(name, wide)| Column::new(name, "string", *wide))
        .collect();
    // Of all kinds only events show something else first.
    if info.kind != "Event" {
        columns.insert(0, name);
    }
    columns
}

fn cells(info: &ResourceType, version: &str, object: &Value, now: Timestamp) -> Vec<Value> {
    if built_in(info).is_none() {
        return custom::cells(info, version, object, now);
    }
    let rest = match info.kind.as_str() {
        "Pod" => workloads::pod(object, now),
        "Deployment" => workloads::deployment(object, now),
        "ReplicaSet" => workloads::replica_set(object, now),
        "DaemonSet" => workloads::daemon_set(object, now),
        "Event" => return core::event(object, now),
        _ => core::cells(&info.kind, object, now),
    };
    let name = json!(super::object::name(object));
    std::iter::once(name).chain(rest).collect()
}

#[cfg(test)]
mod tests;
