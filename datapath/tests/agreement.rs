//! Three ways of deciding a connection agree, case by case: policies read
//! plainly, their compiled entries under a lookup in plain code, and the eBPF
//! programs with those entries in their map. Needs root.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use proptest::test_runner::{Config, TestCaseError, TestRunner};
use weft_core::model::{Direction, NumericIdentity};
use weft_core::policy::testing::cases::{self, Case, PeerOf, cases};
use weft_core::policy::testing::reference::{self, Outcome};
use weft_core::policy::{
    Compiler, EndpointPolicy, MapEntry, Peer, Peers, Priority, RuleId, RuleTable, Subject, lookup,
};
use weft_datapath::testing::{PolicyProbe, Tuple};
use weft_datapath::{Action, PolicyEntry};

/// 100,000 connections in all.
const POLICIES: u32 = 1250;
const CONNECTIONS: usize = 80;
const PROXY_PORT: u16 = 15001;
const ICMP: u8 = 1;
const SCTP: u8 = 132;
const ECHO_REQUEST: u16 = 8;

/// What has to occur among the connections for their agreement to mean anything.
const OCCUR: [&str; 16] = [
    "allowed by a rule",
    "allowed for want of default deny",
    "denied by a rule",
    "denied by default",
    "redirected",
    "decided by a range of ports",
    "decided by a protocol",
    "decided by a peer alone",
    "an address in a prefix of the rules",
    "an address that a rule excepts",
    "the node itself",
    "another reserved identity",
    "ICMP decided by a rule",
    "SCTP decided by a rule",
    "redirected for a filter",
    "redirected for a filter, and no rule",
];

/// How often each of these occurred.
#[derive(Default)]
struct Seen(RefCell<BTreeMap<&'static str, u32>>);

impl Seen {
    fn note(&self, what: &'static str, occurs: bool) {
        if occurs {
            *self.0.borrow_mut().entry(what).or_default() += 1;
        }
    }

    fn connection(
        &self,
        case: &Case,
        tuple: &cases::Tuple,
        outcome: Outcome,
        entry: Option<&MapEntry>,
    ) {
        let decided = entry.filter(|entry| entry.value.rule != RuleId::NONE);
        let by_rule = decided.is_some();
        let bits = decided.map(|entry| entry.value.prefix_len);
        let is = |wanted| outcome == wanted;
        self.note("allowed by a rule", is(Outcome::Allow) && by_rule);
        self.note(
            "allowed for want of default deny",
            is(Outcome::Allow) && !by_rule,
        );
        self.note("denied by a rule", is(Outcome::Deny) && by_rule);
        self.note("denied by default", is(Outcome::Deny) && !by_rule);
        self.note("redirected", is(Outcome::Redirect));
        self.note(
            "decided by a range of ports",
            bits.is_some_and(|bits| (81..96).contains(&bits)),
        );
        self.note("decided by a protocol", bits == Some(80));
        self.note("decided by a peer alone", bits == Some(72));
        self.note("ICMP decided by a rule", tuple.protocol == ICMP && by_rule);
        self.note("SCTP decided by a rule", tuple.protocol == SCTP && by_rule);
        let intercepted = entry.is_some_and(|entry| entry.value.priority == Priority::INTERCEPT);
        self.note("redirected for a filter", intercepted && by_rule);
        self.note(
            "redirected for a filter, and no rule",
            intercepted && !by_rule,
        );
        match tuple.peer {
            PeerOf::World(address) => {
                let (_, addresses) = case.identities();
                let identity = case.identity(tuple, &addresses);
                let in_prefix = identity != NumericIdentity::WORLD;
                self.note("an address in a prefix of the rules", in_prefix);
                self.note("an address that a rule excepts", is_excepted(case, address));
            }
            PeerOf::Reserved(NumericIdentity::HOST) => self.note("the node itself", true),
            PeerOf::Reserved(_) => self.note("another reserved identity", true),
            PeerOf::Pod(_) => {}
        }
    }
}

fn is_excepted(case: &Case, address: Ipv4Addr) -> bool {
    let sections = case
        .rules
        .iter()
        .flat_map(|rule| [&rule.ingress, &rule.egress]);
    let traffic = sections.flat_map(|section| section.allow.iter().chain(&section.deny));
    let peers = traffic.filter_map(|traffic| match &traffic.peers {
        Peers::Listed(peers) => Some(peers),
        Peers::Unnamed => None,
    });
    let excepts = peers.flatten().filter_map(|peer| match peer {
        Peer::Cidr(cidr) => Some(&cidr.except),
        _ => None,
    });
    excepts
        .flatten()
        .any(|net| net.contains(&IpAddr::V4(address)))
}

fn compile(case: &Case) -> EndpointPolicy {
    let (identities, _) = case.identities();
    let subject = Subject {
        id: Case::SUBJECT,
        labels: &case.pods[0].labels,
        named_ports: &case.pods[0].ports,
        intercepts: &case.intercepts,
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
        let expected = reference::decide_intercepted(&case.rules, &case.intercepts, &plain);
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
        // The port is in the event, and what no policy decided has none.
        let port = match found.action {
            Action::Redirect if rule != RuleId::NONE => PROXY_PORT,
            _ => 0,
        };
        if found.proxy_port != port {
            return Err(TestCaseError::fail(format!(
                "{tuple:?} goes to port {}",
                found.proxy_port
            )));
        }
        seen.connection(case, tuple, expected.outcome, entry);
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
    let seen = seen.0.into_inner();
    let outcomes = &OCCUR[..5];
    let total: u32 = outcomes.iter().filter_map(|what| seen.get(what)).sum();
    assert!(total >= 100_000, "{seen:?}");
    // Otherwise the cases say little.
    for what in OCCUR {
        let times = seen.get(what).copied().unwrap_or_default();
        assert!(times > total / 500, "{what}: {seen:?}");
    }
}
