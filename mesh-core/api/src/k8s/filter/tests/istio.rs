use super::*;

fn plugin(fields: &Value, namespace: &str) -> Result<Filter, FieldErrors> {
    let mut spec = json!({ "url": "oci://example.com/auth:1" });
    for (name, value) in fields.as_object().unwrap() {
        spec[name] = value.clone();
    }
    let object = json!({
        "apiVersion": "extensions.istio.io/v1alpha1",
        "kind": "WasmPlugin",
        "metadata": { "name": "auth", "namespace": namespace },
        "spec": spec,
    });
    read(FilterKind::WasmPlugin, &object)
}

fn asking(services: &str) -> Result<Filter, FieldErrors> {
    let object = json!({
        "metadata": {
            "name": "auth",
            "namespace": "shop",
            "annotations": { "weft.dev/callouts": services },
        },
        "spec": { "url": "oci://example.com/auth:1" },
    });
    read(FilterKind::WasmPlugin, &object)
}

#[test]
fn services_that_a_plugin_asks_are_in_an_annotation() {
    assert!(good(json!({})).callouts.is_empty());
    let filter = asking("authz:80, quotas.infra.svc.cluster.local:9090,").unwrap();
    let callouts: Vec<&str> = filter.callouts.iter().map(AsRef::as_ref).collect();
    assert_eq!(callouts, ["authz.shop:80", "quotas.infra:9090"]);
    let refused = asking("authz:80,quotas").unwrap_err();
    assert_eq!(
        refused.to_string(),
        "metadata.annotations[\"weft.dev/callouts\"][1]: `quotas` is no Service: \
         write name:port or name.namespace:port"
    );
}

fn good(fields: Value) -> Filter {
    plugin(&fields, "shop").unwrap()
}

fn pods(filter: &Filter) -> &EndpointSelector {
    match &filter.attachments[0].subject {
        Subject::Pods(pods) => pods,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_plugin_as_istio_shows_it_is_taken_verbatim() {
    let filter = good(json!({
        "selector": { "matchLabels": { "istio": "ingressgateway" } },
        "url": "oci://private-registry.example:5000/openid-connect/openid:latest",
        "imagePullPolicy": "IfNotPresent",
        "imagePullSecret": "private-registry-pull-secret",
        "phase": "AUTHN",
        "pluginName": "openid",
        "pluginConfig": { "openid_server": "authn", "openid_realm": "ingress" },
    }));
    assert_eq!(filter.key.to_string(), "WasmPlugin shop/auth");
    assert_eq!(
        &*filter.config,
        br#"{"openid_server":"authn","openid_realm":"ingress"}"#
    );
    assert_eq!(&*filter.plugin.root_id, "openid");
    assert_eq!(
        filter.module.pull_secret,
        Some(("shop".to_owned(), "private-registry-pull-secret".to_owned()))
    );
    assert_eq!(filter.module.refresh, Refresh::Never);
    assert_eq!(filter.attachments[0].phase, Phase::AfterPolicy);
    assert_eq!(filter.on_error, OnError::default());
    let of = |label: &str, namespace: &str| {
        let namespace = format!("k8s:io.kubernetes.pod.namespace={namespace}");
        Labels::parse_all([label, &namespace]).unwrap()
    };
    assert!(pods(&filter).matches(&of("k8s:istio=ingressgateway", "shop")));
    assert!(!pods(&filter).matches(&of("k8s:istio=ingressgateway", "bank")));
    let remark = filter.remark.expect("the side was left open");
    assert!(remark.contains("spec.match[].mode"), "{remark}");
}

#[test]
fn a_plugin_of_the_root_namespace_serves_all_of_them() {
    let filter = plugin(&json!({}), "istio-system").unwrap();
    let of = Labels::parse_all(["k8s:io.kubernetes.pod.namespace=bank"]).unwrap();
    assert!(pods(&filter).matches(&of));
    assert_eq!(&*filter.config, b"");
    assert!(!pods(&good(json!({}))).matches(&of));
}

#[test]
fn plugins_run_phase_by_phase_and_the_highest_priority_first() {
    let order = |fields: Value| good(fields).attachments[0].order;
    let orders = [
        order(json!({ "phase": "AUTHN", "priority": i32::MAX })),
        order(json!({ "phase": "AUTHN", "priority": i32::MIN })),
        order(json!({ "phase": "AUTHZ", "priority": 10 })),
        order(json!({ "phase": "AUTHZ" })),
        order(json!({ "phase": "STATS" })),
        order(json!({ "priority": 1 })),
        order(json!({ "phase": "UNSPECIFIED_PHASE" })),
        order(json!({ "priority": -1 })),
    ];
    assert!(orders.is_sorted_by(|a, b| a < b), "{orders:?}");
    assert_eq!(orders[6], 0, "the place of a WeftFilter without a priority");
}

#[test]
fn what_matches_becomes_directions_and_ports() {
    let sides = |matches: Value| {
        let filter = good(json!({ "match": matches }));
        let sides = filter.attachments.iter();
        let sides = sides.map(|one| (one.direction, one.ports.clone()));
        (sides.collect::<Vec<_>>(), filter.remark.is_some())
    };
    use Direction::{Egress, Ingress};
    let ports = |numbers: &[u16]| numbers.iter().map(|port| range(*port, *port)).collect();
    assert_eq!(
        sides(json!([{ "mode": "SERVER", "ports": [{ "number": 90 }] },
            { "mode": "SERVER", "ports": [{ "number": 80 }] }])),
        (vec![(Ingress, ports(&[80, 90]))], false)
    );
    assert_eq!(
        sides(json!([{ "mode": "SERVER", "ports": [{ "number": 90 }] }, { "mode": "SERVER" }])),
        (vec![(Ingress, vec![])], false)
    );
    assert_eq!(
        sides(json!([{ "mode": "CLIENT", "ports": [{ "number": 80 }] }])),
        (vec![(Egress, ports(&[80]))], false)
    );
    let both = (vec![(Ingress, ports(&[80])), (Egress, ports(&[80]))], false);
    let eighty = json!([{ "number": 80 }]);
    assert_eq!(
        sides(json!([{ "mode": "CLIENT_AND_SERVER", "ports": eighty }])),
        both
    );
    assert_eq!(sides(json!([{ "ports": eighty }])), both);
    assert_eq!(
        sides(json!([{ "mode": "UNDEFINED" }])),
        (vec![(Ingress, vec![])], true)
    );
}

#[test]
fn an_empty_list_of_targets_targets_nothing() {
    use Direction::{Egress, Ingress};
    let filter = good(json!({ "targetRefs": [], "match": [{ "ports": [{ "number": 80 }] }] }));
    let sides = filter.attachments.iter().map(|one| one.direction);
    assert_eq!(sides.collect::<Vec<_>>(), [Ingress, Egress]);
    let filter = good(json!({ "targetRefs": [] }));
    assert!(filter.remark.is_some(), "the side was left open");
}

#[test]
fn services_can_be_targeted() {
    let filter = good(json!({ "targetRefs": [
        { "group": "", "kind": "Service", "name": "a" },
        { "group": "core", "kind": "Service", "name": "b" },
    ] }));
    let subjects: Vec<_> = filter.attachments.iter().map(|one| &one.subject).collect();
    let service = |name: &str| Subject::Service {
        namespace: "shop".to_owned(),
        name: name.to_owned(),
    };
    assert_eq!(subjects, [&service("a"), &service("b")]);
    assert_eq!(filter.remark, None);
}

#[test]
fn images_are_fetched_as_often_as_istio_does() {
    let module = |fields: Value| good(fields).module;
    let url = |url: &str| json!({ "url": url });
    for (fields, refresh) in [
        (url("example.com/auth:1"), Refresh::Never),
        (url("example.com/auth"), Refresh::Periodic),
        (url("oci://example.com/auth:latest"), Refresh::Periodic),
        (url("https://example.com/auth.wasm"), Refresh::Never),
        (json!({ "imagePullPolicy": "Always" }), Refresh::Periodic),
        (
            json!({ "imagePullPolicy": "Always", "sha256": DIGEST }),
            Refresh::Never,
        ),
    ] {
        assert_eq!(module(fields.clone()).refresh, refresh, "{fields}");
    }
    // The digest of an image is its manifest's.
    let pinned = module(json!({ "sha256": DIGEST }));
    assert_eq!(pinned.sha256, None);
    let Location::Oci(reference) = pinned.location else {
        panic!("{pinned:?}")
    };
    assert_eq!(reference.digest, ModuleDigest::parse(DIGEST));
    let pinned = module(json!({ "url": "https://example.com/a", "sha256": DIGEST }));
    assert_eq!(pinned.sha256, ModuleDigest::parse(DIGEST));
}

#[test]
fn failures_are_met_as_istio_says() {
    let of = |name: &str| good(json!({ "failStrategy": name })).on_error;
    assert_eq!(of("FAIL_OPEN"), OnError::all(FailPolicy::Open));
    assert_eq!(of("FAIL_CLOSE"), OnError::default());
    assert_eq!(of("FAIL_RELOAD"), OnError::default());
}

#[test]
fn what_cannot_be_honoured_is_refused_with_its_path() {
    for (fields, told) in [
        (
            json!({ "type": "NETWORK" }),
            "spec.type: NETWORK is not supported",
        ),
        (
            json!({ "phase": "AUTH" }),
            "spec.phase: `AUTH` is none of AUTHN",
        ),
        (
            json!({ "failStrategy": "FAIL" }),
            "spec.failStrategy: `FAIL` is none of",
        ),
        (
            json!({ "imagePullPolicy": "Never" }),
            "spec.imagePullPolicy: `Never` is none of",
        ),
        (
            json!({ "verificationKey": "k" }),
            "spec.verificationKey: not supported yet",
        ),
        (
            json!({ "vmConfig": { "env": [{ "name": "A", "valueFrom": "HOST" }] } }),
            "spec.vmConfig.env: not supported yet",
        ),
        (
            json!({ "pluginConfg": {} }),
            "spec.pluginConfg: unknown field, did you mean pluginConfig",
        ),
        (json!({ "url": "" }), "spec.url: is required"),
        (
            json!({ "url": "http://example.com/a" }),
            "spec.url: is http://",
        ),
        (
            json!({ "url": "file:///opt/auth.wasm" }),
            "spec.url: names a path of the node",
        ),
        (
            json!({ "url": "configmap://a/b" }),
            "spec.url: must begin with oci://",
        ),
        (json!({ "sha256": "12" }), "spec.sha256: `12` is not 64"),
        (
            json!({ "url": format!("oci://example.com/a@sha256:{DIGEST}"), "sha256": "0".repeat(64) }),
            "spec.sha256: is not the digest that url names",
        ),
        (
            json!({ "match": [{ "mode": "CLIENT" }] }),
            "spec.match[0].ports: is required",
        ),
        (
            json!({ "match": [{ "mode": "BOTH" }] }),
            "spec.match[0].mode: `BOTH` is none of",
        ),
        (
            json!({ "match": [{ "mode": "SERVER", "ports": [{ "number": 0 }] }] }),
            "spec.match[0].ports[0].number: 0 is not between",
        ),
        (
            json!({ "targetRefs": [{ "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "a" }] }),
            "spec.targetRefs[0].kind: is gateway.networking.k8s.io/Gateway; only Service",
        ),
        (
            json!({ "selector": {}, "targetRefs": [{ "kind": "Service", "name": "a" }] }),
            "spec.targetRefs: excludes selector",
        ),
        (
            json!({ "targetRefs": [{ "kind": "Service", "name": "a" }],
                "match": [{ "mode": "CLIENT", "ports": [{ "number": 80 }] }] }),
            "spec.match[0].mode: must be SERVER with targetRefs",
        ),
    ] {
        let error = plugin(&fields, "shop").expect_err("refused").to_string();
        assert!(error.starts_with(told), "{fields}: {error}");
    }
}
