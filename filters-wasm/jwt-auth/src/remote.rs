//! A key set that a Service has: fetched once for all that wait for it, and kept for a while.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use weft_sdk::prelude::*;
use weft_sdk::{Direction, FetchError, Log, time};

use crate::config::Service;
use crate::keys::KeySet;

/// A token with an unknown key makes the set be fetched again, but no more often than this: who
/// invents keys must not make the issuer's load.
const AT_LEAST: Duration = Duration::from_secs(10);
/// A Service that failed is left alone for this long.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Pods of which it is known that policy does not let them ask.
const MAX_DENIED: usize = 256;
/// How much of an answer is looked at.
const MAX_SET: usize = 256 * 1024;

pub(crate) struct Remote {
    service: Service,
    log: Log,
    state: RefCell<State>,
    /// Whose fetch is under way; others wait for it.
    fetching: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
}

#[derive(Default)]
struct State {
    /// With the time at which they were fetched.
    keys: Option<(Rc<KeySet>, Duration)>,
    failed: Option<(String, Duration)>,
    /// Pods that policy does not let ask, and when that was seen. It says nothing of others.
    denied: HashMap<String, Duration>,
}

/// Why there is no new set.
enum Failure {
    /// The pod in whose name it was asked for may not ask.
    Denied,
    /// Nobody would have got it.
    Other(String),
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self::Other(why)
    }
}

/// The keys, and how long what was verified with them may be believed: a key that the issuer
/// withdraws is good no longer than the set in which it was.
pub(crate) struct Known {
    pub(crate) keys: Rc<KeySet>,
    pub(crate) good_for: Duration,
}

impl Remote {
    pub(crate) fn new(service: Service, plugin: &Plugin) -> Self {
        Self {
            service,
            log: plugin.log(),
            state: RefCell::default(),
            fetching: Cell::new(false),
            waiting: RefCell::default(),
        }
    }

    /// The keys as they are known, fetched if need be. `renew`: those that are known do not do.
    pub(crate) async fn keys(&self, request: &Request, renew: bool) -> Result<Known> {
        let subject = subject(request);
        loop {
            if let Some(known) = self.known(renew, &subject) {
                return known;
            }
            if self.fetching.get() {
                self.wait().await;
                continue;
            }
            let guard = Fetching::begin(self);
            let fetched = self.fetch(request).await;
            let now = time::monotonic();
            match fetched {
                Ok(keys) => {
                    self.log.debug("fetched keys", &[("count", &keys.len())]);
                    let mut state = self.state.borrow_mut();
                    state.keys = Some((Rc::new(keys), now));
                    state.failed = None;
                }
                Err(failure) => self.failed(failure, &subject, now),
            }
            drop(guard);
        }
    }

    fn failed(&self, failure: Failure, subject: &str, now: Duration) {
        let mut state = self.state.borrow_mut();
        let why = match failure {
            Failure::Denied => {
                if state.denied.len() >= MAX_DENIED {
                    state.denied.clear();
                }
                state.denied.insert(subject.to_owned(), now);
                denied_to(subject)
            }
            Failure::Other(why) => {
                state.failed = Some((why.clone(), now));
                why
            }
        };
        self.log.warn(
            "the key set could not be fetched",
            &[("service", &self.service.service), ("error", &why)],
        );
    }

    /// What can be said to that pod without a fetch.
    fn known(&self, renew: bool, subject: &str) -> Option<Result<Known>> {
        let state = self.state.borrow();
        let now = time::monotonic();
        let age = |since: &Duration| now.saturating_sub(*since);
        let refresh = Duration::from_secs(self.service.refresh_seconds);
        let known = |keys: &Rc<KeySet>, since: &Duration| {
            let left = refresh.saturating_sub(age(since));
            Known {
                keys: keys.clone(),
                // Older ones are in use while the Service fails, until it is asked again.
                good_for: if left.is_zero() { AFTER_FAILURE } else { left },
            }
        };
        let fresh = if renew { AT_LEAST } else { refresh };
        if let Some((keys, since)) = &state.keys
            && age(since) < fresh
        {
            return Some(Ok(known(keys, since)));
        }
        let recent = |since: &Duration| age(since) < AFTER_FAILURE;
        let why = match &state.failed {
            Some((why, since)) if recent(since) => why.clone(),
            _ => {
                state.denied.get(subject).filter(|since| recent(since))?;
                denied_to(subject)
            }
        };
        let stale = refresh.saturating_add(Duration::from_secs(self.service.stale_seconds));
        Some(match &state.keys {
            Some((keys, since)) if age(since) < stale => Ok(known(keys, since)),
            _ => Err(Error::new(format_args!(
                "the key set of {}: {why}",
                self.service.service
            ))),
        })
    }

    async fn fetch(&self, request: &Request) -> Result<KeySet, Failure> {
        let answer = request
            .fetch(&self.service.service)
            .get(&self.service.path)
            .header("accept", "application/json")
            .timeout(Duration::from_millis(self.service.timeout_ms))
            .await
            .map_err(|err| match err {
                FetchError::Denied => Failure::Denied,
                err => Failure::Other(err.to_string()),
            })?;
        if answer.status != 200 {
            return Err(Failure::Other(format!("status {}", answer.status)));
        }
        if answer.body.len() > MAX_SET {
            return Err(Failure::Other("it is too large".to_owned()));
        }
        let (keys, unusable) = KeySet::read(&answer.body)?;
        if let Some(first) = unusable.first() {
            self.log.warn(
                "keys of the set cannot be used and are left out",
                &[
                    ("service", &self.service.service),
                    ("count", &unusable.len()),
                    ("first", first),
                ],
            );
        }
        Ok(keys)
    }

    async fn wait(&self) {
        poll_fn(|cx| {
            if !self.fetching.get() {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// The pod in whose name a filter asks: the one whose traffic it is on.
fn subject(request: &Request) -> String {
    let known = request.attributes();
    let peer = match known.direction {
        Direction::Ingress => &known.destination,
        Direction::Egress => &known.source,
    };
    peer.address.clone()
}

fn denied_to(subject: &str) -> String {
    format!("{} from {subject}", FetchError::Denied)
}

/// Ends also when the request that fetches is gone before the answer comes: another one goes on.
struct Fetching<'a>(&'a Remote);

impl<'a> Fetching<'a> {
    fn begin(remote: &'a Remote) -> Self {
        remote.fetching.set(true);
        Self(remote)
    }
}

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        self.0.fetching.set(false);
        let waiting = self.0.waiting.take();
        waiting.into_iter().for_each(Waker::wake);
    }
}
