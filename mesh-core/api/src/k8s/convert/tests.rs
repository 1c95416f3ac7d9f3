use serde_json::{Value, json};
use weft_core::model::{Labels, Protocol};
use weft_core::policy::http::HttpRules;
use weft_core::policy::{CidrPeer, Entity, L7Rules, Peer, Peers, PortMatch, PortRange};

use super::super::policy::PolicyObject;
use super::super::policy::tests::{
    accepted, ccnp, error_below, errors, ingress, to_ports, traffic,
};

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
        let spec = to_ports(json!({ "ports": [port] }));
        error_below("spec.ingress[0].toPorts[0].ports[0].", spec)
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
    let none = L7Rules::Http(HttpRules::default());
    assert_eq!(traffic(to_ports(range)).ports[0].l7, none);
}

#[test]
fn http_rules_that_do_not_compile_are_refused() {
    let error = |rule: Value| {
        let ports = json!({
            "ports": [{ "port": "80", "protocol": "TCP" }],
            "rules": { "http": [{}, rule] },
        });
        error_below("spec.ingress[0].toPorts[0].rules.http[1].", to_ports(ports))
    };
    assert_eq!(
        error(json!({ "path": "/a(" })),
        "path: invalid regular expression: unclosed group"
    );
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
fn what_counts_on_ipv6_is_refused_and_not_skipped() {
    for (rule, at) in [
        (
            json!({ "fromCIDR": ["0.0.0.0/0", "::/0"] }),
            "fromCIDR[1]: ::/0",
        ),
        (
            json!({ "fromCIDR": ["2001:db8::1"] }),
            "fromCIDR[0]: 2001:db8::1/128",
        ),
        (
            json!({ "fromCIDRSet": [{ "cidr": "2001:db8::/32", "except": ["2001:db8:1::/48"] }] }),
            "fromCIDRSet[0].cidr: 2001:db8::/32",
        ),
        (
            json!({ "fromEntities": ["world-ipv6"] }),
            "fromEntities[0]: world-ipv6",
        ),
    ] {
        let expected = format!("spec.ingress[0].{at}: IPv6 is not supported yet");
        assert_eq!(errors(ingress(rule)), [expected]);
    }
}

#[test]
fn selectors() {
    let error = |expression: Value| {
        let spec = json!({
            "endpointSelector": { "matchExpressions": [expression] },
            "ingress": [{}],
        });
        error_below("spec.endpointSelector.matchExpressions[0].", spec)
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
