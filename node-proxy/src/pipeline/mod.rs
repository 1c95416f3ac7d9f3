//! A request's way through the proxy, from its head to its record.
//!
//! Each stage has a file of its own; this one is the order. Policy is judged
//! on the request as it is forwarded, once per direction, with the newest
//! snapshot.

pub mod admit;
pub mod compact;
pub mod decide;
pub mod filtered;
pub mod forward;
pub mod headers;
pub mod inflight;
pub mod made;
pub mod policy;
pub mod record;
pub mod request_id;
pub mod route;
pub mod send;
pub mod trace;
pub mod tunnel;

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::request::Parts;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use crate::accept::connection::{Connection, Running};
use crate::failure::Failure;
use crate::http::body::{ClientBody, RequestBody, ResponseBody};
use crate::http::respond::{self, Dialect};
use crate::upstream::target::Protocol;

use self::decide::Plan;
use self::record::Recorder;

/// Serves one request. Every failure is answered; an `Err` would tear the
/// connection down without a word.
///
/// # Errors
/// None today: the type is what the HTTP server asks for.
pub fn handle(
    connection: Rc<Connection>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<ResponseBody>, Failure>> {
    let (mut head, body) = request.into_parts();
    // Now, and not when the future is polled: in between the server looks for
    // more to read.
    if Dialect::of(&head).http1 {
        compact::compact(&mut head);
    }
    // So is the request: of many that come at once each must count before the
    // next is looked at.
    let running = connection.begin(&head);
    serve(connection, running, head, body)
}

async fn serve(
    connection: Rc<Connection>,
    running: Running,
    mut head: Parts,
    mut body: Incoming,
) -> Result<Response<ResponseBody>, Failure> {
    let started = Instant::now();
    let config = connection.worker.config();
    let upgraded = head.extensions.remove::<OnUpgrade>();
    let dialect = Dialect::of(&head);

    let mut runs = None;
    let (plan, made) = match decide::enter(&config, &connection, &mut head) {
        Ok(entered) if entered.judged.policies.chain().is_some() => {
            match filtered::at_once(&connection, &running.request, &config, entered, head, body) {
                Ok(past) => {
                    (head, body, runs) = (past.head, past.body, past.runs);
                    (past.plan, past.made)
                }
                Err(met) => {
                    let arrival = filtered::Arrival {
                        connection,
                        running,
                        config,
                        upgraded,
                        started,
                        dialect,
                    };
                    // Apart, since its state is large and few requests stay with filters.
                    return Ok(Box::pin(arrival.serve(*met)).await);
                }
            }
        }
        Ok(entered) => entered.decide(&config, &connection, &mut head),
        Err(refused) => (Plan::Refuse(refused.failure), refused.made),
    };
    let memory = running.lend();
    let exchange = made.exchange(head, started, plan.failure(), memory, runs);
    running.request.decided(Arc::clone(&exchange));
    let mut recorder = Recorder::decided(&connection.worker, running, exchange);
    let server = config.server.as_ref();

    let answer = match plan {
        Plan::Deny => respond::denied(dialect, server),
        Plan::Redirect(location) => respond::redirect(&location, server),
        Plan::Refuse(failure) => {
            recorder.note(failure);
            respond::failed(failure, dialect, server)
        }
        Plan::Forward(target) => {
            let queued = target.protocol == Protocol::Http2;
            let request = Rc::clone(&recorder.running().request);
            let body = ClientBody::new(body, request, Rc::clone(&connection));
            let body = RequestBody::client(body, queued);
            match send::proceed(&connection, &target, recorder, body, upgraded, server).await {
                Ok(response) => return Ok(response),
                Err((failure, returned)) => {
                    recorder = returned;
                    recorder.note(failure);
                    respond::failed(failure, dialect, server)
                }
            }
        }
    };
    Ok(forward::own(answer, recorder))
}
