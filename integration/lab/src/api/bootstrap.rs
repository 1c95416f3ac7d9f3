//! What every cluster has from its first second.

use serde_json::json;

use super::resource::{NAMESPACES, ResourceId, SERVICE_ACCOUNTS, SERVICES};
use super::store::Store;

const SPACES: [&str; 4] = ["default", "kube-node-lease", "kube-public", "kube-system"];

/// The first namespaces, their service accounts and the API's own Service.
pub(super) fn fill(store: &Store) {
    for name in SPACES {
        put(
            store,
            &NAMESPACES,
            "",
            json!({ "metadata": { "name": name } }),
        );
        let account = json!({ "metadata": { "name": "default" } });
        put(store, &SERVICE_ACCOUNTS, name, account);
    }
    let labels = json!({ "component": "apiserver", "provider": "kubernetes" });
    let port = json!({ "name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443 });
    let service = json!({
        "metadata": { "name": "kubernetes", "labels": labels },
        "spec": { "clusterIP": "10.96.0.1", "ports": [port] },
    });
    put(store, &SERVICES, "default", service);
}

fn put(store: &Store, id: &ResourceId, namespace: &str, object: serde_json::Value) {
    if let Err(error) = store.create_object(id, namespace, object) {
        tracing::error!(%error, "cannot make the cluster's first objects");
    }
}
