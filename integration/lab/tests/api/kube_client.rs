//! kube-rs against the API: lists, watches and patches as the mesh's agent uses them.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
};
use kube::core::GroupVersionKind;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Config};
use serde_json::{Value, json};

use crate::support::TestApi;

const DEADLINE: Duration = Duration::from_secs(20);

fn client(api: &TestApi) -> Client {
    let mut config = Config::new(api.url.parse().expect("a URL"));
    config.default_namespace = "default".to_owned();
    Client::try_from(config).expect("a client")
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    ConfigMap {
        metadata: kube::core::ObjectMeta {
            name: Some(name.to_owned()),
            ..Default::default()
        },
        data: Some(BTreeMap::from([("k".to_owned(), value.to_owned())])),
        ..Default::default()
    }
}

/// `+name=value`, `-name`, or the watcher's marks.
async fn next(
    watch: &mut (impl Stream<Item = watcher::Result<Event<ConfigMap>>> + Unpin),
) -> String {
    let event = tokio::time::timeout(DEADLINE, watch.next())
        .await
        .expect("in time");
    let show = |mark: &str, map: ConfigMap| {
        let value = map.data.unwrap_or_default().remove("k").unwrap_or_default();
        format!("{mark}{}={value}", map.metadata.name.unwrap_or_default())
    };
    match event.expect("a watch does not end").expect("no error") {
        Event::Apply(map) => show("+", map),
        Event::Delete(map) => show("-", map),
        Event::Init => "init".to_owned(),
        Event::InitApply(map) => show("=", map),
        Event::InitDone => "done".to_owned(),
    }
}

async fn watch_with(config: watcher::Config) {
    let api = TestApi::start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client(&api));
    let create = PostParams::default();
    for name in ["a", "b", "c"] {
        maps.create(&create, &config_map(name, "1"))
            .await
            .expect("created");
    }
    let mut watch = std::pin::pin!(watcher::watcher(maps.clone(), config));
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(next(&mut watch).await);
    }
    assert_eq!(seen, ["init", "=a=1", "=b=1", "=c=1", "done"]);
    let patch = Patch::Merge(json!({ "data": { "k": "2" } }));
    maps.patch("b", &PatchParams::default(), &patch)
        .await
        .expect("patched");
    maps.delete("a", &DeleteParams::default())
        .await
        .expect("deleted");
    maps.create(&create, &config_map("d", "1"))
        .await
        .expect("created");
    assert_eq!(next(&mut watch).await, "+b=2");
    assert_eq!(next(&mut watch).await, "-a=1");
    assert_eq!(next(&mut watch).await, "+d=1");
}

#[tokio::test]
async fn list_and_watch() {
    watch_with(watcher::Config::default()).await;
}

#[tokio::test]
async fn list_in_pages_and_watch() {
    watch_with(watcher::Config::default().page_size(2)).await;
}

#[tokio::test]
async fn streaming_lists() {
    watch_with(watcher::Config::default().streaming_lists()).await;
}

#[tokio::test]
async fn conflicts_and_absences_are_told_apart() {
    let api = TestApi::start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client(&api));
    let create = PostParams::default();
    let first = maps
        .create(&create, &config_map("a", "1"))
        .await
        .expect("created");
    let code = |error: kube::Error| match error {
        kube::Error::Api(status) => (status.code, status.reason),
        other => panic!("not from the API: {other}"),
    };
    let again = maps
        .create(&create, &config_map("a", "1"))
        .await
        .expect_err("there already");
    assert_eq!(code(again), (409, "AlreadyExists".to_owned()));
    let mut newer = first.clone();
    newer.data = Some(BTreeMap::from([("k".to_owned(), "2".to_owned())]));
    maps.replace("a", &create, &newer).await.expect("replaced");
    let stale = maps
        .replace("a", &create, &newer)
        .await
        .expect_err("read before that");
    assert_eq!(code(stale), (409, "Conflict".to_owned()));
    let absent = maps.get("b").await.expect_err("not there");
    assert_eq!(code(absent), (404, "NotFound".to_owned()));
    assert!(maps.get_opt("b").await.expect("no error").is_none());
    let metadata = maps
        .list_metadata(&ListParams::default())
        .await
        .expect("listed");
    assert_eq!(metadata.items[0].metadata.name.as_deref(), Some("a"));
}

fn policies(definition: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": { "name": definition },
        "spec": {
            "group": "cilium.io", "scope": "Namespaced",
            "names": { "plural": "ciliumnetworkpolicies", "kind": "CiliumNetworkPolicy", "shortNames": ["cnp"] },
            "versions": [{
                "name": "v2", "served": true, "storage": true, "subresources": { "status": {} },
                "schema": { "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } },
            }],
        },
    })
}

#[tokio::test]
async fn custom_resources_and_their_status() {
    let api = TestApi::start().await;
    let client = client(&api);
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = "ciliumnetworkpolicies.cilium.io";
    let mine = PatchParams::apply("operator").force();
    let definition = Patch::Apply(policies(name));
    definitions
        .patch(name, &mine, &definition)
        .await
        .expect("applied");
    let again = definitions
        .patch(name, &mine, &definition)
        .await
        .expect("applied again");
    assert_eq!(again.metadata.generation, Some(1));

    let kind = GroupVersionKind::gvk("cilium.io", "v2", "CiliumNetworkPolicy");
    let resource = ApiResource::from_gvk_with_plural(&kind, "ciliumnetworkpolicies");
    let rules: Api<DynamicObject> = Api::default_namespaced_with(client, &resource);
    let spec = json!({ "endpointSelector": {}, "notKnown": { "z": 1, "a": [{ "y": null }] } });
    let rule = DynamicObject::new("rule1", &resource).data(json!({ "spec": spec }));
    rules
        .create(&PostParams::default(), &rule)
        .await
        .expect("created");
    let status = json!({ "status": { "conditions": [{ "type": "Valid", "status": "True" }] } });
    rules
        .patch_status("rule1", &PatchParams::default(), &Patch::Merge(&status))
        .await
        .expect("patched");
    let found = rules.get("rule1").await.expect("there");
    assert_eq!(found.data["spec"], spec);
    assert_eq!(found.data["status"], status["status"]);
    assert_eq!(found.metadata.generation, Some(1));
    // The main resource cannot touch the status.
    let both = json!({ "spec": { "description": "x" }, "status": { "conditions": [] } });
    let both = rules
        .patch("rule1", &PatchParams::default(), &Patch::Merge(&both))
        .await;
    let both = both.expect("patched");
    assert_eq!(both.data["status"], status["status"]);
    assert_eq!(both.metadata.generation, Some(2));
    rules
        .delete("rule1", &DeleteParams::default())
        .await
        .expect("deleted");
    assert!(rules.get_opt("rule1").await.expect("no error").is_none());
}

#[tokio::test]
async fn selectors_and_collections() {
    let api = TestApi::start().await;
    let client = client(&api);
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    for (name, org) in [
        ("tiefighter", "empire"),
        ("xwing", "alliance"),
        ("ywing", "alliance"),
    ] {
        let pod = json!({
            "metadata": { "name": name, "labels": { "org": org } },
            "spec": { "nodeName": if name == "ywing" { "kind-worker" } else { "kind-worker2" },
                "containers": [{ "name": "c", "image": "i" }] },
        });
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        pods.create(&PostParams::default(), &pod)
            .await
            .expect("created");
    }
    let names = |list: kube::core::ObjectList<Pod>| -> Vec<String> {
        list.items
            .into_iter()
            .filter_map(|p| p.metadata.name)
            .collect()
    };
    let alliance = ListParams::default().labels("org in (alliance)");
    assert_eq!(
        names(pods.list(&alliance).await.expect("listed")),
        ["xwing", "ywing"]
    );
    let here = ListParams::default().fields("spec.nodeName=kind-worker2");
    assert_eq!(
        names(pods.list(&here).await.expect("listed")),
        ["tiefighter", "xwing"]
    );
    let now = DeleteParams::default().grace_period(0);
    pods.delete_collection(&now, &alliance)
        .await
        .expect("deleted");
    let left = pods.list(&ListParams::default()).await.expect("listed");
    assert_eq!(names(left), ["tiefighter"]);
    let spaces: Api<Namespace> = Api::all(client);
    let default = spaces.get("default").await.expect("there");
    let labels = default.metadata.labels.unwrap_or_default();
    assert_eq!(labels["kubernetes.io/metadata.name"], "default");
}
