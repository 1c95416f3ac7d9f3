//! Filters as users see them: the kinds, their tables, what their status says.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use weft_integration::lab::Lab;
use weft_integration::watch::until;

use super::sh;

/// Answers every request with 418, once its configuration is more than `{}`.
const TEAPOT: &str = r#"(module
  (import "env" "proxy_send_local_response"
    (func $reply (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (global $top (mut i32) (i32.const 65536))
  (data (i32.const 1024) "short and stout\0a")
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "malloc") (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $top))
    (global.set $top (i32.add (local.get $at)
      (i32.and (i32.add (local.get $size) (i32.const 7)) (i32.const -8))))
    (local.get $at))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (i32.gt_u (local.get 1) (i32.const 2)))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (drop (call $reply (i32.const 418) (i32.const 1024) (i32.const 0)
      (i32.const 1024) (i32.const 16) (i32.const 0) (i32.const 0) (i32.const -1)))
    (i32.const 1)))"#;

fn filter(spec: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: WeftFilter\nmetadata: {{name: teapot}}\n\
         spec: {{selector: {{matchLabels: {{class: deathstar}}}}, {spec}}}\n"
    )
}

fn write(lab: &Lab, name: &str, text: &str) {
    std::fs::write(lab.directory().join(name), text).unwrap();
}

fn apply(lab: &Lab, spec: &str) {
    write(lab, "filter.yaml", &filter(spec));
    sh(lab, "kubectl apply -f filter.yaml");
}

/// Waits until a condition of the filter is so, and returns its message.
fn condition(lab: &Lab, kind: &str, status: &str) -> String {
    let found = until(|| {
        let object = sh(lab, "kubectl get weftfilter teapot -o json");
        let object: Value = serde_json::from_str(&object).unwrap();
        let conditions = object["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        let found = conditions.find(|one| one["type"] == kind && one["status"] == status);
        found
            .map(|one| one["message"].as_str().unwrap_or_default().to_owned())
            .ok_or_else(|| object["status"].to_string())
    });
    found.unwrap_or_else(|error| panic!("{kind} {status}: {error:#}"))
}

/// What the deathstar answers.
fn landing(lab: &Lab) -> String {
    let line = "kubectl exec xwing -- curl --max-time 2 -s -o /dev/null -w '%{http_code}' \
                -X POST deathstar.default.svc.cluster.local/v1/request-landing";
    lab.sh(line).output
}

fn until_landing(lab: &Lab, code: &str) {
    let seen = until(|| match landing(lab) {
        seen if seen == code => Ok(()),
        seen => Err(format!("{seen}, not {code}")),
    });
    seen.unwrap();
}

#[test]
fn filters_are_attached_and_their_status_says_how_they_fare() {
    let lab = Lab::up(&["--nodes", "1"]).unwrap();
    sh(&lab, "kubectl apply -f sw-pods.yaml");
    sh(&lab, "kubectl rollout status deployment/deathstar");
    until_landing(&lab, "200");

    // Its module is missing: closed, and it says why.
    apply(&lab, "module: {url: file://teapot.wasm}");
    let told = condition(&lab, "Loaded", "False");
    assert!(told.contains("file://teapot.wasm"), "{told}");
    assert!(told.contains("No such file"), "{told}");
    until_landing(&lab, "503");
    let table = sh(&lab, "kubectl get weftfilters");
    let words: Vec<_> = table.split_whitespace().collect();
    let columns = [
        "NAME",
        "PHASE",
        "DIRECTION",
        "ACCEPTED",
        "LOADED",
        "CONFIGURED",
        "AGE",
    ];
    assert_eq!(words[..7], columns);
    assert_eq!(
        words[7..12],
        ["teapot", "afterPolicy", "ingress", "True", "False"]
    );
    assert_eq!(
        sh(&lab, "kubectl get wf -o name"),
        "weftfilter.weft.dev/teapot\n"
    );

    // A module from a ConfigMap, which first refuses its configuration.
    let module = STANDARD.encode(wat::parse_str(TEAPOT).unwrap());
    let map = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: modules}}\n\
         binaryData: {{teapot.wasm: {module}}}\n"
    );
    write(&lab, "modules.yaml", &map);
    sh(&lab, "kubectl apply -f modules.yaml");
    apply(&lab, "module: {url: configmap://modules/teapot.wasm}");
    condition(&lab, "Configured", "False");
    until_landing(&lab, "503");
    apply(
        &lab,
        "module: {url: configmap://modules/teapot.wasm}, config: {handle: long}",
    );
    condition(&lab, "Configured", "True");
    condition(&lab, "Loaded", "True");
    until_landing(&lab, "418");

    refused_versions(&lab);
    sh(&lab, "kubectl delete weftfilter teapot");
    until_landing(&lab, "200");
    let reports = until(|| match lab.sh("kubectl get weftfilterreports -o name") {
        ran if ran.output.is_empty() => Ok(()),
        ran => Err(format!("{ran:?}")),
    });
    reports.unwrap();
}

/// What cannot be honoured is refused, at once or in the status, and the version
/// before it goes on.
fn refused_versions(lab: &Lab) {
    let early = "phase: beforePolicy, module: {url: configmap://modules/teapot.wasm}";
    write(lab, "filter.yaml", &filter(early));
    let ran = lab.sh("kubectl apply -f filter.yaml");
    assert_ne!(ran.code, 0);
    assert!(ran.errors.contains("spec.phase"), "{ran:?}");

    // The operator has the API server refuse this one too, as long as it is asked: it writes the
    // configuration again only after minutes (AGAIN), so that it is gone for the rest of this test.
    let line = "kubectl delete validatingwebhookconfiguration weft-filters";
    let unasked = until(|| match lab.sh(line) {
        ran if ran.code == 0 => Ok(()),
        ran => Err(format!("{ran:?}")),
    });
    unasked.unwrap();
    apply(
        lab,
        "slector: {}, module: {url: configmap://modules/teapot.wasm}, config: {handle: short}",
    );
    let told = condition(lab, "Accepted", "False");
    assert_eq!(told, "spec.slector: unknown field, did you mean selector");
    let told = condition(lab, "Loaded", "False");
    assert!(told.contains("spec.slector"), "{told}");
    until_landing(lab, "418");
    let events = until(|| {
        let events = sh(lab, "kubectl get events");
        match events.contains("FilterRefused") && events.contains("weftfilter/teapot") {
            true => Ok(()),
            false => Err(events),
        }
    });
    events.unwrap();
}

#[test]
fn a_wasm_plugin_is_taken_as_istio_shows_it() {
    let lab = Lab::up(&["--nodes", "1"]).unwrap();
    let plugin = "
apiVersion: extensions.istio.io/v1alpha1
kind: WasmPlugin
metadata:
  name: openid-connect
  namespace: default
spec:
  selector:
    matchLabels:
      istio: ingressgateway
  url: oci://private-registry:5000/openid-connect/openid:latest
  imagePullPolicy: IfNotPresent
  imagePullSecret: private-registry-pull-secret
  phase: AUTHN
  pluginConfig:
    openid_server: authn
    openid_realm: ingress
";
    write(&lab, "plugin.yaml", plugin);
    assert_eq!(
        sh(&lab, "kubectl apply -f plugin.yaml"),
        "wasmplugin.extensions.istio.io/openid-connect created\n"
    );
    let conditions = until(|| {
        let object = sh(&lab, "kubectl get wasmplugin openid-connect -o json");
        let object: Value = serde_json::from_str(&object).unwrap();
        let conditions = &object["status"]["conditions"];
        match conditions[0]["status"] == "True" {
            true => Ok(conditions.clone()),
            false => Err(object.to_string()),
        }
    });
    let conditions = conditions.unwrap();
    assert_eq!(conditions[0]["type"], "Accepted");
    let told = conditions[0]["message"].as_str().unwrap();
    assert!(told.contains("spec.match[].mode"), "{told}");
    assert_eq!(conditions[1]["reason"], "NoNodes");
}
