//! The head of a request that meets filters. Nearly all of them are done with a
//! request when they have seen it: then it goes on as if there were none.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;

use http::request::Parts;
use hyper::body::{Body, Incoming};
use weft_core::filter::Phase;

use crate::accept::connection::Connection;
use crate::control::config::Config;
use crate::filter::drive::Drive;
use crate::filter::exchange::{Changed, Known, Lent};
use crate::filter::glance::Glance;
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
    pub body: Incoming,
    /// What filters did to it.
    pub runs: Option<Runs>,
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
    body: Incoming,
) -> Result<Past, Box<Met>> {
    let whose = Rc::clone(&entered.judged);
    let chain = whose.policies.chain();
    let steps = chain.map_or(&[][..], |chain| chain.steps());
    let judged = steps
        .first()
        .is_none_or(|step| step.phase > Phase::BeforePolicy);
    if judged && let Some(plan) = entered.judge(&mut head) {
        return Ok(Past {
            plan,
            made: entered.made,
            head,
            body,
            runs: None,
        });
    }
    let worker = &connection.worker;
    let mut lent = Lent::new(known_of(connection, config, &entered), head);
    if judged {
        lent.decided(entered.made.decisions.clone());
    }
    let mut lent = Some(Box::new(lent));
    // For those that are not done at once.
    let shared = OnceCell::new();
    let share = || Arc::new(known_of(connection, config, &entered));
    let known = || Arc::clone(shared.get_or_init(share));
    let mut glance = Glance::default();
    if judged {
        glance = Glance::at(
            worker,
            config,
            steps,
            known,
            &mut lent,
            body.is_end_stream(),
        );
        if glance.passed.len() == steps.len()
            && let Some(lent) = &mut lent
            && let Some(head) = lent.take()
        {
            let runs = Runs {
                runs: glance.passed,
                marks: std::mem::take(&mut lent.marks),
            };
            return Ok(past(
                connection,
                config,
                entered,
                (head, lent.changed),
                body,
                runs,
            ));
        }
    }
    let client = ClientBody::new(body, Rc::clone(request), Rc::clone(connection));
    Err(Box::new(Met {
        drive: Drive::new(worker, config, steps, known(), lent, glance, client),
        entered,
        judged,
    }))
}

fn known_of(connection: &Connection, config: &Arc<Config>, entered: &Entered) -> Known {
    Known {
        config: Arc::clone(config),
        ends: Arc::clone(&entered.made.ends),
        request_id: entered.made.request_id.clone(),
        trace: entered.made.trace.clone(),
        account: Arc::clone(connection.account()),
    }
}

fn past(
    connection: &Connection,
    config: &Arc<Config>,
    mut entered: Entered,
    (mut head, changed): (Parts, Changed),
    body: Incoming,
    runs: Runs,
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
        body,
        runs: Some(runs),
    }
}
