//! From a request's head to what becomes of it.

use std::sync::Arc;

use http::request::Parts;

use super::made::Made;
use super::{admit, forward, headers, policy, request_id, route, trace};
use crate::accept::connection::Connection;
use crate::control::config::Config;
use crate::failure::Failure;
use crate::http::strict;
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

/// Everything up to the decision, and what is to be recorded of it.
pub fn decide(config: &Arc<Config>, connection: &Connection, head: &mut Parts) -> (Plan, Made) {
    let destination = match route::destination(config, connection) {
        Ok(destination) => destination,
        Err(failure) => return (Plan::Refuse(failure), Made::nowhere(connection)),
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
    let mut made = Made {
        request_id: request_id::RequestId::of(&mut head.headers, trust),
        trace: trace::Trace::of(&head.headers, trust, config.spans),
        ends: Arc::clone(&judged.ends),
        decisions: Decisions::default(),
    };
    let path = match admitted {
        Ok(path) => path,
        Err(failure) => return (Plan::Refuse(failure), made),
    };
    if let Err(failure) = connection.judgeable(&judged) {
        return (Plan::Refuse(failure), made);
    }
    made.decisions = policy::judge(&judged, head);
    if !made.decisions.allowed() {
        return (Plan::Deny, made);
    }
    if path == admit::Path::Redirect {
        return (Plan::Redirect(head.uri.to_string()), made);
    }
    if connection.account().is_full() {
        return (Plan::Refuse(Failure::MEMORY), made);
    }
    let target = route::target(config, connection, &judged, head.version);
    forward::prepare(head, &target, made.trace.as_ref(), config.spans);
    (Plan::Forward(target), made)
}
