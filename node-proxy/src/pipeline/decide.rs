//! From a request's head to what becomes of it.

use std::rc::Rc;
use std::sync::Arc;

use http::Version;
use http::request::Parts;

use super::made::Made;
use super::{admit, forward, headers, policy, request_id, route, trace};
use crate::accept::connection::Connection;
use crate::control::config::Config;
use crate::failure::Failure;
use crate::filter::exchange::Changed;
use crate::http::strict;
use crate::identity::Judged;
use crate::settings;
use crate::telemetry::exchange::Decisions;
use crate::upstream::target::Target;

/// What becomes of a request.
#[derive(Debug)]
pub enum Plan {
    /// It is sent on.
    Forward(Target),
    /// Policy denies it.
    Deny,
    /// It is allowed, under another spelling of its path.
    Redirect(String),
    /// It cannot be served.
    Refuse(Failure),
}

impl Plan {
    /// Why it cannot be served, if it cannot.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        match self {
            Self::Refuse(failure) => Some(*failure),
            Self::Forward(_) | Self::Deny | Self::Redirect(_) => None,
        }
    }
}

/// A request that may be decided on.
#[derive(Debug)]
pub struct Entered {
    /// Both ends, and the policies that apply.
    pub judged: Rc<Judged>,
    /// What is left to do about its path.
    pub path: admit::Path,
    /// What is to be recorded of it.
    pub made: Made,
}

/// A request about which there is nothing to decide.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub failure: Failure,
    /// What is to be recorded of it.
    pub made: Made,
}

impl Refused {
    fn new(failure: Failure, made: Made) -> Box<Self> {
        Box::new(Self { failure, made })
    }
}

/// Everything before the decision: who asks whom, and one form of the head.
///
/// # Errors
/// Why there is nothing to decide.
pub fn enter(
    config: &Arc<Config>,
    connection: &Connection,
    head: &mut Parts,
) -> Result<Entered, Box<Refused>> {
    let destination = match route::destination(config, connection) {
        Ok(destination) => destination,
        Err(failure) => return Err(Refused::new(failure, Made::nowhere(connection))),
    };
    let judged = connection.judged(config, destination);
    let trust = judged.trust();
    let admitted = match strict::refusal(head) {
        Some(refusal) => Err(refusal.failure()),
        None => {
            let headers = config.settings.max_headers as usize;
            admit::admit(head, settings::MAX_URI_BYTES, headers)
        }
    };
    headers::sanitise(head, trust, &connection.upgrades);
    let made = Made {
        request_id: request_id::RequestId::of(&mut head.headers, trust),
        trace: trace::Trace::of(&head.headers, trust, config.spans),
        ends: Arc::clone(&judged.ends),
        decisions: Decisions::default(),
        answered: false,
    };
    let path = match admitted {
        Ok(path) => path,
        Err(failure) => return Err(Refused::new(failure, made)),
    };
    match connection.judgeable(&judged) {
        Ok(()) => Ok(Entered { judged, path, made }),
        Err(failure) => Err(Refused::new(failure, made)),
    }
}

impl Entered {
    /// Policy, and where the request goes.
    #[must_use]
    pub fn decide(
        mut self,
        config: &Arc<Config>,
        connection: &Connection,
        head: &mut Parts,
    ) -> (Plan, Made) {
        let plan = match self.judge(head) {
            Some(plan) => plan,
            None => match self.route(config, connection, head) {
                Ok(target) => Plan::Forward(target),
                Err(failure) => Plan::Refuse(failure),
            },
        };
        (plan, self.made)
    }

    /// Judges the request as its head is now; none if it may be sent on.
    pub fn judge(&mut self, head: &mut Parts) -> Option<Plan> {
        self.made.decisions = policy::judge(&self.judged, head);
        if !self.made.decisions.allowed() {
            return Some(Plan::Deny);
        }
        let redirect = self.path == admit::Path::Redirect;
        redirect.then(|| Plan::Redirect(head.uri.to_string()))
    }

    /// Whether policy may say something else of the request, now that filters
    /// have changed so much of it.
    #[must_use]
    pub fn is_stale(&self, head: &Parts, changed: Changed) -> bool {
        match changed {
            Changed::Nothing => false,
            // Fields of HTTP/2 are counted and joined when they are admitted.
            Changed::Headers => {
                head.version >= Version::HTTP_2 || self.judged.policies.reads_headers()
            }
            Changed::Target => true,
        }
    }

    /// Judges the request as filters have changed it; none if it may be sent
    /// on.
    ///
    /// # Errors
    /// What filters made of it is no request that may come in.
    pub fn judge_changed(
        &mut self,
        head: &mut Parts,
        changed: Changed,
        config: &Config,
    ) -> Result<Option<Plan>, Failure> {
        if changed != Changed::Nothing {
            let most = config.settings.max_headers as usize;
            if admit::admit(head, settings::MAX_URI_BYTES, most)? == admit::Path::Redirect {
                return Err(Failure::Malformed("path of a filter"));
            }
        }
        Ok(self.judge(head))
    }

    /// Where an allowed request goes; its head is made ready for that.
    ///
    /// # Errors
    /// [`Failure::MEMORY`]: its source has nothing left for it.
    pub fn route(
        &self,
        config: &Config,
        connection: &Connection,
        head: &mut Parts,
    ) -> Result<Target, Failure> {
        if connection.account().is_full() {
            return Err(Failure::MEMORY);
        }
        let target = route::target(config, connection, &self.judged, head.version);
        forward::prepare(head, &target, self.made.trace.as_ref(), config.spans);
        Ok(target)
    }
}
