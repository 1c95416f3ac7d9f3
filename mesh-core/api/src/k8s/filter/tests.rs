use std::time::Duration;

use serde_json::json;
use weft_core::filter::{FailPolicy, ModuleDigest};
use weft_core::model::Labels;

use super::*;

mod istio;
mod modules;

const DIGEST: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn object(kind: FilterKind, spec: &Value) -> Value {
    json!({
        "apiVersion": "weft.dev/v1alpha1",
        "kind": kind.as_str(),
        "metadata": { "name": "jwt", "namespace": "shop" },
        "spec": spec,
    })
}

/// A spec that is accepted, with these fields put into it.
fn spec(fields: Value) -> Value {
    let mut spec = json!({ "selector": {}, "module": { "url": "file://jwt.wasm" } });
    for (name, value) in fields.as_object().unwrap() {
        match value {
            Value::Null => {
                spec.as_object_mut().unwrap().shift_remove(name);
            }
            value => spec[name] = value.clone(),
        }
    }
    spec
}

fn accepted(fields: Value) -> Filter {
    read(
        FilterKind::WeftFilter,
        &object(FilterKind::WeftFilter, &spec(fields)),
    )
    .unwrap()
}

fn clusterwide(fields: Value) -> Result<Filter, FieldErrors> {
    let kind = FilterKind::WeftClusterFilter;
    read(kind, &object(kind, &spec(fields)))
}

/// What is wrong with a spec.
fn errors(kind: FilterKind, spec: &Value) -> Vec<String> {
    let errors = read(kind, &object(kind, spec)).expect_err("it is refused");
    errors.0.iter().map(ToString::to_string).collect()
}

/// The only thing wrong with a spec that has these fields.
fn error(fields: Value) -> String {
    let mut errors = errors(FilterKind::WeftFilter, &spec(fields));
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors.remove(0)
}

fn range(first: u16, last: u16) -> PortRange {
    PortRange { first, last }
}

#[test]
fn what_is_left_out_has_a_default() {
    let filter = accepted(json!({}));
    assert_eq!(filter.key.to_string(), "WeftFilter shop/jwt");
    let [attachment] = &filter.attachments[..] else {
        panic!("{:?}", filter.attachments)
    };
    assert_eq!(attachment.direction, Direction::Ingress);
    assert_eq!(attachment.phase, Phase::AfterPolicy);
    assert_eq!((&attachment.ports[..], attachment.order), (&[][..], 0));
    assert_eq!(filter.on_error, OnError::default());
    assert_eq!(filter.isolation, Isolation::Worker);
    assert_eq!(filter.limits, FilterLimits::default());
    assert_eq!(&*filter.config, b"{}");
    assert_eq!(filter.remark, None);
}

#[test]
fn everything_that_is_said_is_heard() {
    let filter = accepted(json!({
        "selector": { "matchLabels": { "app": "shop" },
            "matchExpressions": [{ "key": "tier", "operator": "NotIn", "values": ["test"] }] },
        "direction": "egress",
        "ports": [443, "8000-8080", "8081"],
        "phase": "upstream",
        "priority": -7,
        "module": { "url": "https://example.com/jwt.wasm", "sha256": DIGEST.to_uppercase() },
        "config": { "zulu": 1, "alpha": [null, 1.5] },
        "limits": { "deadline": "10ms", "startDeadline": "2s", "memory": "64Mi", "contexts": 10,
            "fetchesPerContext": 2, "fetchBody": 4096, "fetchTimeout": "1m", "heldBody": "64Ki" },
        "onError": { "load": "open", "timeout": "open" },
        "isolation": "request",
        "callouts": ["authz:80", "issuer.empire.svc.cluster.local:443", "authz.shop:80"],
    }));
    let attachment = &filter.attachments[0];
    assert_eq!(attachment.direction, Direction::Egress);
    assert_eq!(attachment.ports, [range(443, 443), range(8000, 8081)]);
    assert_eq!(attachment.phase, Phase::Upstream);
    assert_eq!(attachment.order, -7);
    let Subject::Pods(pods) = &attachment.subject else {
        panic!("{attachment:?}")
    };
    for (labels, selected) in [
        (
            ["k8s:app=shop", "k8s:io.kubernetes.pod.namespace=shop"],
            true,
        ),
        (
            ["k8s:app=shop", "k8s:io.kubernetes.pod.namespace=bank"],
            false,
        ),
        (
            ["k8s:app=bank", "k8s:io.kubernetes.pod.namespace=shop"],
            false,
        ),
    ] {
        assert_eq!(pods.matches(&Labels::parse_all(labels).unwrap()), selected);
    }
    assert_eq!(
        filter.module,
        ModuleSource {
            location: Location::Https("https://example.com/jwt.wasm".to_owned()),
            sha256: ModuleDigest::parse(DIGEST),
            pull_secret: None,
            refresh: Refresh::Never,
        }
    );
    assert_eq!(&*filter.config, br#"{"zulu":1,"alpha":[null,1.5]}"#);
    let limits = filter.limits;
    assert_eq!(limits.deadline, Some(Duration::from_millis(10)));
    assert_eq!(limits.start_deadline, Some(Duration::from_secs(2)));
    assert_eq!(limits.fetch_timeout, Some(Duration::from_secs(60)));
    assert_eq!(
        (limits.memory, limits.held_body, limits.fetch_body),
        (Some(64 << 20), Some(64 << 10), Some(4096))
    );
    assert_eq!(
        (limits.contexts, limits.fetches_per_context),
        (Some(10), Some(2))
    );
    assert_eq!(filter.on_error.load, FailPolicy::Open);
    assert_eq!(filter.on_error.trap, FailPolicy::Closed);
    assert_eq!(filter.isolation, Isolation::Request);
    let callouts: Vec<_> = filter.callouts.iter().map(|one| &**one).collect();
    assert_eq!(callouts, ["authz.shop:80", "issuer.empire:443"]);
}

/// Each of these specs has one thing wrong, of which this is told.
fn refused<const N: usize>(cases: [(Value, &str); N]) {
    for (fields, told) in cases {
        let error = error(fields.clone());
        assert!(error.starts_with(told), "{fields}: {error}");
    }
}

#[test]
fn it_is_said_whose_requests_are_meant() {
    refused([
        (
            json!({ "selector": null }),
            "spec.selector: is required, or targetRef",
        ),
        (
            json!({ "targetRef": { "kind": "Service", "name": "a" } }),
            "spec.targetRef: excludes selector",
        ),
        (
            json!({ "selector": null, "targetRef": { "kind": "Gateway", "name": "a" } }),
            "spec.targetRef.kind: is Gateway; only Service can be targeted",
        ),
        (
            json!({ "selector": null,
                "targetRef": { "kind": "Service", "name": "a", "namespace": "bank" } }),
            "spec.targetRef.namespace: is bank, but a filter serves its own namespace, shop",
        ),
        (
            json!({ "selector": null, "direction": "egress", "ports": [1],
                "targetRef": { "kind": "Service", "name": "a" } }),
            "spec.direction: must be ingress with targetRef",
        ),
        (
            json!({ "selector": { "matchLabels": { "a b": "c" } } }),
            "spec.selector",
        ),
        (
            json!({ "selector": { "matchLables": {} } }),
            "spec.selector.matchLables: unknown field, did you mean matchLabels",
        ),
        (
            json!({ "namespaces": {} }),
            "spec.namespaces: is for WeftClusterFilter",
        ),
        (
            json!({ "direction": "ingres" }),
            "spec.direction: `ingres` is none of ingress, egress, did you mean ingress",
        ),
        (
            json!({ "slector": {} }),
            "spec.slector: unknown field, did you mean selector",
        ),
    ]);
}

#[test]
fn limits_have_bounds_and_failures_two_outcomes() {
    refused([
        (
            json!({ "limits": { "contexts": -1 } }),
            "spec.limits.contexts: must be at least 1",
        ),
        (
            json!({ "limits": { "deadline": "2s" } }),
            "spec.limits.deadline: is 2s, it must be above 0 and at most 100ms",
        ),
        (
            json!({ "limits": { "memory": "1Gi" } }),
            "spec.limits.memory: is 1073741824, the most is 268435456",
        ),
        (
            json!({ "limits": { "contexts": 0 } }),
            "spec.limits.contexts: must be at least 1",
        ),
        (
            json!({ "limits": { "fetchTimeout": "soon" } }),
            "spec.limits.fetchTimeout: `soon` is no duration",
        ),
        (
            json!({ "limits": { "heldBody": "0" } }),
            "spec.limits.heldBody: must be at least 1",
        ),
        (
            json!({ "limits": { "memroy": 1 } }),
            "spec.limits.memroy: unknown field, did you mean memory",
        ),
        (
            json!({ "onError": "shut" }),
            "spec.onError: `shut` is none of closed, open",
        ),
        (
            json!({ "onError": 1 }),
            "spec.onError: must be closed or open",
        ),
        (
            json!({ "onError": { "trap": "close" } }),
            "spec.onError.trap: `close` is none of closed, open, did you mean closed",
        ),
        (
            json!({ "onError": { "laod": "open" } }),
            "spec.onError.laod: unknown field, did you mean load",
        ),
    ]);
}

#[test]
fn what_is_wrong_is_named() {
    refused([
        (
            json!({ "direction": "egress" }),
            "spec.ports: is required for egress",
        ),
        (
            json!({ "ports": [] }),
            "spec.ports: needs at least one port",
        ),
        (
            json!({ "ports": [80, "http"] }),
            "spec.ports[1]: `http` is no port",
        ),
        (
            json!({ "ports": (1..=65).collect::<Vec<_>>() }),
            "spec.ports: has 65 ports, more than 64",
        ),
        (
            json!({ "phase": "beforePolicy" }),
            "spec.phase: beforePolicy is for WeftClusterFilter",
        ),
        (
            json!({ "phase": "after" }),
            "spec.phase: `after` is none of beforePolicy",
        ),
        (
            json!({ "priority": 3_000_000_000_u32 }),
            "spec.priority: 3000000000 is not between",
        ),
        (
            json!({ "priority": 1.5 }),
            "spec.priority: must be an integer",
        ),
        (json!({ "module": {} }), "spec.module.url: is required"),
        (
            json!({ "config": [] }),
            "spec.config: must be an object, not a list",
        ),
        (
            json!({ "config": { "a": "x".repeat(300_000) } }),
            "spec.config: has 300008 bytes",
        ),
        (
            json!({ "isolation": "pod" }),
            "spec.isolation: `pod` is none of worker, request",
        ),
        (
            json!({ "callouts": ["authz"] }),
            "spec.callouts[0]: `authz` is no Service",
        ),
        (
            json!({ "callouts": ["authz:0"] }),
            "spec.callouts[0]: `authz:0` is no Service",
        ),
        (
            json!({ "callouts": ["example.com.:80"] }),
            "spec.callouts[0]",
        ),
    ]);
}

#[test]
fn several_errors_are_told_at_once_and_the_rest_of_the_object_counts() {
    let spec = spec(json!({ "phase": "after", "isolation": "pod", "ports": ["x", "y"] }));
    let mut object = object(FilterKind::WeftFilter, &spec);
    object["specs"] = json!([]);
    let errors = read(FilterKind::WeftFilter, &object).expect_err("refused");
    let paths: Vec<_> = errors.0.iter().map(|error| error.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "specs",
            "spec.ports[0]",
            "spec.ports[1]",
            "spec.phase",
            "spec.isolation"
        ]
    );
    let none = json!({ "metadata": { "name": "a", "namespace": "b" } });
    let errors = read(FilterKind::WeftFilter, &none).expect_err("refused");
    assert_eq!(errors.to_string(), "spec: is required");
}

#[test]
fn a_clusterwide_filter_may_do_more() {
    let filter = clusterwide(json!({
        "namespaces": { "matchLabels": { "kubernetes.io/metadata.name": "shop" } },
        "phase": "beforePolicy",
        "module": { "url": "configmap://filters/jwt/jwt.wasm" },
        "callouts": ["authz.shop:80"],
    }))
    .unwrap();
    assert_eq!(filter.key.to_string(), "WeftClusterFilter jwt");
    assert_eq!(filter.attachments[0].phase, Phase::BeforePolicy);
    let Subject::Pods(pods) = &filter.attachments[0].subject else {
        panic!("{filter:?}")
    };
    let of = |namespace: &str| {
        let label = "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name";
        Labels::parse_all([&*format!("{label}={namespace}")]).unwrap()
    };
    assert!(pods.matches(&of("shop")) && !pods.matches(&of("bank")));

    for (fields, told) in [
        (
            json!({ "callouts": ["authz:80"] }),
            "spec.callouts[0]: `authz:80` names no namespace",
        ),
        (
            json!({ "module": { "url": "configmap://jwt/jwt.wasm" } }),
            "spec.module.url: must be configmap://NAMESPACE/NAME/KEY",
        ),
        (
            json!({ "selector": null, "targetRef": { "kind": "Service", "name": "a" } }),
            "spec.targetRef.namespace: is required",
        ),
        (
            json!({ "selector": null, "namespaces": {},
                "targetRef": { "kind": "Service", "name": "a", "namespace": "b" } }),
            "spec.namespaces: goes with selector",
        ),
    ] {
        let error = clusterwide(fields).unwrap_err().to_string();
        assert!(error.starts_with(told), "{error}");
    }
    let service = clusterwide(json!({ "selector": null,
        "targetRef": { "kind": "Service", "name": "a", "namespace": "b" } }));
    assert_eq!(
        service.unwrap().attachments[0].subject,
        Subject::Service {
            namespace: "b".to_owned(),
            name: "a".to_owned()
        }
    );
}
