//! What runs in the labs.

use anyhow::Context;
use serde_json::{Value, json};

/// Allowed to the client by address and port alone.
pub const L4_PORT: u16 = 7001;
/// Allowed to the client by method and path too.
pub const L7_PORT: u16 = 7002;

/// The pod that measures.
pub const CLIENT: &str = "client";
/// A pod that no policy lets in.
pub const STRANGER: &str = "stranger";

/// Where a server runs, seen from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// On the client's node.
    Near,
    /// On the other one.
    Far,
}

impl Place {
    /// A server's name.
    #[must_use]
    pub fn server(self, policed: bool) -> &'static str {
        match (self, policed) {
            (Self::Near, true) => "near",
            (Self::Far, true) => "far",
            (Self::Near, false) => "near-open",
            (Self::Far, false) => "far-open",
        }
    }
}

/// The policies and pods. Policies come first: they hold from a pod's first
/// packet on. A cluster without the mesh does not know them.
///
/// # Errors
/// When this program's own path cannot stand in a manifest.
pub fn objects(mesh: bool) -> anyhow::Result<Value> {
    let mut items = Vec::new();
    if mesh {
        items.push(policy());
    }
    items.push(pod(CLIENT, "kind-worker", "client", &["idle"])?);
    items.push(pod(STRANGER, "kind-worker", "stranger", &["idle"])?);
    for (place, node) in [(Place::Near, "kind-worker"), (Place::Far, "kind-worker2")] {
        let (l4, l7) = (L4_PORT.to_string(), L7_PORT.to_string());
        let serve = ["serve", &l4, &l7];
        items.push(pod(place.server(true), node, "server", &serve)?);
        items.push(pod(place.server(false), node, "open", &serve)?);
    }
    Ok(json!({ "apiVersion": "v1", "kind": "List", "items": items }))
}

fn pod(name: &str, node: &str, role: &str, words: &[&str]) -> anyhow::Result<Value> {
    let program = std::env::current_exe()?;
    let program = program.to_str().context("a path in UTF-8")?;
    let command = [&[program], words].concat();
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": "default", "labels": { "bench": role } },
        "spec": {
            "nodeName": node,
            "containers": [{
                "name": "bench",
                "image": "bench",
                "command": command,
            }],
        },
    }))
}

fn policy() -> Value {
    let from = json!([{ "matchLabels": { "bench": "client" } }]);
    let port = |port: u16| json!([{ "port": port.to_string(), "protocol": "TCP" }]);
    json!({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": { "name": "bench", "namespace": "default" },
        "spec": {
            "endpointSelector": { "matchLabels": { "bench": "server" } },
            "ingress": [
                { "fromEndpoints": from, "toPorts": [{ "ports": port(L4_PORT) }] },
                {
                    "fromEndpoints": from,
                    "toPorts": [{
                        "ports": port(L7_PORT),
                        "rules": { "http": [
                            { "method": "POST", "path": "/ping" },
                            { "method": "GET", "path": "/bulk/[0-9]+" },
                        ] },
                    }],
                },
            ],
        },
    })
}
