//! What the API server refuses because the operator says so.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use weft_integration::lab::Lab;
use weft_integration::watch::until;

use super::sh;

#[path = "../../../node-proxy/tests/proxy/support/modules.rs"]
mod modules;

fn write(lab: &Lab, name: &str, text: &str) {
    std::fs::write(lab.directory().join(name), text).unwrap();
}

fn filter(lab: &Lab, url: &str, rest: &str) {
    let text = format!(
        "apiVersion: weft.dev/v1alpha1\nkind: WeftFilter\nmetadata: {{name: marks}}\n\
         spec: {{selector: {{}}, module: {{url: '{url}'}}, {rest}}}\n"
    );
    write(lab, "filter.yaml", &text);
}

/// What a line that is refused says.
fn refused(lab: &Lab, line: &str) -> String {
    let ran = lab.sh(line);
    assert_ne!(ran.code, 0, "{line}: {ran:?}");
    ran.errors
}

fn version(lab: &Lab) -> (Value, Value) {
    let object = sh(lab, "kubectl get weftfilter marks -o json");
    let mut object: Value = serde_json::from_str(&object).unwrap();
    (
        object["metadata"]["generation"].take(),
        object["spec"]["config"].take(),
    )
}

const MODULE: &str = "configmap://modules/header-transform.wasm";
const DENIED: &str = "admission webhook \"filters.weft.dev\" denied the request: ";

#[test]
fn a_filter_that_nodes_would_refuse_is_refused_when_it_is_applied() {
    if !weft_lab::kubectl::is_recent() {
        eprintln!("SKIPPED: no recent kubectl");
        return;
    }
    let lab = Lab::up(&["--nodes", "1"]).unwrap();
    let module = modules::module("filters-wasm/header-transform", "filter-header-transform");
    let map = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: modules}}\n\
         binaryData: {{header-transform.wasm: {}}}\n",
        STANDARD.encode(module)
    );
    write(&lab, "modules.yaml", &map);
    sh(&lab, "kubectl create -f modules.yaml");
    // The operator is asked once it has a certificate, and has told the API server.
    filter(&lab, MODULE, "config: {request: {sett: {x-env: test}}}");
    let warned = until(
        || match lab.sh("kubectl apply --dry-run=server -f filter.yaml") {
            ran if ran.errors.contains("Warning: ") => Ok(ran),
            ran => Err(format!("{ran:?}")),
        },
    );
    let warned = warned.unwrap();
    let wrong = "spec.config.request.sett: there is no such field";
    // The module could be one that is applied with it.
    assert_eq!(warned.code, 0, "{warned:?}");
    assert!(warned.errors.contains(wrong), "{warned:?}");
    let wrong = format!(
        "{DENIED}{wrong} (by the schema of configmap://default/modules/header-transform.wasm as it \
         is now)"
    );
    let told = refused(&lab, "kubectl apply -f filter.yaml");
    assert!(told.contains(&wrong), "{told}");
    assert!(told.starts_with("The request is invalid: "), "{told}");
    let none = refused(&lab, "kubectl get weftfilter marks");
    assert!(none.contains("NotFound"), "{none}");

    filter(
        &lab,
        MODULE,
        "config: {request: {set: {x-env: test}}}, limits: {memory: 1Ti}",
    );
    let told = refused(&lab, "kubectl apply -f filter.yaml");
    assert!(
        told.contains(&format!("{DENIED}spec.limits.memory: ")),
        "{told}"
    );

    filter(&lab, MODULE, "config: {request: {set: {x-env: test}}}");
    sh(&lab, "kubectl apply -f filter.yaml");
    let good = version(&lab);
    filter(&lab, MODULE, "config: {request: {set: [x-env]}}");
    let told = refused(&lab, "kubectl apply -f filter.yaml");
    assert!(
        told.contains("spec.config.request.set: it is not of type"),
        "{told}"
    );
    let patch = r#"'{"spec": {"config": {"response": 5}}}'"#;
    let told = refused(
        &lab,
        &format!("kubectl patch weftfilter marks --type merge -p {patch}"),
    );
    assert!(
        told.contains("spec.config.response: it is not of type"),
        "{told}"
    );
    assert_eq!(version(&lab), good);
    sh(&lab, "kubectl annotate weftfilter marks note=seen");

    what_cannot_be_checked(&lab);
}

/// It is accepted: nodes check it.
fn what_cannot_be_checked(lab: &Lab) {
    filter(
        lab,
        "configmap://modules/other.wasm",
        "config: {request: 5}",
    );
    let ran = lab.sh("kubectl apply -f filter.yaml");
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        ran.errors
            .contains("Warning: spec.config is not checked yet"),
        "{ran:?}"
    );
    assert!(
        ran.errors.contains("its module cannot be used now"),
        "{ran:?}"
    );

    // Without an operator as well.
    sh(
        lab,
        "kubectl delete deployment cilium-operator -n kube-system",
    );
    let gone = until(|| {
        let pods = sh(
            lab,
            "kubectl get pods -n kube-system -l name=cilium-operator -o name",
        );
        match pods.is_empty() {
            true => Ok(()),
            false => Err(pods),
        }
    });
    gone.unwrap();
    filter(lab, MODULE, "config: {request: 5}");
    sh(lab, "kubectl apply -f filter.yaml");
    let (_, config) = version(lab);
    assert_eq!(config["request"], 5);
}
