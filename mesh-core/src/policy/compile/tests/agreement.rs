//! Three ways of deciding agree: the plain evaluator, the entries under the
//! datapath's two lookups, and the proxy's matcher.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError};

use crate::model::{Direction, Endpoint, NumericIdentity, PodAddr, PrefixMap};
use crate::policy::http::Request;
use crate::policy::testing::cases::{Case, Tuple, cases};
use crate::policy::testing::reference::{self, Outcome};
use crate::policy::{
    Compiler, Decision, EndpointPolicy, MapEntry, RuleId, RuleTable, Subject, find, lookup,
};
use crate::snapshot::{Node, Parts, Settings, Snapshot};

struct Compiled {
    addresses: PrefixMap<NumericIdentity>,
    policy: EndpointPolicy,
    table: RuleTable,
}

fn compile(case: &Case) -> Compiled {
    let (identities, addresses) = case.identities();
    let mut table = RuleTable::default();
    let subject = Subject {
        id: Case::SUBJECT,
        labels: &case.pods[0].labels,
        named_ports: &case.pods[0].ports,
        intercepts: &case.intercepts,
    };
    let policy = Compiler::new(&identities).compile(&subject, &case.rules, &mut table);
    Compiled {
        addresses,
        policy,
        table,
    }
}

fn outcome(entry: Option<&MapEntry>) -> Outcome {
    match entry.map(|entry| entry.value.decision) {
        None | Some(Decision::Deny) => Outcome::Deny,
        Some(Decision::Allow) => Outcome::Allow,
        Some(Decision::Redirect) => Outcome::Redirect,
    }
}

fn check_entries(case: &Case) -> Result<(), TestCaseError> {
    let compiled = compile(case);
    for tuple in &case.tuples {
        let identity = case.identity(tuple, &compiled.addresses);
        let entry = lookup(
            &compiled.policy.entries,
            tuple.direction,
            identity,
            tuple.protocol,
            tuple.port,
        );
        let (entries, direction) = (&compiled.policy.entries, tuple.direction);
        let found = find(entries, direction, identity, tuple.protocol, tuple.port);
        prop_assert_eq!(found, entry, "{:?}", tuple);
        let question = case.question(tuple).unwrap();
        let expected = reference::decide_intercepted(&case.rules, &case.intercepts, &question);
        prop_assert_eq!(outcome(entry), expected.outcome, "{:?}", tuple);
        let rule = entry.map_or(RuleId::NONE, |entry| entry.value.rule);
        match compiled.table.get(rule) {
            Some(rule) => prop_assert!(expected.because.contains(rule), "{} {:?}", rule, tuple),
            None => prop_assert!(expected.because.is_empty(), "{:?} {:?}", expected, tuple),
        }
    }
    Ok(())
}

/// What every set of entries must be, whatever the rules.
fn check_shape(case: &Case) -> Result<(), TestCaseError> {
    let entries = compile(case).policy.entries;
    for pair in entries.windows(2) {
        prop_assert!(pair[0].key < pair[1].key, "sorted, each key once");
    }
    for MapEntry { key, value } in entries.iter() {
        prop_assert!(key.prefix_len == 72 || (80..=96).contains(&key.prefix_len));
        prop_assert!(value.prefix_len <= key.prefix_len);
        let free = 96 - key.prefix_len.max(80);
        let host_bits = u32::from(key.port) & ((1 << free) - 1);
        prop_assert_eq!(host_bits, 0, "bits after the prefix are zero");
        prop_assert!(key.prefix_len > 72 || key.protocol == 0);
    }
    Ok(())
}

fn snapshot(case: &Case, compiled: &Compiled) -> Snapshot {
    let parts = Parts {
        version: "1".into(),
        node: Node {
            name: "node".into(),
            address: [172, 18, 0, 2].into(),
            cluster: "default".into(),
            private_ports: [].into(),
        },
        listeners: vec![],
        endpoints: vec![Endpoint {
            id: Case::SUBJECT,
            namespace: "default".into(),
            pod: "subject".into(),
            address: PodAddr(address(0)),
            identity: case.pods[0].identity,
        }],
        identities: vec![],
        // Peers get addresses by identity.
        addresses: (1..=8)
            .chain(256..300)
            .chain(NumericIdentity::LOCAL_FIRST.0..NumericIdentity::LOCAL_FIRST.0 + 20)
            .map(|number| (address(number).into(), NumericIdentity(number)))
            .collect(),
        policies: compiled.policy.ports.clone(),
        clusters: vec![],
        filters: vec![],
        chains: vec![],
        callouts: vec![],
        settings: Settings::default(),
    };
    Snapshot::build(parts, None).unwrap()
}

fn address(identity: u32) -> std::net::IpAddr {
    std::net::Ipv4Addr::from(0x6400_0000 + (identity & 0xffff) + (identity >> 24 << 16)).into()
}

const REQUESTS: [(&str, &str, &str); 6] = [
    ("GET", "/", "deathstar"),
    ("POST", "/v1/request-landing", "deathstar.default"),
    ("HEAD", "/v1/", "deathstar"),
    ("PUT", "/v1/exhaust-port", "deathstar"),
    ("get", "/v2/x", "x"),
    ("GET", "/v1/request-landing?x=1", "deathstar"),
];

/// The proxy's verdict on connections that reach it.
fn check_requests(case: &Case) -> Result<(), TestCaseError> {
    let compiled = compile(case);
    let snapshot = snapshot(case, &compiled);
    let headers = http::HeaderMap::new();
    let redirected = |tuple: &&Tuple| {
        let question = case.question(tuple).unwrap();
        let answer = reference::decide_intercepted(&case.rules, &case.intercepts, &question);
        answer.outcome == Outcome::Redirect
    };
    for tuple in case.tuples.iter().filter(redirected) {
        let peer = address(case.identity(tuple, &compiled.addresses).0);
        let subject = address(0);
        let (source, destination) = match tuple.direction {
            Direction::Ingress => (peer, subject),
            Direction::Egress => (subject, peer),
        };
        let connection = snapshot.connection(source, destination, tuple.port);
        for (method, path, authority) in REQUESTS {
            let request = Request {
                method,
                path,
                authority,
                headers: &headers,
            };
            let verdict = connection.judge(tuple.direction, &request);
            prop_assert!(
                verdict.is_some(),
                "a redirect of which the proxy knows nothing: {:?}",
                tuple
            );
            let question = case.question(tuple).unwrap();
            let expected = reference::decide_http(&case.rules, &question, &request);
            let allow = verdict.unwrap().allow;
            prop_assert_eq!(allow, expected, "{} {} {:?}", method, path, tuple);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(Config { cases: 1500, failure_persistence: None, ..Config::default() })]

    #[test]
    fn entries_agree_with_the_plain_evaluator(case in cases(5, 80)) {
        check_shape(&case)?;
        check_entries(&case)?;
    }

    #[test]
    fn requests_agree_with_the_plain_evaluator(case in cases(4, 40)) {
        check_requests(&case)?;
    }
}
