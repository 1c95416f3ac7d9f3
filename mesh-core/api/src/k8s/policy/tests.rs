use serde_json::json;
use weft_core::model::{Labels, Protocol};
use weft_core::policy::{L7Rules, PortMatch, PortRange, PortSpec, TrafficRule};

use super::*;

fn read(object: Value) -> CiliumNetworkPolicy {
    serde_json::from_value(object).unwrap()
}

pub(in crate::k8s) fn cnp(spec: &Value) -> CiliumNetworkPolicy {
    read(json!({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": { "name": "rule1", "namespace": "default" },
        "spec": spec,
    }))
}

pub(in crate::k8s) fn ccnp(spec: &Value) -> CiliumClusterwideNetworkPolicy {
    let object = json!({ "metadata": { "name": "wide" }, "spec": spec });
    serde_json::from_value(object).unwrap()
}

/// The errors of a namespaced policy with this spec.
pub(in crate::k8s) fn errors(spec: Value) -> Vec<String> {
    match cnp(&spec).rules() {
        Ok(rules) => panic!("accepted: {rules:?}"),
        Err(errors) => errors.0.iter().map(ToString::to_string).collect(),
    }
}

/// The first error of a namespaced policy with this spec, after the path that
/// it is to begin with.
pub(in crate::k8s) fn error_below(path: &str, spec: Value) -> String {
    let error = errors(spec).remove(0);
    let below = error.strip_prefix(path);
    below
        .unwrap_or_else(|| panic!("not below {path}: {error}"))
        .to_owned()
}

/// The only rule of a namespaced policy with this spec.
pub(in crate::k8s) fn accepted(spec: Value) -> Rule {
    let rules = cnp(&spec).rules().unwrap();
    assert_eq!(rules.len(), 1);
    rules.into_iter().next().unwrap()
}

pub(in crate::k8s) fn ingress(rule: Value) -> Value {
    json!({ "endpointSelector": {}, "ingress": [rule] })
}

pub(in crate::k8s) fn to_ports(ports: Value) -> Value {
    ingress(json!({ "toPorts": [ports] }))
}

pub(in crate::k8s) fn traffic(spec: Value) -> TrafficRule {
    accepted(spec).ingress.allow.remove(0)
}

#[test]
fn the_story_s_policy() {
    let rule = accepted(json!({
        "description": "L7 policy to restrict access to specific HTTP call",
        "endpointSelector": { "matchLabels": { "class": "deathstar", "org": "empire" } },
        "ingress": [{
            "fromEndpoints": [{ "matchLabels": { "org": "empire" } }],
            "toPorts": [{
                "ports": [{ "port": "80", "protocol": "TCP" }],
                "rules": { "http": [{ "method": "POST", "path": "/v1/request-landing" }] },
            }],
        }],
    }));
    let deathstar = Labels::parse_all([
        "k8s:class=deathstar",
        "k8s:io.kubernetes.pod.namespace=default",
        "k8s:org=empire",
    ]);
    assert!(rule.subject.matches(&deathstar.unwrap()));
    assert!(rule.ingress.default_deny && !rule.egress.default_deny);
    let traffic = &rule.ingress.allow[0];
    assert_eq!(
        traffic.ports[0].ports,
        [PortSpec {
            port: PortMatch::Range(PortRange {
                first: 80,
                last: 80
            }),
            protocol: Some(Protocol::Tcp),
        }]
    );
    let L7Rules::Http(http) = &traffic.ports[0].l7 else {
        panic!("no http rules");
    };
    assert_eq!(http[0].method.as_deref(), Some("POST"));
    assert_eq!(http[0].path.as_deref(), Some("/v1/request-landing"));
    let reference = rule.origin.rule_ref("ingress[0]");
    assert_eq!(
        reference.to_string(),
        "CiliumNetworkPolicy default/rule1 ingress[0]"
    );
}

#[test]
fn a_mistyped_field_is_refused_with_its_path() {
    let spec = to_ports(json!({
        "ports": [{ "port": "80", "protocol": "TCP" }],
        "rules": { "HTTP": [{}] },
    }));
    assert_eq!(
        errors(spec),
        ["spec.ingress[0].toPorts[0].rules.HTTP: unknown field, did you mean http"]
    );
    assert_eq!(
        errors(json!({ "endpointSelector": {}, "ingres": [{}] })),
        ["spec.ingres: unknown field, did you mean ingress"]
    );
    assert_eq!(
        errors(json!({ "endpointSelector": {}, "ingress": [{ "xyz": 1 }] })),
        ["spec.ingress[0].xyz: unknown field"]
    );
}

#[test]
fn every_error_of_an_object_is_told() {
    let spec = json!({
        "ingress": [
            { "fromEntities": ["wrld"] },
            { "toPorts": [{ "ports": [{ "port": "80", "protocol": "TPC" }] }] },
        ],
    });
    assert_eq!(
        errors(spec),
        [
            "spec.endpointSelector: is required; {} selects every pod",
            "spec.ingress[0].fromEntities[0]: `wrld` is none of all, world, world-ipv4, \
             world-ipv6, cluster, host, remote-node, kube-apiserver, ingress, init, health, \
             unmanaged, none, did you mean world",
            "spec.ingress[1].toPorts[0].ports[0].protocol: `TPC` is none of TCP, UDP, SCTP, \
             ANY, did you mean TCP",
        ]
    );
}

#[test]
fn wrong_types_say_what_to_write() {
    let spec = to_ports(json!({ "ports": [{ "port": 80 }] }));
    assert_eq!(
        errors(spec),
        ["spec.ingress[0].toPorts[0].ports[0].port: must be a string, not a number, write \"80\""]
    );
    assert_eq!(
        errors(json!({ "endpointSelector": {}, "ingress": {} })),
        ["spec.ingress: must be a list, not an object"]
    );
    assert_eq!(
        errors(json!({ "endpointSelector": {}, "ingress": [null] })),
        ["spec.ingress[0]: must not be null"]
    );
    let spec = json!({ "endpointSelector": { "matchLabels": { "a": true } }, "egress": [] });
    assert_eq!(
        errors(spec),
        ["spec.endpointSelector.matchLabels.a: must be a string, not a boolean, write \"true\""]
    );
}

#[test]
fn fields_of_the_next_step_are_refused_by_path() {
    for (rule, path) in [
        (json!({ "fromNodes": [{}] }), "fromNodes"),
        (json!({ "fromGroups": [{}] }), "fromGroups"),
        (json!({ "icmps": [{}] }), "icmps"),
    ] {
        let expected = format!("spec.ingress[0].{path}: not supported yet");
        assert_eq!(errors(ingress(rule)), [expected]);
    }
    for field in ["toServices", "toGroups", "toNodes", "toFQDNs", "icmps"] {
        let spec = json!({ "endpointSelector": {}, "egress": [{ field: [{}] }] });
        assert_eq!(
            errors(spec),
            [format!("spec.egress[0].{field}: not supported yet")]
        );
    }
    for field in [
        "terminatingTLS",
        "originatingTLS",
        "serverNames",
        "listener",
    ] {
        let spec = to_ports(json!({ "ports": [{ "port": "80" }], field: {} }));
        let expected = format!("spec.ingress[0].toPorts[0].{field}: not supported yet");
        assert_eq!(errors(spec), [expected]);
    }
    for kind in ["dns", "kafka"] {
        let spec = to_ports(json!({ "ports": [{ "port": "53" }], "rules": { kind: [{}] } }));
        let expected = format!("spec.ingress[0].toPorts[0].rules.{kind}: not supported yet");
        assert_eq!(errors(spec), [expected]);
    }
    let set = json!({ "fromCIDRSet": [{ "cidrGroupRef": "x" }] });
    assert_eq!(
        errors(ingress(set)),
        ["spec.ingress[0].fromCIDRSet[0].cidrGroupRef: not supported yet"]
    );
    let node = json!({ "nodeSelector": {}, "ingress": [{}] });
    assert!(
        ccnp(&node).rules().unwrap_err().0[0]
            .message
            .contains("not supported yet")
    );
}

#[test]
fn a_policy_needs_a_direction_and_a_subject() {
    assert_eq!(
        errors(json!({ "endpointSelector": {} })),
        ["spec: needs at least one of ingress, ingressDeny, egress and egressDeny"]
    );
    assert_eq!(
        errors(json!({ "ingress": [{}] })),
        ["spec.endpointSelector: is required; {} selects every pod"]
    );
    assert_eq!(
        errors(json!(null)),
        ["spec: is required (or specs, a list of them)"]
    );
    assert_eq!(errors(json!("x")), ["spec: must be an object"]);
}

#[test]
fn fields_beside_spec_are_refused() {
    let object = json!({
        "metadata": { "name": "x", "namespace": "default" },
        "Spec": { "endpointSelector": {}, "ingress": [{}] },
    });
    let found = read(object).rules().unwrap_err().to_string();
    assert_eq!(found, "Spec: unknown field, did you mean spec");
}

#[test]
fn specs_are_rules_of_one_object_and_stand_or_fall_together() {
    let good = json!({ "endpointSelector": {}, "ingress": [{}] });
    let object = |specs: Value| {
        read(json!({ "metadata": { "name": "x", "namespace": "n" }, "specs": specs }))
    };
    let rules = object(json!([good, good])).rules().unwrap();
    assert_eq!(rules.len(), 2);
    let reference = rules[1].origin.rule_ref("ingress[0]");
    assert_eq!(&*reference.rule, "specs[1].ingress[0]");
    let bad = object(json!([good, { "endpointSelector": {} }]));
    assert_eq!(bad.rules().unwrap_err().0[0].path, "specs[1]");
    assert!(object(json!([])).rules().is_err());
}

#[test]
fn default_deny_follows_the_sections() {
    let both = |spec: Value| {
        let rule = accepted(spec);
        (rule.ingress.default_deny, rule.egress.default_deny)
    };
    let selector = json!({});
    assert_eq!(
        both(json!({ "endpointSelector": selector, "ingress": [{}] })),
        (true, false)
    );
    assert_eq!(
        both(json!({ "endpointSelector": selector, "egressDeny": [{}] })),
        (false, true)
    );
    // A section without rules is a section: it allows nothing.
    assert_eq!(
        both(json!({ "endpointSelector": selector, "egress": [] })),
        (false, true)
    );
    assert_eq!(
        both(json!({
            "endpointSelector": selector,
            "ingress": [{}],
            "enableDefaultDeny": { "ingress": false, "egress": true },
        })),
        (false, true)
    );
}

#[test]
fn a_strange_status_does_not_break_reading() {
    let object = read(json!({
        "metadata": { "name": "x" },
        "spec": { "endpointSelector": {}, "ingress": [{}] },
        "status": { "conditions": "none" },
    }));
    assert_eq!(object.status, None);
    assert!(object.rules().is_ok());
}

#[test]
fn objects_are_written_as_they_were_read() {
    let text = json!({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": { "name": "x", "namespace": "default" },
        "spec": { "endpointSelector": {}, "typo": [{}] },
    });
    assert_eq!(serde_json::to_value(read(text.clone())).unwrap(), text);
}
