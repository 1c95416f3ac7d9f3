//! Every file below `examples/` is good, whatever it is: a new one needs no
//! list to be looked at.

use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;
use weft_api::k8s::filter::FilterKind;
use weft_api::k8s::{CiliumClusterwideNetworkPolicy, CiliumNetworkPolicy, PolicyObject};
use weft_lab::api::Store;
use weft_lab::api::yaml::documents;

fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, found),
            false => found.push(path),
        }
    }
}

/// An API that knows the mesh's kinds.
fn api() -> Store {
    let store = Store::new();
    for definition in weft_api::k8s::crds() {
        store.create(&definition).unwrap();
    }
    store
}

fn rules<T: PolicyObject + DeserializeOwned>(object: &Value) -> Result<(), String> {
    let policy: T = serde_json::from_value(object.clone()).map_err(|error| error.to_string())?;
    policy.rules().map(drop).map_err(|error| error.to_string())
}

fn filter(kind: FilterKind, object: &Value) -> Result<(), String> {
    let read = weft_api::k8s::filter::read(kind, object);
    read.map(drop).map_err(|error| error.to_string())
}

/// Takes an object as the API does, and policies and filters as the agent does.
fn take(api: &Store, object: Value) -> Result<(), String> {
    let kind = object["kind"].as_str().unwrap_or_default();
    if let Some(kind) = FilterKind::from_name(kind) {
        filter(kind, &object)?;
    }
    match kind {
        "CiliumNetworkPolicy" => rules::<CiliumNetworkPolicy>(&object)?,
        "CiliumClusterwideNetworkPolicy" => rules::<CiliumClusterwideNetworkPolicy>(&object)?,
        _ => {}
    }
    let resources = api.resources();
    let served = resources.iter().find(|resource| {
        let mut versions = resource.versions.iter();
        resource.kind == object["kind"]
            && versions.any(|version| resource.api_version(&version.name) == object["apiVersion"])
    });
    let served = served.ok_or("a kind that the API does not serve")?;
    let namespace = match served.namespaced {
        true => object["metadata"]["namespace"]
            .as_str()
            .unwrap_or("default")
            .to_owned(),
        false => String::new(),
    };
    let created = api.create_object(&served.id(), &namespace, object);
    created.map(drop).map_err(|error| error.to_string())
}

fn load(path: &Path) -> Result<(), String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("yaml") => {
            let objects = documents(&text).map_err(|error| error.to_string())?;
            if objects.is_empty() {
                return Err("nothing in it".to_owned());
            }
            let api = api();
            objects
                .into_iter()
                .try_for_each(|object| take(&api, object))
        }
        // What the proxy runs from without an agent.
        Some("json") => serde_json::from_str::<weft_api::node::Snapshot>(&text)
            .map(drop)
            .map_err(|error| error.to_string()),
        // What a ship shows at the door.
        Some("jwt") => match text.trim_end().split('.').count() {
            3 => Ok(()),
            parts => Err(format!("a token has three parts, not {parts}")),
        },
        _ => Err("nothing loads a file of this name".to_owned()),
    }
}

#[test]
fn every_example_is_good() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut found = Vec::new();
    files(&root, &mut found);
    assert!(found.len() >= 6, "{found:?}");
    for path in found {
        load(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    }
}

#[test]
fn a_bad_example_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let policy = "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, metadata: {name: a}, spec: {endpointSelector: {}, ingres: []}}";
    for (name, text, why) in [
        ("a.yaml", "kind: Pot\napiVersion: v1\n", "does not serve"),
        ("b.yaml", policy, "spec.ingres"),
        ("c.json", "{\"listener\": []}", "unknown field"),
        ("d.txt", "", "nothing loads"),
        (
            "e.yaml",
            "{apiVersion: weft.dev/v1alpha1, kind: WeftFilter, spec: {selector: {}, direction: up, module: {url: 'file://a'}}}",
            "spec.direction: `up` is none of ingress, egress",
        ),
        (
            "f.yaml",
            "{apiVersion: weft.dev/v1alpha1, kind: WeftFilter, spec: {selector: {}, direction: egress, ports: [80], module: {url: 'oci://a/b'}}}",
            "spec.module.sha256",
        ),
    ] {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        let told = load(&path).unwrap_err();
        assert!(told.contains(why), "{name}: {told}");
    }
}
