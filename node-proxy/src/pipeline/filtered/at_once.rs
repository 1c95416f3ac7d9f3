//! The head of a request that meets filters. Nearly all of them are done with a
//! request when they have seen it: then it goes on as if there were none.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use http::request::Parts;
use hyper::body::Incoming;
use weft_core::filter::Phase;

use crate::accept::connection::Connection;
use crate::control::config::Config;
use crate::filter::drive::Drive;
use crate::filter::exchange::{Changed, Known};
use crate::filter::run::Runs;
use crate::http::body::ClientBody;
use crate::pipeline::decide::{Entered, Plan};
use crate::pipeline::inflight::InFlight;
use crate::pipeline::made::Made;

/// A request that no filter looks at any more.
#[derive(Debug)]
pub struct Past {
    /// What becomes of it.
    pub plan: Plan,
    /// What is to be recorded of it.
    pub made: Made,
    /// Its head, as filters left it.
    pub head: Parts,
    /// Its body, of which nothing was read.
    pub body: Unread,
    /// What filters did to it.
    pub runs: Option<Runs>,
}

/// A request's body before anybody has read of it.
#[derive(Debug)]
pub enum Unread {
    /// As it came.
    Fresh(Incoming),
    /// Filters could have read it.
    Met(ClientBody),
}

impl Unread {
    /// The body, for somebody who reads it.
    #[must_use]
    pub fn read(self, request: &Rc<InFlight>, connection: &Rc<Connection>) -> ClientBody {
        match self {
            Self::Fresh(body) => ClientBody::new(body, Rc::clone(request), Rc::clone(connection)),
            Self::Met(body) => body,
        }
    }
}

/// A request that is still with its filters.
#[derive(Debug)]
pub struct Met {
    /// Who asks whom.
    pub entered: Entered,
    /// Its way through the filters, as far as it has come.
    pub drive: Drive,
    /// Policy has allowed it, as it came.
    pub judged: bool,
}

/// Shows filters the head of a request, those that come behind policy once it
/// is allowed.
///
/// # Errors
/// The request, where a filter wants to see more of it or of its answer, takes
/// its time, or stops it.
pub fn at_once(
    connection: &Rc<Connection>,
    request: &Rc<InFlight>,
    config: &Arc<Config>,
    mut entered: Entered,
    mut head: Parts,
    body: Unread,
) -> Result<Past, Box<Met>> {
    let chain = entered.judged.policies.chain();
    let first = chain.and_then(|chain| chain.steps().first());
    let judged = first.is_none_or(|step| step.phase > Phase::BeforePolicy);
    if judged && let Some(plan) = entered.judge(&mut head) {
        return Ok(Past {
            plan,
            made: entered.made,
            head,
            body,
            runs: None,
        });
    }
    let body = body.read(request, connection);
    let mut drive = drive(connection, config, &entered, head, body);
    if judged {
        drive.decided(entered.made.decisions.clone());
        if let Some((head, body, changed, runs)) = through(&mut drive) {
            return Ok(past(
                connection,
                config,
                entered,
                (head, body, changed, runs),
            ));
        }
    }
    Err(Box::new(Met {
        entered,
        drive,
        judged,
    }))
}

fn drive(
    connection: &Rc<Connection>,
    config: &Arc<Config>,
    entered: &Entered,
    head: Parts,
    body: ClientBody,
) -> Drive {
    let known = Known {
        config: Arc::clone(config),
        ends: Arc::clone(&entered.made.ends),
        request_id: entered.made.request_id.clone(),
        trace: entered.made.trace.clone(),
        account: Arc::clone(connection.account()),
    };
    Drive::new(
        &connection.worker,
        config,
        &entered.judged,
        known,
        head,
        body,
    )
}

type Left = (Parts, ClientBody, Changed, Runs);

/// The request, if its head passes all filters now and none of them looks at
/// anything more.
fn through(drive: &mut Drive) -> Option<Left> {
    let filters = drive.up_to(Phase::Upstream);
    // Who has to wait asks again, in a moment and with a task to be woken.
    let mut context = Context::from_waker(Waker::noop());
    match drive.poll_request(&mut context, filters) {
        Poll::Ready(Ok(())) => drive.leave_all(),
        Poll::Ready(Err(stop)) => {
            drive.stop_at(stop);
            None
        }
        Poll::Pending => None,
    }
}

fn past(
    connection: &Rc<Connection>,
    config: &Arc<Config>,
    mut entered: Entered,
    (mut head, body, changed, runs): Left,
) -> Past {
    let judged = match entered.is_stale(&head, changed) {
        true => entered.judge_changed(&mut head, changed, config),
        false => Ok(None),
    };
    let plan = match judged {
        Ok(Some(plan)) => plan,
        Ok(None) => match entered.route(config, connection, &mut head) {
            Ok(target) => Plan::Forward(target),
            Err(failure) => Plan::Refuse(failure),
        },
        Err(failure) => Plan::Refuse(failure),
    };
    Past {
        plan,
        made: entered.made,
        head,
        body: Unread::Met(body),
        runs: Some(runs),
    }
}
