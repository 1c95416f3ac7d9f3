//! What a policy costs: a request in the proxy, and compiling in the agent.
#![expect(clippy::unwrap_used, reason = "benchmark")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use http::HeaderMap;
use weft_core::model::{EndpointId, Labels, NamedPorts, NumericIdentity, Protocol};
use weft_core::policy::http::{HttpRule, Matcher, Request, normalize};
use weft_core::policy::{
    Compiler, DirectionRules, EndpointSelector, IdentityTable, L7Rules, Operator, Origin, Peer,
    PeerRule, PeerSet, Peers, PolicyKind, PortMatch, PortRange, PortRule, PortSpec, Requirement,
    Rule, RuleTable, Subject, TrafficRule,
};

const PEER: NumericIdentity = NumericIdentity(300);

fn http_rule(method: &str, path: &str) -> HttpRule {
    HttpRule {
        method: Some(method.to_owned()),
        path: Some(path.to_owned()),
        ..HttpRule::default()
    }
}

fn peer_rules(http: Vec<HttpRule>) -> [PeerRule; 1] {
    [PeerRule {
        peers: PeerSet::These([PEER].into()),
        deny: false,
        http: http.into(),
        rule: None,
    }]
}

fn judging(c: &mut Criterion) {
    let headers = HeaderMap::new();
    let one = vec![http_rule("POST", "/v1/request-landing")];
    let thousand = (0..1000).map(|index| match index % 3 {
        0 => http_rule("GET", &format!("/literal/{index}")),
        1 => http_rule("GET|HEAD", &format!("/prefix{index}/.*")),
        _ => http_rule("GET", &format!("/pattern/{index}/[0-9a-f-]+/items")),
    });
    let cases = [
        ("one rule", one, "POST", "/v1/request-landing"),
        (
            "1000 rules",
            thousand.collect(),
            "GET",
            "/pattern/998/0a1b2c3d-4e5f/items",
        ),
    ];
    for (name, rules, method, path) in cases {
        let policy = Arc::new(Matcher::compile(&peer_rules(rules)).unwrap()).peer(PEER);
        let request = Request {
            method,
            path,
            authority: "deathstar.default.svc.cluster.local",
            headers: &headers,
        };
        assert!(policy.judge(&request).allow);
        c.bench_function(&format!("judge a request by {name}"), |b| {
            b.iter(|| policy.judge(black_box(&request)).allow);
        });
    }
    c.bench_function("normalise a normal path", |b| {
        b.iter(|| normalize(black_box("/v1/request-landing?x=1")).is_ok());
    });
}

/// A policy for pods of one application, from pods of another.
fn rule(index: usize, applications: usize) -> Rule {
    let application = |index: usize| {
        let value = Operator::In(vec![format!("app{}", index % applications).into()]);
        EndpointSelector::new(Requirement::parse("app", value))
    };
    let range = PortRange {
        first: 8080,
        last: 8080,
    };
    let ports = vec![PortRule {
        ports: vec![PortSpec {
            port: PortMatch::Range(range),
            protocol: Some(Protocol::Tcp),
        }],
        l7: L7Rules::None,
    }];
    Rule {
        origin: Origin {
            kind: PolicyKind::CiliumNetworkPolicy,
            namespace: "default".into(),
            name: format!("policy{index}").into(),
            spec: None,
        },
        subject: application(index),
        ingress: DirectionRules {
            default_deny: true,
            allow: vec![TrafficRule {
                peers: Peers::Listed(vec![Peer::Endpoints(application(index * 7 + 1))]),
                ports,
            }],
            deny: vec![],
        },
        egress: DirectionRules::default(),
    }
}

fn compiling(c: &mut Criterion) {
    const POLICIES: usize = 10_000;
    const APPLICATIONS: usize = 200;
    let rules: Vec<Rule> = (0..POLICIES)
        .map(|index| rule(index, APPLICATIONS))
        .collect();
    let labels: Vec<Labels> = (0..APPLICATIONS)
        .map(|index| Labels::parse_all([format!("k8s:app=app{index}").as_str()]).unwrap())
        .collect();
    let mut identities = IdentityTable::new();
    for (number, labels) in (256..).zip(&labels) {
        identities.insert(NumericIdentity(number), labels.clone());
    }
    let named_ports = NamedPorts::default();
    c.bench_function("compile 10,000 policies for 100 endpoints", |b| {
        b.iter(|| {
            let mut compiler = Compiler::new(&identities);
            let mut table = RuleTable::default();
            let mut entries = 0;
            for (id, labels) in (1..).zip(labels.iter().take(100)) {
                let subject = Subject {
                    id: EndpointId(id),
                    labels,
                    named_ports: &named_ports,
                    intercepts: &[],
                };
                entries += compiler.compile(&subject, &rules, &mut table).entries.len();
            }
            entries
        });
    });
}

criterion_group!(benches, judging, compiling);
criterion_main!(benches);
