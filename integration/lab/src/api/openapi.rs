//! `/openapi/v3`: as much as kubectl reads before it sends an object, which is that the
//! kind exists and that the server itself validates fields. The schemas are open: with
//! them kubectl falls back to the types it was built with for strategic merges.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::resource::ResourceType;
use super::store::Store;

/// `/openapi/v3`: where each group version is described.
pub fn index(store: &Store) -> Value {
    let mut paths = BTreeSet::new();
    for info in store.resources() {
        for version in &info.versions {
            paths.insert(prefix(&info, &version.name));
        }
    }
    let paths: Map<String, Value> = paths
        .into_iter()
        .map(|path| {
            // CRDs come and go: the hash tells clients that cache when to ask again.
            let url = format!("/openapi/v3/{path}?hash={}", store.revision());
            (path, json!({ "serverRelativeURL": url }))
        })
        .collect();
    json!({ "paths": paths })
}

fn prefix(info: &ResourceType, version: &str) -> String {
    if info.group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{}/{version}", info.group)
    }
}

/// One group version's document; `None` when nothing is served there.
pub fn document(store: &Store, path: &str) -> Option<Value> {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    for info in store.resources() {
        for version in info
            .versions
            .iter()
            .filter(|v| prefix(&info, &v.name) == path)
        {
            describe(&info, &version.name, &mut paths, &mut schemas);
        }
    }
    if schemas.is_empty() {
        return None;
    }
    Some(json!({
        "openapi": "3.0.0", "info": { "title": "Kubernetes", "version": super::KUBERNETES_VERSION },
        "paths": paths, "components": { "schemas": schemas },
    }))
}

fn describe(
    info: &ResourceType,
    version: &str,
    paths: &mut Map<String, Value>,
    schemas: &mut Map<String, Value>,
) {
    let kind = json!({ "group": info.group, "version": version, "kind": info.kind });
    let reversed: Vec<&str> = info
        .group
        .split('.')
        .rev()
        .filter(|p| !p.is_empty())
        .collect();
    let home = if reversed.is_empty() {
        "io.k8s.api.core".to_owned()
    } else {
        reversed.join(".")
    };
    schemas.insert(
        format!("{home}.{version}.{}", info.kind),
        json!({
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": true,
            "x-kubernetes-group-version-kind": [kind],
        }),
    );
    let parameter = |name: &str| json!({ "name": name, "in": "query", "schema": { "type": "string", "uniqueItems": true } });
    let parameters = [
        parameter("dryRun"),
        parameter("fieldManager"),
        parameter("fieldValidation"),
    ];
    let write = |action: &str, content: &[&str]| {
        let content: Map<String, Value> = content
            .iter()
            .map(|c| ((*c).to_owned(), json!({ "schema": { "type": "object" } })))
            .collect();
        json!({
            "parameters": parameters, "requestBody": { "content": content }, "responses": { "200": { "description": "OK" } },
            "x-kubernetes-action": action, "x-kubernetes-group-version-kind": kind,
        })
    };
    let root = prefix(info, version);
    let space = if info.namespaced {
        "/namespaces/{namespace}"
    } else {
        ""
    };
    let collection = format!("/{root}{space}/{}", info.plural);
    paths.insert(
        collection.clone(),
        json!({ "post": write("post", &["*/*"]) }),
    );
    let patches = [
        "application/apply-patch+yaml",
        "application/json-patch+json",
        "application/merge-patch+json",
    ];
    paths.insert(
        format!("{collection}/{{name}}"),
        json!({ "put": write("put", &["*/*"]), "patch": write("patch", &patches) }),
    );
}
