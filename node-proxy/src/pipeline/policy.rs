//! Policy: judged once per direction, on what is really sent.

use std::sync::Arc;

use http::request::Parts;
use weft_core::policy::RuleRef;
use weft_core::policy::http::{Request, Verdict};

use super::headers::authority;
use crate::accept::addr::OriginalDst;
use crate::accept::connection::Connection;
use crate::control::config::Config;
use crate::failure::Failure;
use crate::identity::{Direction, Judged};
use crate::telemetry::exchange::{Decisions, Exchange};

/// What one observation point decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether the request may pass.
    pub allowed: bool,
    /// The rule that decided; none when no rule matched.
    pub rule: Option<Arc<RuleRef>>,
}

impl From<&Verdict<'_>> for Decision {
    fn from(verdict: &Verdict<'_>) -> Self {
        Self {
            allowed: verdict.allow,
            rule: verdict.rule.cloned(),
        }
    }
}

/// Judges a request: where it leaves its source, and then, if it may, where
/// it arrives. Headers are changed as the rules ask for only when it may pass
/// both.
pub fn judge(judged: &Judged, head: &mut Parts) -> Decisions {
    let request = request(head);
    let egress = judged.policies.judge(Direction::Egress, &request);
    let denied = egress.as_ref().is_some_and(|verdict| !verdict.allow);
    let ingress = if denied {
        None
    } else {
        judged.policies.judge(Direction::Ingress, &request)
    };
    let decisions = Decisions {
        egress: egress.as_ref().map(Decision::from),
        ingress: ingress.as_ref().map(Decision::from),
    };
    if decisions.allowed() {
        for verdict in [egress, ingress].into_iter().flatten() {
            verdict.apply(&mut head.headers);
        }
    }
    decisions
}

/// Judges a request that was allowed before by `config`.
///
/// # Errors
/// Why it must end: [`Failure::Revoked`] when it is not allowed any more, and
/// what [`Connection::judgeable`] says.
pub fn again(
    config: &Arc<Config>,
    connection: &Connection,
    exchange: &Exchange,
) -> Result<(), Failure> {
    let destination = OriginalDst(exchange.ends.destination.address);
    let judged = connection.judged(config, destination);
    let then = &exchange.ends;
    let now = &judged.ends;
    if now.source.endpoint != then.source.endpoint
        || now.destination.endpoint != then.destination.endpoint
    {
        // Another pod has the address now, or none: nothing that was decided
        // for the old one holds.
        return Err(Failure::Revoked);
    }
    connection.judgeable(&judged)?;
    let request = request(&exchange.head);
    let denied = [Direction::Egress, Direction::Ingress]
        .into_iter()
        .filter_map(|direction| judged.policies.judge(direction, &request))
        .any(|verdict| !verdict.allow);
    if denied {
        Err(Failure::Revoked)
    } else {
        Ok(())
    }
}

fn request(head: &Parts) -> Request<'_> {
    Request {
        method: head.method.as_str(),
        path: head
            .uri
            .path_and_query()
            .map_or("/", http::uri::PathAndQuery::as_str),
        authority: authority(head),
        headers: &head.headers,
    }
}
