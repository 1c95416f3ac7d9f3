//! What a change of the cluster costs before the kernel is written.
#![expect(clippy::expect_used, reason = "benchmark")]

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use serde_json::json;
use weft_agent::endpoint::{Interface, LocalEndpoint};
use weft_agent::plan::{Compiled, KernelEntries, Rules};
use weft_agent::policy::parse;
use weft_agent::state::ObjectKey;
use weft_core::model::{Labels, NamedPorts, NumericIdentity};
use weft_core::policy::{EndpointPolicy, IdentityTable, PolicyKind, Rule, RuleTable};

const POLICIES: usize = 1_000;
const APPLICATIONS: usize = 50;
const ENDPOINTS: u8 = 100;
const IDENTITIES: u32 = 1_000;

fn labels(application: usize) -> Labels {
    let app = format!("k8s:app=app{application}");
    let labels = [app.as_str(), "k8s:io.kubernetes.pod.namespace=default"];
    Labels::parse_all(labels).expect("labels")
}

fn endpoint(number: u8) -> (Ipv4Addr, LocalEndpoint) {
    let ip = Ipv4Addr::new(10, 244, 1, number);
    let application = usize::from(number) % APPLICATIONS;
    let endpoint = LocalEndpoint {
        id: number.into(),
        key: ObjectKey::new("default", format!("pod-{number}")),
        uid: number.to_string(),
        ip,
        interface: Interface {
            ifindex: number.into(),
            mac: [2; 6],
            host_mac: [3; 6],
        },
        identity: NumericIdentity(256 + u32::from(number)),
        labels: labels(application),
        ports: NamedPorts::default(),
    };
    (ip, endpoint)
}

/// Lets one application GET a path from another.
fn rule(index: usize, port: u16) -> Arc<Rule> {
    let app = |index: usize| {
        let app = format!("app{}", index % APPLICATIONS);
        json!({"matchLabels": {"app": app}})
    };
    let raw = json!({
        "metadata": {"name": format!("policy-{index}"), "namespace": "default"},
        "spec": {
            "endpointSelector": app(index),
            "ingress": [{
                "fromEndpoints": [app(index * 7 + 1)],
                "toPorts": [{
                    "ports": [{"port": port.to_string(), "protocol": "TCP"}],
                    "rules": {"http": [{"method": "GET", "path": format!("/{index}/.*")}]},
                }],
            }],
        },
    });
    let rules = parse(PolicyKind::CiliumNetworkPolicy, &raw).expect("a policy");
    Arc::new(rules.into_iter().next().expect("a rule"))
}

fn identities(count: u32) -> IdentityTable {
    let mut table = IdentityTable::new();
    for number in 0..count {
        let application = usize::try_from(number).expect("a number");
        table.insert(NumericIdentity(256 + number), labels(application));
    }
    table
}

fn updating(c: &mut Criterion) {
    let endpoints: BTreeMap<_, _> = (1..=ENDPOINTS).map(endpoint).collect();
    let known = identities(IDENTITIES);
    let mut list: Vec<_> = (0..POLICIES).map(|index| rule(index, 8080)).collect();
    let mut rules = Rules::default();
    rules.replace(list.clone());
    let mut table = RuleTable::default();
    c.bench_function("1,000 policies for 100 endpoints, all new", |b| {
        b.iter_batched(
            || known.clone(),
            |known| {
                let mut compiled = Compiled::default();
                compiled.update(&endpoints, &rules, known, &mut table, &KernelEntries::new());
                compiled
            },
            BatchSize::LargeInput,
        );
    });

    let mut compiled = Compiled::default();
    compiled.update(
        &endpoints,
        &rules,
        known.clone(),
        &mut table,
        &KernelEntries::new(),
    );
    let versions = [rule(17, 8080), rule(17, 9090)];
    let mut turn = versions.iter().cycle();
    c.bench_function("one of 1,000 policies changed", |b| {
        b.iter_batched(
            || known.clone(),
            |known| {
                if let (Some(place), Some(version)) = (list.get_mut(17), turn.next()) {
                    *place = version.clone();
                }
                rules.replace(list.clone());
                compiled.update(&endpoints, &rules, known, &mut table, &KernelEntries::new());
            },
            BatchSize::LargeInput,
        );
    });
    let one_more = identities(IDENTITIES + 1);
    let mut turn = [&known, &one_more].into_iter().cycle();
    c.bench_function("an identity came or went under 1,000 policies", |b| {
        b.iter_batched(
            || turn.next().unwrap_or(&known).clone(),
            |known| compiled.update(&endpoints, &rules, known, &mut table, &KernelEntries::new()),
            BatchSize::LargeInput,
        );
    });
}

/// An object with as many rules as one may have, each of them about everybody but
/// two: what compiling takes longest for. About requests at one port, or about two
/// ports.
fn largest(requests: bool) -> serde_json::Value {
    let rules: Vec<_> = (0..MOST_RULES)
        .map(|index| {
            let app = |number: usize| format!("app{}", number % OTHERS);
            let others = [app(index), app(index + 1 + index / OTHERS)];
            let but = json!({"key": "app", "operator": "NotIn", "values": others});
            let port = |port: &str| json!({"port": port, "protocol": "TCP"});
            let ports = match requests {
                true => json!({
                    "ports": [port("80")],
                    "rules": {"http": [{"path": format!("/{index}/[0-9a-f]+/.*")}]},
                }),
                false => json!({"ports": [port("80"), port("443")]}),
            };
            json!({"fromEndpoints": [{"matchExpressions": [but]}], "toPorts": [ports]})
        })
        .collect();
    json!({
        "metadata": {"name": "largest", "namespace": "default"},
        "spec": {"endpointSelector": {}, "ingress": rules},
    })
}

const MOST_RULES: usize = 1_000;
const OTHERS: usize = 500;

fn nasty(c: &mut Criterion) {
    let mut group = c.benchmark_group("the largest object");
    group.sample_size(10);
    let endpoints: BTreeMap<_, _> = (1..=50)
        .map(|number| {
            let (ip, endpoint) = endpoint(number);
            let labels = labels(usize::from(number));
            (ip, LocalEndpoint { labels, ..endpoint })
        })
        .collect();
    let mut known = IdentityTable::new();
    for number in 0..OTHERS {
        let id = 256 + u32::try_from(number).expect("a number");
        known.insert(NumericIdentity(id), labels(number));
    }
    for (kind, requests) in [("on two ports", false), ("with requests", true)] {
        let raw = largest(requests);
        let parsed = || parse(PolicyKind::CiliumNetworkPolicy, &raw).expect("admitted");
        group.bench_function(format!("{kind}, admitted"), |b| b.iter(parsed));
        let mut rules = Rules::default();
        rules.replace(parsed().into_iter().map(Arc::new).collect());
        let mut table = RuleTable::default();
        let name = format!("{kind}, for 50 endpoints against 500 identities");
        group.bench_function(name, |b| {
            b.iter_batched(
                || known.clone(),
                |known| {
                    let mut compiled = Compiled::default();
                    compiled.update(&endpoints, &rules, known, &mut table, &KernelEntries::new());
                    // It is really compiled, and not given up.
                    assert_eq!(compiled.compiled, endpoints.len());
                    let fits = |policy: &EndpointPolicy| policy.excess.is_empty();
                    assert!(compiled.policies.values().all(fits));
                    compiled
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, updating, nasty);
criterion_main!(benches);
