use serde_json::json;
use weft_core::model::{Labels, Protocol};
use weft_core::policy::{
    CidrPeer, Entity, L7Rules, Peer, Peers, PortMatch, PortRange, PortSpec, TrafficRule,
};

use super::*;

fn cnp(spec: &Value) -> CiliumNetworkPolicy {
    let object = json!({
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": { "name": "rule1", "namespace": "default" },
        "spec": spec,
    });
    serde_json::from_value(object).unwrap()
}

fn ccnp(spec: &Value) -> CiliumClusterwideNetworkPolicy {
    let object = json!({ "metadata": { "name": "wide" }, "spec": spec });
    serde_json::from_value(object).unwrap()
}

/// The errors of a namespaced policy with this spec.
fn errors(spec: Value) -> Vec<String> {
    match cnp(&spec).rules() {
        Ok(rules) => panic!("accepted: {rules:?}"),
        Err(errors) => errors.0.iter().map(ToString::to_string).collect(),
    }
}

/// The only rule of a namespaced policy with this spec.
fn accepted(spec: Value) -> Rule {
    let rules = cnp(&spec).rules().unwrap();
    assert_eq!(rules.len(), 1);
    rules.into_iter().next().unwrap()
}

fn ingress(rule: Value) -> Value {
    json!({ "endpointSelector": {}, "ingress": [rule] })
}

fn to_ports(ports: Value) -> Value {
    ingress(json!({ "toPorts": [ports] }))
}

fn traffic(spec: Value) -> TrafficRule {
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
fn authentication_can_only_be_disabled() {
    accepted(ingress(json!({ "authentication": { "mode": "disabled" } })));
    for mode in ["required", "test-always-fail"] {
        let found = errors(ingress(json!({ "authentication": { "mode": mode } })));
        assert!(
            found[0].starts_with("spec.ingress[0].authentication.mode: "),
            "{found:?}"
        );
    }
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
    let object: CiliumNetworkPolicy = serde_json::from_value(object).unwrap();
    let found = object.rules().unwrap_err().to_string();
    assert_eq!(found, "Spec: unknown field, did you mean spec");
}

#[test]
fn specs_are_rules_of_one_object_and_stand_or_fall_together() {
    let good = json!({ "endpointSelector": {}, "ingress": [{}] });
    let object = |specs: Value| -> CiliumNetworkPolicy {
        let object = json!({ "metadata": { "name": "x", "namespace": "n" }, "specs": specs });
        serde_json::from_value(object).unwrap()
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
fn two_kinds_of_peers_are_refused() {
    let rule = json!({ "fromEndpoints": [{}], "fromCIDR": ["10.0.0.0/8"] });
    assert_eq!(
        errors(ingress(rule)),
        [
            "spec.ingress[0].fromCIDR: fromEndpoints and fromCIDR cannot be in one rule; make two \
          rules"
        ]
    );
    // An empty list beside a filled one selects nothing more.
    let rule = json!({ "fromEndpoints": [], "fromEntities": ["world"] });
    assert_eq!(
        traffic(ingress(rule)).peers,
        Peers::Listed(vec![Peer::Entity(Entity::World)])
    );
}

#[test]
fn absent_peers_differ_from_empty_ones() {
    assert_eq!(traffic(ingress(json!({}))).peers, Peers::Unnamed);
    assert_eq!(
        traffic(ingress(json!({ "fromEndpoints": null }))).peers,
        Peers::Unnamed
    );
    assert_eq!(
        traffic(ingress(json!({ "fromEndpoints": [] }))).peers,
        Peers::Listed(vec![])
    );
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
fn ports() {
    let port =
        |port: Value| traffic(to_ports(json!({ "ports": [port] }))).ports[0].ports[0].clone();
    let range = |first, last| PortMatch::Range(PortRange { first, last });
    assert_eq!(port(json!({ "port": "80" })).port, range(80, 80));
    assert_eq!(port(json!({ "port": "80" })).protocol, None);
    assert_eq!(
        port(json!({ "port": "80", "protocol": "any" })).protocol,
        None
    );
    assert_eq!(port(json!({ "port": "0" })).port, PortMatch::All);
    assert_eq!(
        port(json!({ "port": "1024", "endPort": 65535 })).port,
        range(1024, 65535)
    );
    assert_eq!(
        port(json!({ "port": "80", "endPort": 80 })).port,
        range(80, 80)
    );
    assert_eq!(
        port(json!({ "port": "80", "endPort": 0 })).port,
        range(80, 80)
    );
    let named = port(json!({ "port": "Http-Alt", "protocol": "UDP" }));
    assert_eq!(named.port, PortMatch::Named("http-alt".into()));
    assert_eq!(named.protocol, Some(Protocol::Udp));
}

#[test]
fn bad_ports() {
    let error = |port: Value| {
        let found = errors(to_ports(json!({ "ports": [port] })));
        let prefix = "spec.ingress[0].toPorts[0].ports[0].";
        found[0].strip_prefix(prefix).unwrap().to_owned()
    };
    assert_eq!(
        error(json!({ "port": "80", "endPort": 79 })),
        "endPort: 79 is below port 80"
    );
    assert!(error(json!({ "port": "80", "endPort": 65536 })).starts_with("endPort: 65536"));
    assert!(error(json!({ "port": "0", "endPort": 80 })).starts_with("endPort: "));
    assert!(error(json!({ "port": "http", "endPort": 80 })).starts_with("endPort: "));
    assert!(error(json!({ "port": "65536" })).starts_with("port: 65536"));
    assert!(error(json!({ "port": "-1" })).starts_with("port: "));
    assert!(error(json!({ "port": "a_b" })).starts_with("port: "));
    assert!(error(json!({ "protocol": "TCP" })).starts_with("port: is required"));
    let many: Vec<Value> = (1..=41)
        .map(|port| json!({ "port": port.to_string() }))
        .collect();
    let found = errors(to_ports(json!({ "ports": many })));
    assert_eq!(
        found,
        ["spec.ingress[0].toPorts[0].ports: has 41 ports, more than 40"]
    );
    let found = errors(to_ports(json!({})));
    assert!(
        found[0].starts_with("spec.ingress[0].toPorts[0].ports: needs"),
        "{found:?}"
    );
}

#[test]
fn http_rules_need_tcp_and_a_port() {
    let error = |port: Value| {
        let ports = json!({ "ports": [port], "rules": { "http": [{}] } });
        errors(to_ports(ports)).remove(0)
    };
    for port in [
        json!({ "port": "80" }),
        json!({ "port": "80", "protocol": "ANY" }),
        json!({ "port": "80", "protocol": "UDP" }),
    ] {
        assert!(error(port).contains("ports[0].protocol: http rules need protocol: TCP"));
    }
    assert!(error(json!({ "port": "0", "protocol": "TCP" })).contains("ports[0].port: "));
    let range = json!({
        "ports": [{ "port": "8000", "endPort": 9000, "protocol": "TCP" }],
        "rules": { "http": [] },
    });
    assert_eq!(traffic(to_ports(range)).ports[0].l7, L7Rules::Http(vec![]));
}

#[test]
fn http_rules_that_do_not_compile_are_refused() {
    let error = |rule: Value| {
        let ports = json!({
            "ports": [{ "port": "80", "protocol": "TCP" }],
            "rules": { "http": [{}, rule] },
        });
        let found = errors(to_ports(ports)).remove(0);
        let prefix = "spec.ingress[0].toPorts[0].rules.http[1].";
        found.strip_prefix(prefix).unwrap().to_owned()
    };
    assert!(error(json!({ "path": "/a(" })).starts_with("path: invalid regular expression"));
    assert!(error(json!({ "path": "((a{100}){100}){100}" })).starts_with("path: "));
    assert!(error(json!({ "method": "a**" })).starts_with("method: invalid"));
    assert!(error(json!({ "host": "a".repeat(5000) })).starts_with("host: "));
    assert!(error(json!({ "headers": ["a b: c"] })).starts_with("headers[0]: "));
    let bad = json!({ "headerMatches": [{ "name": "x", "value": "y", "mismatch": "WARN" }] });
    assert!(error(bad).starts_with("headerMatches[0].mismatch: `WARN`"));
    let bad = json!({ "headerMatches": [{ "name": "x", "secret": { "name": "y" } }] });
    assert!(error(bad).starts_with("headerMatches[0].secret: not supported yet"));
    let bad = json!({ "headerMatches": [{ "value": "y" }] });
    assert!(error(bad).starts_with("headerMatches[0].name: is required"));
}

#[test]
fn deny_rules_take_no_l7_rules() {
    let spec = json!({
        "endpointSelector": {},
        "ingressDeny": [{
            "toPorts": [{ "ports": [{ "port": "80", "protocol": "TCP" }], "rules": {} }],
        }],
    });
    assert_eq!(
        errors(spec),
        ["spec.ingressDeny[0].toPorts[0].rules: unknown field"]
    );
}

#[test]
fn cidrs() {
    let peers = |rule: Value| traffic(ingress(rule)).peers;
    let cidr = |cidr: &str, except: &[&str]| {
        Peer::Cidr(CidrPeer {
            cidr: cidr.parse().unwrap(),
            except: except.iter().map(|text| text.parse().unwrap()).collect(),
        })
    };
    assert_eq!(
        peers(json!({ "fromCIDR": ["10.1.2.3/8", "192.0.2.1"] })),
        Peers::Listed(vec![cidr("10.0.0.0/8", &[]), cidr("192.0.2.1/32", &[])])
    );
    assert_eq!(
        peers(json!({ "fromCIDRSet": [{ "cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"] }] })),
        Peers::Listed(vec![cidr("10.0.0.0/8", &["10.1.0.0/16"])])
    );
    let error = |rule: Value| errors(ingress(rule)).remove(0);
    assert_eq!(
        error(json!({ "fromCIDRSet": [{ "cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"] }] })),
        "spec.ingress[0].fromCIDRSet[0].except[0]: 11.0.0.0/16 does not lie inside 10.0.0.0/8"
    );
    assert!(error(json!({ "fromCIDRSet": [{}] })).contains("cidr: is required"));
    assert!(error(json!({ "fromCIDR": ["10.0.0.0/33"] })).contains("fromCIDR[0]: `10.0.0.0/33`"));
}

#[test]
fn selectors() {
    let error = |expression: Value| {
        let spec = json!({
            "endpointSelector": { "matchExpressions": [expression] },
            "ingress": [{}],
        });
        let found = errors(spec).remove(0);
        let prefix = "spec.endpointSelector.matchExpressions[0].";
        found.strip_prefix(prefix).unwrap().to_owned()
    };
    assert_eq!(
        error(json!({ "key": "a", "operator": "in", "values": ["x"] })),
        "operator: `in` is none of In, NotIn, Exists, DoesNotExist, did you mean In"
    );
    assert_eq!(
        error(json!({ "key": "a", "operator": "In" })),
        "values: In needs at least one value"
    );
    assert_eq!(
        error(json!({ "key": "a", "operator": "Exists", "values": ["x"] })),
        "values: Exists takes no values"
    );
    assert!(error(json!({ "key": "foo:a", "operator": "Exists" })).starts_with("key: "));
    assert!(error(json!({ "key": "a b", "operator": "Exists" })).starts_with("key: "));
    assert!(error(json!({ "operator": "Exists" })).starts_with("key: is required"));
    let spec = json!({ "endpointSelector": { "matchLabels": { "a": "x y" } }, "ingress": [] });
    assert!(errors(spec)[0].starts_with("spec.endpointSelector.matchLabels.a: `x y`"));
}

#[test]
fn the_subject_stays_in_its_namespace() {
    let spec = json!({
        "endpointSelector": { "matchLabels": { "k8s:io.kubernetes.pod.namespace": "other" } },
        "ingress": [{}],
    });
    let own = Labels::parse_all(["k8s:io.kubernetes.pod.namespace=default"]).unwrap();
    let other = Labels::parse_all(["k8s:io.kubernetes.pod.namespace=other"]).unwrap();
    let namespaced = accepted(spec.clone());
    assert!(namespaced.subject.matches(&own) && !namespaced.subject.matches(&other));
    let wide = ccnp(&spec).rules().unwrap().remove(0);
    assert!(!wide.subject.matches(&own) && wide.subject.matches(&other));
}

#[test]
fn a_strange_status_does_not_break_reading() {
    let object = json!({
        "metadata": { "name": "x" },
        "spec": { "endpointSelector": {}, "ingress": [{}] },
        "status": { "conditions": "none" },
    });
    let object: CiliumNetworkPolicy = serde_json::from_value(object).unwrap();
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
    let object: CiliumNetworkPolicy = serde_json::from_value(text.clone()).unwrap();
    assert_eq!(serde_json::to_value(&object).unwrap(), text);
}
