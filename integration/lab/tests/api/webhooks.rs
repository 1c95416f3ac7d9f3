//! Validating admission webhooks: a real one on loopback judges what clients write.

use std::sync::atomic::{AtomicU32, Ordering};

use axum::body::Bytes;
use axum::http::{Method, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use serde_json::{Value, json};
use weft_lab::api::resource::ResourceId;
use weft_lab::api::{Part, Store};
use weft_lab::client::Server;

use crate::hook::{Hook, Reply, SERVICE};
use crate::support::TestApi;

const MERGE: &str = "application/merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const JSON: &str = "application/json";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MAP: &str = "/api/v1/namespaces/default/configmaps/a";
const MAP_APPLIED: &str = "/api/v1/namespaces/default/configmaps/a?fieldManager=t";
const CONFIGURATIONS: &str =
    "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
const CONFIG_MAPS: ResourceId = ResourceId::of("", "configmaps");

/// An answer: code, body, warnings.
type Answer = (u16, Value, Vec<String>);

async fn send(api: &TestApi, method: Method, path: &str, kind: &str, body: Value) -> Answer {
    let (_, port) = api.url.rsplit_once(':').expect("a port");
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .header(header::CONTENT_TYPE, kind)
        .body(Full::new(Bytes::from(body.to_string())))
        .expect("a request");
    let server = Server::Loopback(port.parse().expect("a number"));
    let response = server.send(request).await.expect("an answer");
    let code = response.status().as_u16();
    let warnings = response.headers().get_all("warning").iter();
    let warnings = warnings
        .map(|w| w.to_str().expect("text").to_owned())
        .collect();
    let body = response.into_body().collect().await.expect("whole");
    let body = serde_json::from_slice(&body.to_bytes()).expect("JSON");
    (code, body, warnings)
}

fn map(value: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a" }, "data": { "k": value },
    })
}

/// A webhook `NAME.test.dev`, with these fields in place of the usual ones.
fn webhook(name: &str, client: Value, fields: Value) -> Value {
    let mut hook = json!({
        "name": format!("{name}.test.dev"), "clientConfig": client, "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "rules": [{
            "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"], "operations": ["CREATE", "UPDATE"],
        }],
    });
    weft_lab::api::patch::merge(&mut hook, &fields);
    hook
}

fn rules(resources: &[&str], operations: &[&str]) -> Value {
    json!({ "rules": [{
        "apiGroups": ["*"], "apiVersions": ["*"], "resources": resources, "operations": operations,
    }] })
}

async fn configure(api: &TestApi, name: &str, hooks: &[Value]) {
    let configuration = json!({ "metadata": { "name": name }, "webhooks": hooks });
    let (code, body, _) = send(api, Method::POST, CONFIGURATIONS, JSON, configuration).await;
    assert_eq!(code, 201, "{body}");
}

/// Changes a field of the webhook in the configuration `w`.
async fn change(api: &TestApi, field: &str, value: Value) {
    let path = format!("{CONFIGURATIONS}/w");
    let patch = json!([{ "op": "add", "path": format!("/webhooks/0/{field}"), "value": value }]);
    let kind = "application/json-patch+json";
    assert_eq!(send(api, Method::PATCH, &path, kind, patch).await.0, 200);
}

/// Refuses ConfigMaps whose `k` is `bad`.
async fn strict() -> Hook {
    Hook::start(|request| match request["object"]["data"]["k"].as_str() {
        Some("bad") => {
            Reply::Deny(json!({ "code": 422, "reason": "Invalid", "message": "k is bad" }))
        }
        Some("odd") => Reply::Allow(&["k is \"odd\""]),
        _ => Reply::Allow(&[]),
    })
    .await
}

const DENIED: &str = "admission webhook \"strict.test.dev\" denied the request: k is bad";

fn value_of(store: &Store) -> Option<String> {
    let map = store.get_object(&CONFIG_MAPS, "default", "a").ok()?;
    Some(map["data"]["k"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn every_way_of_writing_is_judged() {
    let (api, hook) = (TestApi::start().await, strict().await);
    configure(&api, "w", &[webhook("strict", hook.client(), json!({}))]).await;
    let merge = |value: &str| json!({ "data": { "k": value } });
    let bad_first = [
        (Method::POST, MAPS, JSON, map("bad")),
        (Method::PATCH, MAP_APPLIED, APPLY, map("bad")),
    ];
    for (method, path, kind, body) in bad_first {
        let (code, status, warnings) = send(&api, method, path, kind, body).await;
        assert_eq!((code, &status["reason"]), (422, &json!("Invalid")));
        assert_eq!(status["message"], DENIED);
        assert_eq!(warnings, [r#"299 - "no good""#]);
        let request = hook.asked().pop().expect("asked");
        assert_eq!(request["operation"], "CREATE");
        assert_eq!(request["oldObject"], Value::Null);
    }
    assert_eq!(value_of(&api.store), None);
    let (code, made, _) = send(&api, Method::POST, MAPS, JSON, map("1")).await;
    assert_eq!(code, 201);
    let asked = hook.asked();
    let [request] = asked.as_slice() else {
        panic!("asked once: {asked:?}")
    };
    // It saw what was stored, but for the version that storing gives.
    assert_eq!(
        request["object"]["metadata"]["uid"],
        made["metadata"]["uid"]
    );
    for (pointer, expected) in [
        ("/name", json!("a")),
        ("/namespace", json!("default")),
        (
            "/kind",
            json!({ "group": "", "version": "v1", "kind": "ConfigMap" }),
        ),
        (
            "/requestResource",
            json!({ "group": "", "version": "v1", "resource": "configmaps" }),
        ),
        ("/dryRun", json!(false)),
        ("/options/kind", json!("CreateOptions")),
        ("/userInfo/username", json!("system:unsecured")),
        ("/uri", json!("/judge?timeout=10s")),
        ("/host", json!(format!("127.0.0.1:{}", hook.port))),
    ] {
        assert_eq!(request.pointer(pointer), Some(&expected), "{pointer}");
    }
    for (method, path, kind, body) in [
        (Method::PUT, MAP, JSON, map("bad")),
        (Method::PATCH, MAP, MERGE, merge("bad")),
        (
            Method::PATCH,
            MAP,
            "application/json-patch+json",
            json!([{ "op": "replace", "path": "/data/k", "value": "bad" }]),
        ),
        (
            Method::PATCH,
            MAP,
            "application/strategic-merge-patch+json",
            merge("bad"),
        ),
        (Method::PATCH, MAP_APPLIED, APPLY, map("bad")),
    ] {
        let (code, status, _) = send(&api, method, path, kind, body).await;
        assert_eq!((code, &status["message"]), (422, &json!(DENIED)), "{kind}");
        let request = hook.asked().pop().expect("asked");
        assert_eq!(request["operation"], "UPDATE", "{kind}");
        assert_eq!(request["oldObject"]["data"]["k"], "1", "{kind}");
    }
    assert_eq!(value_of(&api.store).as_deref(), Some("1"));
    let (code, ..) = send(&api, Method::PATCH, MAP_APPLIED, APPLY, map("1")).await;
    assert_eq!(code, 200);
    // Not asked for by the rules.
    assert_eq!(hook.asked().len(), 1);
    let (code, ..) = send(&api, Method::DELETE, MAP, JSON, json!({})).await;
    assert_eq!((code, hook.asked().len()), (200, 0));
}

#[tokio::test]
async fn warnings_reach_the_client() {
    let (api, hook) = (TestApi::start().await, strict().await);
    configure(&api, "w", &[webhook("strict", hook.client(), json!({}))]).await;
    let mut odd = map("odd");
    odd["unknown"] = json!(1);
    let (code, _, warnings) = send(&api, Method::POST, MAPS, JSON, odd).await;
    let expected = [
        r#"299 - "unknown field \"unknown\"""#,
        r#"299 - "k is \"odd\"""#,
    ];
    assert_eq!(
        (code, warnings.as_slice()),
        (201, &expected.map(str::to_owned)[..])
    );
}

#[tokio::test]
async fn a_dry_run_is_judged_and_says_so() {
    let (api, hook) = (TestApi::start().await, strict().await);
    let quiet = json!({ "sideEffects": "NoneOnDryRun" });
    configure(&api, "w", &[webhook("strict", hook.client(), quiet)]).await;
    let dry = format!("{MAPS}?dryRun=All");
    let (code, status, _) = send(&api, Method::POST, &dry, JSON, map("bad")).await;
    assert_eq!((code, &status["message"]), (422, &json!(DENIED)));
    let (code, ..) = send(&api, Method::POST, &dry, JSON, map("1")).await;
    assert_eq!((code, value_of(&api.store)), (201, None));
    let asked = hook.asked();
    assert_eq!(asked.len(), 2);
    for request in asked {
        assert_eq!(request["dryRun"], true);
        assert_eq!(request["options"]["dryRun"], json!(["All"]));
    }
}

#[tokio::test]
async fn subresources_are_judged_where_rules_name_them() {
    let api = TestApi::start().await;
    let hook = Hook::start(|_| Reply::Deny(Value::Null)).await;
    let pod = json!({ "metadata": { "name": "p" }, "spec": { "containers": [{ "name": "c", "image": "i" }] } });
    let pods = "/api/v1/namespaces/default/pods";
    assert_eq!(send(&api, Method::POST, pods, JSON, pod).await.0, 201);
    let status = json!({ "status": { "message": "hello" } });
    let path = format!("{pods}/p/status");
    let plain = webhook("plain", hook.client(), rules(&["*"], &["*"]));
    configure(&api, "plain", &[plain]).await;
    let (code, ..) = send(&api, Method::PATCH, &path, MERGE, status.clone()).await;
    assert_eq!((code, hook.asked().len()), (200, 0));
    let named = rules(&["pods/status"], &["UPDATE"]);
    configure(&api, "named", &[webhook("named", hook.client(), named)]).await;
    let (code, refusal, _) = send(&api, Method::PATCH, &path, MERGE, status).await;
    let message = "admission webhook \"named.test.dev\" denied the request without explanation";
    assert_eq!((code, &refusal["message"]), (400, &json!(message)));
    assert_eq!(hook.asked()[0]["subResource"], "status");
}

#[tokio::test]
async fn what_cannot_be_asked_fails_or_is_ignored() {
    let api = TestApi::start().await;
    let hook = Hook::start(|request| match request["object"]["data"]["k"].as_str() {
        Some("never") => Reply::Never,
        Some("text") => Reply::Body(StatusCode::OK, "judged".to_owned()),
        Some("status") => Reply::Body(StatusCode::BAD_GATEWAY, String::new()),
        Some("large") => Reply::Body(StatusCode::OK, " ".repeat(3 * 1024 * 1024 + 1)),
        _ => Reply::Stranger,
    })
    .await;
    configure(&api, "w", &[webhook("strict", hook.client(), json!({}))]).await;
    // Only who waits in vain is to have waited long enough soon.
    let cases = [
        ("never", 1, "context deadline exceeded"),
        (
            "text",
            30,
            "received invalid webhook response: expected value",
        ),
        ("status", 30, "the server answered 502 Bad Gateway"),
        ("large", 30, "length limit exceeded"),
        ("other", 30, "got \"somebody\""),
    ];
    for (value, seconds, part) in cases {
        change(&api, "timeoutSeconds", json!(seconds)).await;
        let sent = send(&api, Method::POST, MAPS, JSON, map(value));
        let sent = tokio::time::timeout(crate::harness::DEADLINE, sent).await;
        let (code, status, _) = sent.expect("in time");
        assert_eq!((code, &status["reason"]), (500, &json!("InternalError")));
        let message = status["message"].as_str().expect("text");
        let start = "Internal error occurred: failed calling webhook \"strict.test.dev\": ";
        assert!(
            message.starts_with(start) && message.contains(part),
            "{message}"
        );
    }
    assert_eq!((value_of(&api.store), hook.asked().len()), (None, 5));
    change(&api, "failurePolicy", json!("Ignore")).await;
    for (value, seconds, _) in cases {
        change(&api, "timeoutSeconds", json!(seconds)).await;
        let (code, ..) = send(&api, Method::PATCH, MAP_APPLIED, APPLY, map(value)).await;
        assert!(matches!(code, 200 | 201), "{value}: {code}");
        assert_eq!(value_of(&api.store).as_deref(), Some(value));
    }
    assert_eq!(hook.asked().len(), 5);
}

#[tokio::test]
async fn only_the_named_authorities_are_trusted() {
    let (api, hook, other) = (TestApi::start().await, strict().await, strict().await);
    let mut wrong = hook.client();
    wrong["caBundle"] = json!(other.bundle);
    let mut none = hook.client();
    weft_lab::api::patch::merge(&mut none, &json!({ "caBundle": null }));
    let elsewhere =
        json!({ "url": format!("https://localhost:{}/", hook.port), "caBundle": hook.bundle });
    for (name, client, part) in [
        ("wrong", wrong, "invalid peer certificate"),
        ("none", none, "clientConfig.caBundle is empty"),
        ("elsewhere", elsewhere, "invalid peer certificate"),
    ] {
        configure(&api, name, &[webhook(name, client, json!({}))]).await;
        let (code, status, _) = send(&api, Method::POST, MAPS, JSON, map("1")).await;
        let message = status["message"].as_str().expect("text");
        assert!(code == 500 && message.contains(part), "{name}: {message}");
        let path = format!("{CONFIGURATIONS}/{name}");
        assert_eq!(
            send(&api, Method::DELETE, &path, JSON, json!({})).await.0,
            200
        );
    }
    assert_eq!(hook.asked().len(), 0);
}

#[tokio::test]
async fn deletions_are_judged_and_configurations_never() {
    let api = TestApi::start().await;
    let hook = Hook::start(|_| {
        Reply::Deny(json!({ "code": 403, "reason": "Forbidden", "message": "no" }))
    })
    .await;
    assert_eq!(send(&api, Method::POST, MAPS, JSON, map("1")).await.0, 201);
    let all = rules(&["*/*"], &["*"]);
    configure(&api, "w", &[webhook("strict", hook.client(), all)]).await;
    for path in [MAP, MAPS, "/api/v1/nodes/kind-worker"] {
        let (code, status, _) = send(&api, Method::DELETE, path, JSON, json!({})).await;
        assert_eq!(
            (code, &status["reason"]),
            (403, &json!("Forbidden")),
            "{path}"
        );
        let request = hook.asked().pop().expect("asked");
        assert_eq!(request["operation"], "DELETE");
        assert_eq!(request["object"], Value::Null);
        assert_eq!(request["oldObject"]["metadata"]["name"], request["name"]);
    }
    assert_eq!(value_of(&api.store).as_deref(), Some("1"));
    let path = format!("{CONFIGURATIONS}/w");
    let label = json!({ "metadata": { "labels": { "a": "b" } } });
    assert_eq!(send(&api, Method::PATCH, &path, MERGE, label).await.0, 200);
    assert_eq!(
        send(&api, Method::DELETE, &path, JSON, json!({})).await.0,
        200
    );
    assert_eq!(
        send(&api, Method::DELETE, MAP, JSON, json!({})).await.0,
        200
    );
    assert_eq!(hook.asked().len(), 0);
}

#[tokio::test]
async fn what_is_stored_is_what_was_judged() {
    let api = TestApi::start().await;
    assert_eq!(send(&api, Method::POST, MAPS, JSON, map("1")).await.0, 201);
    let (store, writes) = (api.store.clone(), AtomicU32::new(0));
    // While it judges a map without `other`, somebody else writes one there.
    let hook = Hook::start(move |request| {
        if request["object"]["data"]["other"].is_null() {
            let number = writes.fetch_add(1, Ordering::Relaxed).to_string();
            let edit = |current: &Value| {
                let mut updated = current.clone();
                updated["data"]["other"] = json!(number);
                Ok(updated)
            };
            let written = store.update_object(&CONFIG_MAPS, "default", "a", Part::Main, edit);
            written.expect("nobody holds the lock");
        }
        Reply::Allow(&[])
    })
    .await;
    configure(&api, "w", &[webhook("w", hook.client(), json!({}))]).await;
    let two = json!({ "data": { "k": "2" } });
    let (code, patched, _) = send(&api, Method::PATCH, MAP, MERGE, two).await;
    assert_eq!(
        (code, &patched["data"]),
        (200, &json!({ "k": "2", "other": "0" }))
    );
    let asked = hook.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1]["object"]["data"], patched["data"]);
    // Who says which version he means is told that it is that no longer.
    let mut replaced = patched.clone();
    replaced["data"] = json!({ "k": "3" });
    let (code, status, _) = send(&api, Method::PUT, MAP, JSON, replaced).await;
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")));
    assert_eq!(hook.asked().len(), 1);
    // Who does not is tried again, but not for ever.
    let (code, status, _) = send(&api, Method::PUT, MAP, JSON, map("4")).await;
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")));
    assert_eq!(hook.asked().len(), 10);
    assert_eq!(value_of(&api.store).as_deref(), Some("2"));
}

#[tokio::test]
async fn all_are_asked_and_the_first_refusal_counts() {
    let api = TestApi::start().await;
    let first = Hook::start(|_| Reply::Deny(json!({ "message": "first" }))).await;
    let second = Hook::start(|_| Reply::Deny(json!({ "message": "second" }))).await;
    let elsewhere = json!({ "namespaceSelector": { "matchLabels": { "team": "a" } } });
    let hooks = [
        webhook("elsewhere", first.client(), elsewhere),
        webhook("second", second.client(), json!({})),
    ];
    configure(&api, "b", &hooks).await;
    configure(&api, "a", &[webhook("first", first.client(), json!({}))]).await;
    let (code, status, _) = send(&api, Method::POST, MAPS, JSON, map("1")).await;
    let message = "admission webhook \"first.test.dev\" denied the request: first";
    assert_eq!((code, &status["message"]), (400, &json!(message)));
    assert_eq!((first.asked().len(), second.asked().len()), (1, 1));
}

#[tokio::test]
async fn a_service_leads_to_its_ready_pods() {
    let (api, hook) = (TestApi::start().await, strict().await);
    let service = json!({
        "metadata": { "name": SERVICE },
        "spec": {
            "selector": { "app": SERVICE },
            "ports": [{ "name": "https", "port": 443, "targetPort": "admission" }, { "name": "x", "port": 1 }],
        },
    });
    let services = "/api/v1/namespaces/default/services";
    let reference = json!({ "name": SERVICE, "namespace": "default", "path": "/v1" });
    let client = json!({ "service": reference, "caBundle": hook.bundle });
    configure(&api, "w", &[webhook("strict", client, json!({}))]).await;
    let told = |status: &Value, part: &str| {
        let message = status["message"].as_str().expect("text");
        assert!(message.contains(part), "{message}");
    };
    let (_, status, _) = send(&api, Method::POST, MAPS, JSON, map("1")).await;
    told(
        &status,
        "Post \"https://judge.default.svc:443/v1?timeout=10s\": services \"judge\" not found",
    );
    assert_eq!(
        send(&api, Method::POST, services, JSON, service).await.0,
        201
    );
    let (_, status, _) = send(&api, Method::POST, MAPS, JSON, map("1")).await;
    told(&status, "no endpoints available for service \"judge\"");
    let pod = json!({
        "metadata": { "name": "judge-0", "labels": { "app": SERVICE } },
        "spec": { "containers": [{
            "name": "c", "image": "i", "ports": [{ "name": "admission", "containerPort": hook.port }],
        }] },
    });
    let pods = "/api/v1/namespaces/default/pods";
    let mut slices = api
        .store
        .watch_objects(ResourceId::of("discovery.k8s.io", "endpointslices"));
    assert_eq!(send(&api, Method::POST, pods, JSON, pod).await.0, 201);
    let ready = async {
        loop {
            if let weft_lab::api::Change::Applied(slice) = slices.next().await
                && slice["endpoints"][0]["conditions"]["ready"] == true
            {
                return;
            }
        }
    };
    tokio::time::timeout(crate::harness::DEADLINE, ready)
        .await
        .expect("a ready endpoint");
    let (code, status, _) = send(&api, Method::POST, MAPS, JSON, map("bad")).await;
    assert_eq!((code, &status["message"]), (422, &json!(DENIED)));
    assert_eq!(send(&api, Method::POST, MAPS, JSON, map("1")).await.0, 201);
    assert_eq!(hook.asked().len(), 2);
}
