//! Three ways of deciding a connection agree, case by case: policies read
//! plainly, their compiled entries under a lookup in plain code, and the eBPF
//! programs with those entries in their map. Needs root.

use std::cell::{Cell, RefCell};

use proptest::test_runner::{Config, TestCaseError, TestRunner};
use weft_core::model::Direction;
use weft_core::policy::testing::cases::{self, Case, cases};
use weft_core::policy::testing::reference::{self, Outcome};
use weft_core::policy::{Compiler, EndpointPolicy, RuleId, RuleTable, Subject, lookup};
use weft_datapath::testing::{PolicyProbe, Tuple};
use weft_datapath::{Action, PolicyEntry};

/// 100,000 connections in all.
const POLICIES: u32 = 1250;
const CONNECTIONS: usize = 80;
const PROXY_PORT: u16 = 15001;
const ICMP: u8 = 1;
const ECHO_REQUEST: u16 = 8;

/// How many connections had each outcome.
#[derive(Default)]
struct Seen {
    allow: Cell<u32>,
    deny: Cell<u32>,
    redirect: Cell<u32>,
}

impl Seen {
    fn count(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Allow => &self.allow,
            Outcome::Deny => &self.deny,
            Outcome::Redirect => &self.redirect,
        };
        counter.set(counter.get() + 1);
    }
}

fn compile(case: &Case) -> EndpointPolicy {
    let (identities, _) = case.identities();
    let subject = Subject {
        id: Case::SUBJECT,
        labels: &case.pods[0].labels,
        named_ports: &case.pods[0].ports,
    };
    Compiler::new(&identities).compile(&subject, &case.rules, &mut RuleTable::default())
}

fn question(case: &Case, tuple: &cases::Tuple) -> Tuple {
    let (_, addresses) = case.identities();
    Tuple {
        endpoint: Case::SUBJECT.0,
        direction: match tuple.direction {
            Direction::Ingress => weft_datapath::Direction::Ingress,
            Direction::Egress => weft_datapath::Direction::Egress,
        },
        peer: case.identity(tuple, &addresses).0,
        protocol: tuple.protocol,
        // No policy names ICMP types: any message that opens a flow will do.
        port: if tuple.protocol == ICMP {
            ECHO_REQUEST
        } else {
            tuple.port
        },
    }
}

fn action(outcome: Outcome) -> Action {
    match outcome {
        Outcome::Allow => Action::Allow,
        Outcome::Deny => Action::Deny,
        Outcome::Redirect => Action::Redirect,
    }
}

fn check(probe: &mut PolicyProbe, case: &Case, seen: &Seen) -> Result<(), TestCaseError> {
    let failed = |error: weft_datapath::Error| TestCaseError::fail(error.to_string());
    let policy = compile(case);
    let entries: Vec<PolicyEntry> = policy
        .entries
        .iter()
        .map(|entry| PolicyEntry::from_compiled(entry, PROXY_PORT))
        .collect();
    let default_deny = (policy.ingress_default_deny, policy.egress_default_deny);
    probe
        .set_policy(Case::SUBJECT.0, &entries, default_deny)
        .map_err(failed)?;
    for tuple in &case.tuples {
        let Some(plain) = case.question(tuple) else {
            return Err(TestCaseError::fail("a connection without ends"));
        };
        let expected = reference::decide(&case.rules, &plain);
        let question = question(case, tuple);
        let peer = weft_core::model::NumericIdentity(question.peer);
        let (direction, protocol) = (tuple.direction, question.protocol);
        let entry = lookup(&policy.entries, direction, peer, protocol, question.port);
        let rule = entry.map_or(RuleId::NONE, |entry| entry.value.rule);
        let found = probe.probe(&question).map_err(failed)?;
        if found.action != action(expected.outcome) || found.rule != rule.0 {
            return Err(TestCaseError::fail(format!(
                "{tuple:?}\n plain: {expected:?}\n entry: {entry:?}\n programs: {found:?}"
            )));
        }
        let port = if found.action == Action::Redirect {
            PROXY_PORT
        } else {
            0
        };
        if found.proxy_port != port {
            return Err(TestCaseError::fail(format!(
                "{tuple:?} goes to port {}",
                found.proxy_port
            )));
        }
        seen.count(expected.outcome);
    }
    Ok(())
}

#[test]
fn policies_compiled_entries_and_programs_agree() {
    let probe = RefCell::new(PolicyProbe::new().unwrap());
    let seen = Seen::default();
    let config = Config {
        cases: POLICIES,
        failure_persistence: None,
        ..Config::default()
    };
    let run = TestRunner::new(config).run(&cases(5, CONNECTIONS), |case| {
        check(&mut probe.borrow_mut(), &case, &seen)
    });
    if let Err(error) = run {
        panic!("{error}");
    }
    let counts = [seen.allow.get(), seen.deny.get(), seen.redirect.get()];
    let total: u32 = counts.iter().sum();
    assert!(total >= 100_000, "{counts:?}");
    // Otherwise the cases say little.
    assert!(counts.iter().all(|count| *count > total / 50), "{counts:?}");
}
