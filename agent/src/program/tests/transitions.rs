//! Policies and filters change while the proxy answers, refuses, lags and comes back.
//!
//! Kernel and proxy together never let through what neither the policies in
//! force nor those just before do, and deny what both let through no longer
//! than until the proxy has answered. Looked at after every write of the
//! kernel, for every direction by itself.

mod kinds;
mod maps;
mod sets;
mod world;

use std::collections::HashMap;
use std::time::Duration;

use axum::http::HeaderMap;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError};
use weft_core::model::Direction;
use weft_core::policy::http::Request;
use weft_core::policy::testing::cases::{Case, PeerOf, Tuple, cases};
use weft_core::policy::testing::reference::{self, Outcome, Question, Who};

use crate::plan::PATIENCE;
use sets::INTERCEPTED;
use world::{Fate, LOCAL, World};

const TCP: u8 = 6;

/// Something that happens.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The policies are these from now on.
    Policies(u32),
    /// The newest snapshot is sent, if it was not.
    Send,
    /// The proxy looks at the next snapshot that it was sent.
    Take(Fate),
    /// What could not be stored can.
    Store,
    /// The agent hears the next answer.
    Hear,
    /// Time passes.
    Wait(u64),
    /// The stream between the two breaks.
    Disconnect,
    /// It is opened again.
    Connect,
    /// The proxy is killed and comes back with what it has stored.
    RestartProxy,
    /// The agent is killed and comes back.
    RestartAgent,
    /// Both have time to finish what they do.
    Settle,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let fate = prop_oneof![
        4 => Just(Fate::Accept),
        1 => Just(Fate::Refuse),
        1 => Just(Fate::Unstored),
    ];
    let intercepted = prop_oneof![Just(0), Just(INTERCEPTED)];
    let step = prop_oneof![
        8 => (0_u32..32, intercepted).prop_map(|(rules, also)| Step::Policies(rules | also)),
        6 => Just(Step::Send),
        6 => fate.prop_map(Step::Take),
        1 => Just(Step::Store),
        5 => Just(Step::Hear),
        3 => (1_u64..60).prop_map(Step::Wait),
        1 => Just(Step::Disconnect),
        2 => Just(Step::Connect),
        1 => Just(Step::RestartProxy),
        1 => Just(Step::RestartAgent),
        4 => Just(Step::Settle),
    ];
    vec(step, 10..40)
}

const REQUESTS: [(&str, &str, &str); 4] = [
    ("GET", "/", "deathstar"),
    ("POST", "/v1/request-landing", "death.default"),
    ("HEAD", "/v2/x", "x"),
    ("PUT", "/v1/exhaust-port", "deathstar"),
];

/// What is asked about: a connection of the case, and a request on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Probe {
    tuple: usize,
    request: usize,
}

/// What the policies say of a probe's connection in one direction, and whether
/// its request passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    outcome: Outcome,
    passes: bool,
}

/// The plain evaluator, asked each thing once.
struct Oracle<'c> {
    case: &'c Case,
    said: HashMap<(u32, Direction, Probe), Said>,
}

impl<'c> Oracle<'c> {
    fn new(case: &'c Case) -> Self {
        Self {
            case,
            said: HashMap::new(),
        }
    }

    fn ask(&mut self, policies: u32, direction: Direction, probe: Probe) -> Said {
        let case = self.case;
        *self
            .said
            .entry((policies, direction, probe))
            .or_insert_with(|| {
                let tuple = &case.tuples[probe.tuple];
                let question = question(case, tuple, direction);
                let rules = sets::picked(case, policies);
                let intercepts = sets::intercepts(case, policies);
                let outcome = reference::decide_intercepted(&rules, intercepts, &question).outcome;
                let (method, path, authority) = REQUESTS[probe.request];
                let headers = HeaderMap::new();
                let request = Request {
                    method,
                    path,
                    authority,
                    headers: &headers,
                };
                let judged = || reference::decide_http(&rules, &question, &request);
                let passes = match outcome {
                    Outcome::Deny => false,
                    Outcome::Allow => true,
                    Outcome::Redirect => {
                        let (direction, port) = (question.direction, question.port);
                        let mut filters = intercepts.iter();
                        let filtered = filters.any(|one| one.is_on(direction, port));
                        judged() && (!filtered || sets::guard(method))
                    }
                };
                Said { outcome, passes }
            })
    }
}

/// What a connection asks of the end that has this direction.
fn question<'c>(case: &'c Case, tuple: &Tuple, direction: Direction) -> Question<'c> {
    let question = case.question(tuple).expect("a connection with ends");
    if direction == tuple.direction {
        return question;
    }
    let (PeerOf::Pod(peer), subject) = (tuple.peer, &case.pods[0]) else {
        panic!("only pods have policies: {tuple:?}");
    };
    Question {
        direction,
        subject: &case.pods[peer].labels,
        subject_ports: &case.pods[peer].ports,
        peer: Who::Pod {
            labels: &subject.labels,
            ports: &subject.ports,
        },
        ..question
    }
}

/// The directions that this node enforces: the subject's, and that of a peer
/// that is a pod of the node too.
fn directions(tuple: &Tuple) -> Vec<Direction> {
    let other = match tuple.direction {
        Direction::Ingress => Direction::Egress,
        Direction::Egress => Direction::Ingress,
    };
    match tuple.peer {
        PeerOf::Pod(peer) if peer < LOCAL => vec![tuple.direction, other],
        _ => vec![tuple.direction],
    }
}

/// When something passes.
#[derive(Clone, Copy)]
struct Moment {
    /// Until then it does.
    until: Duration,
    /// The kernel was told all of the newest policies: before that they are
    /// not in force.
    told: bool,
}

/// One run: the world, and what is known of its past.
struct Run<'c> {
    world: World<'c>,
    oracle: Oracle<'c>,
    probes: Vec<Probe>,
    /// The policies so far, each with the time at which others came.
    past: Vec<(u32, Option<Duration>)>,
    /// Nothing is on its way and everything is as wanted.
    settled: bool,
    /// The policies that were settled before the one change since, while
    /// nothing else happened than that the proxy is about to answer.
    calm: Option<(u32, Duration)>,
}

impl<'c> Run<'c> {
    fn new(case: &'c Case) -> Self {
        let tuples = case.tuples.iter().enumerate();
        // A pod does not meet itself on the wire.
        let tuples = tuples.filter(|(_, tuple)| !matches!(tuple.peer, PeerOf::Pod(0)));
        let probes = tuples.map(|(tuple, _)| Probe {
            tuple,
            request: tuple % REQUESTS.len(),
        });
        Self {
            probes: probes.collect(),
            world: World::new(case),
            oracle: Oracle::new(case),
            past: vec![(0, None)],
            settled: false,
            calm: None,
        }
    }

    fn policies(&self) -> u32 {
        self.past.last().map_or(0, |(policies, _)| *policies)
    }

    fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        let calm = match step {
            Step::Send | Step::Take(Fate::Accept) | Step::Hear | Step::Settle => true,
            Step::Wait(by) => self.calm.is_some_and(|(_, since)| {
                self.world.now + Duration::from_millis(by) < since + PATIENCE
            }),
            _ => false,
        };
        if !calm {
            self.calm = None;
        }
        match step {
            Step::Policies(policies) => {
                if self.settled {
                    self.calm = Some((self.policies(), self.world.now));
                }
                if let Some((_, until)) = self.past.last_mut() {
                    *until = Some(self.world.now);
                }
                self.past.push((policies, None));
                self.world.policies(policies);
            }
            Step::Send => self.world.send(),
            Step::Take(fate) => self.world.take(fate),
            Step::Store => self.world.store(),
            Step::Hear => self.world.hear(),
            Step::Wait(by) => self.world.wait(Duration::from_millis(by)),
            Step::Disconnect => self.world.disconnect(),
            Step::Connect => {
                while self.world.is_offered() {
                    self.take(Step::Take(Fate::Accept))?;
                }
                self.world.connect();
            }
            Step::RestartProxy => self.world.restart_proxy(),
            Step::RestartAgent => self.world.restart_agent(),
            Step::Settle => self.settle()?,
        }
        self.check(step)?;
        self.settled = matches!(step, Step::Settle);
        Ok(())
    }

    fn settle(&mut self) -> Result<(), TestCaseError> {
        for _attempt in 0..2 {
            if !self.world.is_connected() {
                self.take(Step::Connect)?;
            }
            self.take(Step::Send)?;
            while self.world.is_offered() {
                self.take(Step::Take(Fate::Accept))?;
            }
            self.take(Step::Store)?;
            while self.world.is_answered() {
                self.take(Step::Hear)?;
            }
            if self.world.is_current() {
                return Ok(());
            }
            // What was refused is not sent again before that.
            self.take(Step::Disconnect)?;
        }
        Err(TestCaseError::fail("the proxy is not told the newest"))
    }

    fn check(&mut self, step: Step) -> Result<(), TestCaseError> {
        let states = self.world.states();
        for (index, (until, state)) in states.iter().enumerate() {
            let told = index + 1 == states.len() || !matches!(step, Step::Policies(_));
            for probe in self.probes.clone() {
                let tuple = &self.oracle.case.tuples[probe.tuple];
                if !self.world.passes(state, tuple, REQUESTS[probe.request]) {
                    self.check_denied(step, probe)?;
                    continue;
                }
                for direction in directions(tuple) {
                    let moment = Moment {
                        until: *until,
                        told,
                    };
                    self.check_passing(step, moment, direction, probe)?;
                }
            }
        }
        Ok(())
    }

    /// Something passes: the policies in force have to say so, or earlier ones
    /// that may still count.
    fn check_passing(
        &mut self,
        step: Step,
        moment: Moment,
        direction: Direction,
        probe: Probe,
    ) -> Result<(), TestCaseError> {
        let (mut never_denied, mut always_redirected) = (true, true);
        for index in (0..self.past.len()).rev() {
            let (policies, until) = self.past[index];
            let said = self.oracle.ask(policies, direction, probe);
            let newest = index + 1 == self.past.len();
            let recent = until.is_some_and(|until| moment.until <= until + PATIENCE);
            let counts = moment.told || !newest;
            always_redirected &= !counts || said.outcome == Outcome::Redirect;
            let last_good = always_redirected && self.world.proxy_has(policies);
            if said.passes && (newest || never_denied && recent || last_good) {
                return Ok(());
            }
            never_denied &= !counts || said.outcome != Outcome::Deny;
        }
        Err(self.failure("is let through", step, Some(direction), probe))
    }

    /// Something is denied: not so what is allowed once all is settled, nor
    /// what was allowed before and still is while the proxy is waited for.
    fn check_denied(&mut self, step: Step, probe: Probe) -> Result<(), TestCaseError> {
        let before = match (step, self.calm) {
            (Step::Settle, _) => self.policies(),
            (_, Some((before, _))) => before,
            (_, None) => return Ok(()),
        };
        let directions = directions(&self.oracle.case.tuples[probe.tuple]);
        let allowed = [before, self.policies()].into_iter().all(|policies| {
            let mut directions = directions.iter();
            directions.all(|direction| self.oracle.ask(policies, *direction, probe).passes)
        });
        match allowed {
            true => Err(self.failure("is denied", step, None, probe)),
            false => Ok(()),
        }
    }

    fn failure(
        &self,
        what: &str,
        step: Step,
        direction: Option<Direction>,
        probe: Probe,
    ) -> TestCaseError {
        let tuple = &self.oracle.case.tuples[probe.tuple];
        TestCaseError::fail(format!(
            "{tuple:?} {:?} {what} ({direction:?}) after {step:?}, policies so far: {:?}\n{}",
            REQUESTS[probe.request],
            self.past,
            self.world.describe(),
        ))
    }
}

fn check(case: &Case, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut run = Run::new(case);
    run.take(Step::Connect)?;
    run.take(Step::Settle)?;
    for step in steps {
        run.take(*step)?;
    }
    // Whatever happened, it ends well.
    run.take(Step::Settle)
}

proptest! {
    #![proptest_config(Config { cases: 300, failure_persistence: None, ..Config::default() })]

    #[test]
    fn kernel_and_proxy_never_let_through_what_no_policies_do(
        case in cases(5, 24), steps in steps(),
    ) {
        check(&case, &steps)?;
    }
}

/// Every way between no rules, plain ones and ones for the proxy, in one
/// direction, the other, and both.
#[test]
fn every_transition_is_safe_in_one_direction_and_in_both() {
    let case = kinds::case();
    let kinds = kinds::kinds();
    let proxies: [&[Step]; 5] = [
        // It answers in time, late, never; it comes back with what it had.
        &[Step::Send, Step::Take(Fate::Accept), Step::Hear],
        &[
            Step::Wait(50),
            Step::Send,
            Step::Wait(50),
            Step::Take(Fate::Accept),
            Step::Wait(50),
            Step::Hear,
        ],
        &[
            Step::Send,
            Step::Take(Fate::Refuse),
            Step::Hear,
            Step::Wait(90),
        ],
        &[
            Step::Send,
            Step::Take(Fate::Unstored),
            Step::Hear,
            Step::Wait(90),
            Step::Store,
        ],
        &[
            Step::Send,
            Step::Take(Fate::Unstored),
            Step::RestartProxy,
            Step::Wait(90),
            Step::Connect,
        ],
    ];
    for before in &kinds {
        for after in &kinds {
            for proxy in proxies {
                let mut steps = vec![Step::Policies(*before), Step::Settle];
                steps.push(Step::Policies(*after));
                steps.extend(proxy);
                // And back, whatever has become of it.
                steps.push(Step::Policies(*before));
                steps.extend(proxy);
                if let Err(error) = check(&case, &steps) {
                    panic!("{before:#b} {after:#b} {steps:?}: {error}");
                }
            }
        }
    }
}
