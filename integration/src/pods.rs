//! Manifests of pods that tests make.

use std::path::Path;

use serde_json::{Value, json};

/// A pod on one node that runs a command of the machine's file system.
#[must_use]
pub fn pod(name: &str, node: &str, labels: &[(&str, &str)], command: &[&str]) -> Value {
    let labels: serde_json::Map<_, _> = labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), Value::from(*value)))
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "nodeName": node,
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "weft/load", "command": command}],
        },
    })
}

/// A pod that waits for commands.
#[must_use]
pub fn idle(name: &str, node: &str, labels: &[(&str, &str)]) -> Value {
    pod(name, node, labels, &["sleep", "infinity"])
}

/// A pod that serves with `weft-load`.
#[must_use]
pub fn server(load: &Path, what: &str, name: &str, node: &str, listen: &[&str]) -> Value {
    let load = load.to_string_lossy();
    let mut command = vec![&*load, what];
    command.extend(listen);
    pod(name, node, &[("app", name)], &command)
}

/// A policy that lets pods with labels reach ports of others. A port with a
/// method is one with an HTTP rule.
#[must_use]
pub fn policy(
    name: &str,
    to: (&str, &str),
    from: (&str, &str),
    ports: &[(u16, Option<&str>)],
) -> Value {
    let ports: Vec<_> = ports
        .iter()
        .map(|(port, method)| {
            let mut list = json!({"ports": [{"port": port.to_string(), "protocol": "TCP"}]});
            if let Some(method) = method {
                list["rules"] = json!({"http": [{"method": method}]});
            }
            list
        })
        .collect();
    json!({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": name},
        "spec": {
            "endpointSelector": {"matchLabels": {to.0: to.1}},
            "ingress": [{"fromEndpoints": [{"matchLabels": {from.0: from.1}}], "toPorts": ports}],
        },
    })
}
