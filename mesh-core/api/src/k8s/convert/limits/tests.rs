use serde_json::{Value, json};

use super::super::super::policy::PolicyObject;
use super::super::super::policy::tests::{accepted, cnp, errors, ingress, to_ports};

/// So many of something.
fn many(count: usize, one: impl Fn(usize) -> Value) -> Vec<Value> {
    (0..count).map(one).collect()
}

/// A rule with so many ports, 40 in each element of `toPorts`.
fn with_ports(count: usize, port: impl Fn(usize) -> Value) -> Value {
    let ports = many(count, port);
    let lists: Vec<Value> = ports
        .chunks(40)
        .map(|ports| json!({ "ports": ports }))
        .collect();
    ingress(json!({ "toPorts": lists }))
}

fn with_requests(count: usize, request: impl Fn(usize) -> Value) -> Value {
    to_ports(json!({
        "ports": [{ "port": "80", "protocol": "TCP" }],
        "rules": { "http": many(count, request) },
    }))
}

fn range(first: usize, last: usize) -> Value {
    json!({ "port": first.to_string(), "endPort": last, "protocol": "TCP" })
}

fn prefix(index: usize) -> String {
    format!("10.{}.{}.0/24", index / 256, index % 256)
}

fn rules(count: usize) -> Value {
    json!({ "endpointSelector": {}, "ingress": many(count, |_| json!({})) })
}

/// What is accepted up to a limit, and the start of what is said above it.
struct Case {
    most: Value,
    more: Value,
    says: &'static str,
}

fn cases() -> Vec<Case> {
    let selectors = |count| ingress(json!({ "fromEndpoints": many(count, |_| json!({})) }));
    let cidrs = |count| ingress(json!({ "fromCIDR": many(count, |index| prefix(index).into()) }));
    let except = |count| {
        let except = many(count, |index| prefix(index).into());
        ingress(json!({ "fromCIDRSet": [{ "cidr": "10.0.0.0/8", "except": except }] }))
    };
    let values = |count| {
        let values = many(count, |index| format!("v{index}").into());
        let expression = json!({ "key": "app", "operator": "NotIn", "values": values });
        ingress(json!({ "fromEndpoints": [{ "matchExpressions": [expression] }] }))
    };
    let ports = |count| with_ports(count, |index| json!({ "port": (index + 1).to_string() }));
    let requests = |count| with_requests(count, |index| json!({ "path": format!("/{index}") }));
    let headers = |count| json!({ "headers": many(count, |index| format!("x-{index}").into()) });
    vec![
        Case {
            most: rules(1000),
            more: rules(1001),
            says: "spec.ingress: the object has 1001 rules, more than 1000; make several",
        },
        Case {
            most: selectors(1000),
            more: selectors(1001),
            says: "spec.ingress[0].fromEndpoints: the object has 1001 selectors and entities",
        },
        Case {
            most: cidrs(2000),
            more: cidrs(2001),
            says: "spec.ingress[0].fromCIDR: the object has 2001 prefixes with their exceptions, \
                   more than 2000; name larger prefixes",
        },
        Case {
            most: except(1999),
            more: except(2000),
            says: "spec.ingress[0].fromCIDRSet: the object has 2001 prefixes",
        },
        Case {
            most: values(9_999),
            more: values(10_000),
            says: "spec.ingress[0].fromEndpoints: the object has 10001 label requirements",
        },
        Case {
            most: ports(2000),
            more: ports(2001),
            says: "spec.ingress[0].toPorts[50].ports: the object has 2001 ports, more than 2000",
        },
        Case {
            most: requests(1000),
            more: requests(1001),
            says: "spec.ingress[0].toPorts[0].rules.http: the object has 1001 HTTP rules",
        },
        Case {
            most: with_requests(50, |_| headers(100)),
            more: with_requests(51, |_| headers(100)),
            says: "spec.ingress[0].toPorts[0].rules.http: the object has 5100 conditions",
        },
        Case {
            most: with_requests(1, |_| headers(1024)),
            more: with_requests(1, |_| headers(1025)),
            says: "spec.ingress[0].toPorts[0].rules.http[0]: has 1025 conditions on headers, more \
                   than 1024; no request with so many headers gets through the proxy, so name fewer",
        },
    ]
}

#[test]
fn objects_are_accepted_up_to_a_limit_and_refused_above_it() {
    for Case { most, more, says } in cases() {
        accepted(most);
        let found = errors(more);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(says), "{says}: {found:?}");
    }
}

#[test]
fn what_ranges_take_in_the_map_is_limited() {
    // 30 entries each, the most that a range of ports takes.
    let worst = |_| range(1, 65_534);
    accepted(with_ports(273, worst));
    let found = errors(with_ports(274, worst));
    assert!(
        found[0].contains("map entries for each peer") && found[0].contains("more than 8192"),
        "{found:?}"
    );
    // One range of all protocols counts for three.
    let all = with_ports(100, |_| json!({ "port": "1", "endPort": 65_534 }));
    assert!(errors(all)[0].contains("name a protocol"));
    // As wide as one pleases, from a power of two to the next.
    accepted(with_ports(2000, |_| range(32_768, 65_535)));
}

#[test]
fn limits_are_those_of_the_whole_object() {
    let half = |name: &str| json!({ "endpointSelector": {}, name: [{ "toCIDR": many(1200, |i| prefix(i).into()) }] });
    let mut object = cnp(&half("egress"));
    assert!(object.rules().is_ok());
    object.specs = Some(json!([half("egress"), half("egressDeny")]));
    object.spec = None;
    let found = object.rules().unwrap_err().to_string();
    let says = "specs[1].egressDeny[0].toCIDR: the object has 2400 prefixes";
    assert!(found.starts_with(says), "{found}");
    object.specs = Some(many(101, |_| rules(1)).into());
    let found = object.rules().unwrap_err().to_string();
    assert!(
        found.starts_with("specs: has 101 elements, more than 100"),
        "{found}"
    );
}

#[test]
fn expressions_may_need_tables_of_so_many_bytes() {
    let classes =
        |count| with_requests(count, |index| json!({ "path": format!(r"/{index}/\pL+") }));
    accepted(classes(10));
    let found = errors(classes(1000));
    assert_eq!(found.len(), 1, "nothing is looked at after that: {found:?}");
    assert!(
        found[0].contains("the regular expressions up to here need tables of")
            && found[0].contains("more than 16777216"),
        "{found:?}"
    );
    // Plain texts need none.
    accepted(with_requests(
        1000,
        |index| json!({ "path": format!("/v1/{index}") }),
    ));
}

#[test]
fn an_expression_that_would_be_made_while_requests_wait_is_refused() {
    let found = errors(with_requests(1, |_| json!({ "path": "/(a|b)*a(a|b){20}" })));
    let says =
        "spec.ingress[0].toPorts[0].rules.http[0].path: the regular expression needs a table";
    assert!(found[0].starts_with(says), "{found:?}");
    // Refusing costs time, and is not done a thousand times.
    let found = errors(with_requests(
        1000,
        |index| json!({ "path": format!("/{index}(a|b)*a(a|b){{20}}") }),
    ));
    assert!(found.len() < 20, "{found:?}");
}

#[test]
fn http_rules_on_ranges_that_overlap_are_limited() {
    // The n-th of these ranges lies in all before it.
    let nested = |count| {
        let lists = many(count, |index| {
            json!({
                "ports": [range(index + 1, 65_000 - index)],
                "rules": { "http": [{ "path": format!("/{index}/{}", "x".repeat(100)) }] },
            })
        });
        ingress(json!({ "toPorts": lists }))
    };
    accepted(nested(100));
    // Each of a thousand rules that hold on all of them is looked at for each.
    let mut everywhere = nested(250);
    let rules = everywhere["ingress"].as_array_mut().unwrap();
    rules.extend((0..900).map(|_| json!({ "fromEntities": ["cluster"] })));
    let found = errors(everywhere);
    let says = "spec: has more than 262144 rules on ports with HTTP rules";
    assert!(found[0].starts_with(says), "{found:?}");
    let found = errors(nested(250));
    let says = "spec: the texts of its HTTP rules come to ";
    assert!(found[0].starts_with(says), "{found:?}");
    assert!(found[0].contains("more than 4194304"), "{found:?}");
    // Beside each other they cost what they are.
    let apart = many(400, |index| {
        json!({
            "ports": [range(100 * index + 1, 100 * index + 90)],
            "rules": { "http": [{ "path": format!("/{index}/{}", "x".repeat(100)) }] },
        })
    });
    accepted(ingress(json!({ "toPorts": apart })));
}

#[test]
fn what_is_told_of_an_object_fits_into_its_status() {
    let wrong = |count| {
        let rules = many(
            count,
            |index| json!({ format!("from{index}"): "x".repeat(50) }),
        );
        json!({ "endpointSelector": {}, "ingress": rules })
    };
    assert_eq!(errors(wrong(20)).len(), 20);
    let found = errors(wrong(5000));
    assert_eq!(found.len(), 21);
    assert_eq!(found[20], "spec: has 4980 more errors");
    let mut object = cnp(&wrong(1));
    object.specs = Some(json!([wrong(30)]));
    object.spec = None;
    let found = object.rules().unwrap_err().0;
    assert_eq!(found[20].to_string(), "specs: has 10 more errors");
    // However long the names are that a user made up.
    let name = "x".repeat(1 << 20);
    let spec = json!({ "endpointSelector": {}, "ingress": [{ name.clone(): 1 }], name: 1 });
    let found = errors(spec).join("; ");
    assert!(
        found.len() < 8192 && found.contains("unknown field"),
        "{}",
        found.len()
    );
}
