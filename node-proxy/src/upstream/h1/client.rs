//! The HTTP/1.1 connections of one worker.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Response;
use http::request::Parts;
use http_body::Body;

use super::connection::Connection;
use super::exchange::Exchange;
use super::head::{Asked, Limits};
use super::response::{Home, ResponseBody};
use crate::failure::Failure;
use crate::memory::{Account, Held};
use crate::upstream::budget::Budget;
use crate::upstream::connect;
use crate::upstream::target::{ByTarget, Target};

/// Memory of an unused connection.
const MEMORY: usize = 4 * 1024;

/// How a worker's connections are opened, kept and bounded.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Opening them.
    pub connect: connect::Options,
    /// How long an unused one is kept.
    pub idle_timeout: Duration,
    /// How many unused ones are kept for one target.
    pub max_idle_per_target: usize,
    /// Largest head of a response, in bytes.
    pub max_head_bytes: usize,
    /// Most header fields of a response.
    pub max_headers: usize,
}

/// What the connections of a worker are doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Kept for a next request.
    pub idle: usize,
    /// Serving a request.
    pub active: usize,
}

/// Sends requests; cheap to clone, all clones share their connections.
#[derive(Debug, Clone)]
pub struct Client(Rc<Pool>);

#[derive(Debug)]
pub(super) struct Pool {
    options: Options,
    budget: Budget,
    /// Most recently used last: those that are needed stay warm, the others
    /// reach their idle timeout.
    idle: RefCell<ByTarget<Vec<Idle>>>,
    /// When the last sweep was: what idle timeouts are counted from, since
    /// they need no better clock.
    swept: Cell<Instant>,
    pub(super) active: Cell<usize>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

impl Client {
    /// A client without connections, which opens them within `budget`.
    #[must_use]
    pub fn new(options: Options, budget: Budget) -> Self {
        Self(Rc::new(Pool {
            options,
            budget,
            idle: RefCell::default(),
            swept: Cell::new(Instant::now()),
            active: Cell::new(0),
        }))
    }

    /// Sends one request and waits for the head of its response. The request's
    /// body is polled here and, while it lasts, by the response's body. What
    /// that takes is charged to `account`.
    ///
    /// `head` must be ready to be sent: origin form, `host` present, nothing
    /// hop by hop but an upgrade. Framing fields are derived from the body.
    ///
    /// # Errors
    /// Any upstream [`Failure`], or the request body's own.
    pub async fn send<B>(
        &self,
        target: &Target,
        head: &Parts,
        body: B,
        account: &Arc<Account>,
    ) -> Result<Response<ResponseBody<B>>, Failure>
    where
        B: Body<Error = Failure> + Unpin,
    {
        let asked = Asked::by(head);
        let limits = self.0.limits();
        let connection = match self.0.pop(target) {
            Some(connection) => connection,
            // Rare enough to keep its state out of every request's future.
            None => Box::pin(self.0.dial(target, account)).await?,
        };
        let memory = Held::new(account, 0);
        let mut exchange = Box::new(Exchange::new(connection, head, body, memory));
        loop {
            let answer = poll_fn(|context| exchange.poll_head(context, asked, limits)).await;
            let failure = match answer {
                Ok(answer) => {
                    let home = Home::new(&self.0, *target);
                    return Ok(ResponseBody::respond(exchange, answer, home));
                }
                Err(failure) => failure,
            };
            let idempotent = head.method.is_idempotent();
            if !failure.may_retry(idempotent, exchange.is_replayable()) {
                return Err(failure);
            }
            // One that is opened for this request cannot be stale.
            let connection = Box::pin(self.0.dial(target, account)).await?;
            exchange.move_to(connection, head);
        }
    }

    /// Closes connections that nobody used for a while. To be called about
    /// once a second.
    pub fn sweep(&self, now: Instant) {
        let timeout = self.0.options.idle_timeout;
        self.0.swept.set(now);
        self.0.idle.borrow_mut().retain(|_target, idle| {
            idle.retain_mut(|one| {
                now.saturating_duration_since(one.since) <= timeout && one.connection.is_quiet()
            });
            !idle.is_empty()
        });
    }

    /// What the connections are doing.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        PoolStats {
            idle: self.0.idle.borrow().values().map(Vec::len).sum(),
            active: self.0.active.get(),
        }
    }
}

impl Pool {
    fn limits(&self) -> Limits {
        Limits {
            head_bytes: self.options.max_head_bytes,
            headers: self.options.max_headers,
        }
    }

    fn pop(&self, target: &Target) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(target)?;
        while let Some(mut one) = connections.pop() {
            if one.connection.is_quiet() {
                return Some(one.connection);
            }
        }
        None
    }

    async fn dial(&self, target: &Target, account: &Arc<Account>) -> Result<Connection, Failure> {
        let take = || {
            let memory = Held::new(account, MEMORY);
            self.budget.take(target.source, target.identity, memory)
        };
        let permit = match take() {
            Ok(permit) => permit,
            Err(full) if self.evict(target) => take().map_err(|_| full)?,
            Err(full) => return Err(full),
        };
        let stream = connect::connect(target, &self.options.connect).await?;
        Ok(Connection::new(stream, permit))
    }

    /// Makes room for a connection of a source that has all of its own open,
    /// by closing the one it has not used for the longest time.
    fn evict(&self, wanted: &Target) -> bool {
        let mut idle = self.idle.borrow_mut();
        let oldest = idle
            .iter()
            .filter(|(target, _)| {
                (target.source, target.identity) == (wanted.source, wanted.identity)
            })
            .filter_map(|(target, list)| list.first().map(|one| (one.since, *target)))
            .min_by_key(|(since, _)| *since);
        let Some((_, target)) = oldest else {
            return false;
        };
        idle.get_mut(&target).is_some_and(|list| {
            list.remove(0);
            true
        })
    }

    /// Takes back a connection that could serve another request.
    pub(super) fn put(&self, target: Target, mut connection: Connection) {
        let mut idle = self.idle.borrow_mut();
        let list = idle.entry(target).or_default();
        if list.len() < self.options.max_idle_per_target {
            connection.rest();
            list.push(Idle {
                connection,
                since: self.swept.get(),
            });
        }
    }
}
