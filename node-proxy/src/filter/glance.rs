//! The first look that filters take at a request, at its head. Nearly all of
//! them are done with it then: what is needed to go on with a request is made
//! only for those that are not.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use weft_core::filter::Step as Place;
use weft_wasm_host::{Fault, Step};

use super::exchange::{Known, Lent};
use super::fetch::Asker;
use super::hub::{Hub, Opened};
use super::run::{Outcome, Run, USUAL};
use crate::accept::worker::Worker;
use crate::control::config::Config;

/// How far a request's head has come at once.
#[derive(Debug, Default)]
pub struct Glance {
    /// What those filters did that let all of the exchange pass, in their order.
    pub passed: SmallVec<[Run; USUAL]>,
    /// The next one has looked at the head, and goes on with the exchange.
    pub(super) stays: Option<Staying>,
}

/// A filter that is not done with an exchange at its head.
#[derive(Debug)]
pub(super) struct Staying {
    pub(super) opened: Opened,
    pub(super) began: Instant,
    pub(super) spent: Duration,
    /// What it says of the head.
    pub(super) step: Result<Step, Fault>,
}

/// What a filter made of the head.
pub(super) enum Look {
    /// It lets all of the exchange pass.
    Passed {
        /// CPU time of the call.
        spent: Duration,
    },
    /// It goes on with the exchange.
    Stays(Staying),
}

impl Glance {
    /// Shows filters the head of a request, as far as they let it pass now.
    pub fn at(
        worker: &Rc<Worker>,
        config: &Config,
        steps: &[Place],
        known: impl Fn() -> Arc<Known>,
        lent: &mut Option<Box<Lent>>,
        end: bool,
    ) -> Self {
        let mut glance = Self {
            passed: SmallVec::new(),
            stays: None,
        };
        for step in steps {
            let (Some((node, spec)), Some(exchange)) = (config.filter(step), &mut *lent) else {
                break;
            };
            exchange.direction = step.direction;
            let began = Instant::now();
            let asker = || Asker {
                known: known(),
                direction: step.direction,
            };
            match Hub::look(worker, node, spec, asker, (began, end), lent) {
                Some(Look::Passed { spent }) => glance.passed.push(Run {
                    filter: Arc::clone(&node.name),
                    phase: step.phase,
                    began,
                    spent,
                    calls: 1,
                    outcome: Outcome::Passed,
                }),
                Some(Look::Stays(staying)) => {
                    glance.stays = Some(staying);
                    break;
                }
                None => break,
            }
        }
        glance
    }

    /// Whether a filter has seen the head.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        !self.passed.is_empty() || self.stays.is_some()
    }
}
