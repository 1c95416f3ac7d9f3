//! A key set that a Service has: fetched once for all that wait for it, and kept for a while.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

use weft_sdk::prelude::*;
use weft_sdk::{FetchError, Log, time};

use crate::config::Service;
use crate::keys::KeySet;

/// A token with an unknown key makes the set be fetched again, but no more often than this: who
/// invents keys must not make the issuer's load.
const AT_LEAST: Duration = Duration::from_secs(10);
/// A Service that failed is left alone for this long.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
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
        loop {
            if let Some(known) = self.known(renew) {
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
                    self.state.replace(State {
                        keys: Some((Rc::new(keys), now)),
                        failed: None,
                    });
                }
                Err(why) => {
                    self.log.warn(
                        "the key set could not be fetched",
                        &[("service", &self.service.service), ("error", &why)],
                    );
                    self.state.borrow_mut().failed = Some((why, now));
                }
            }
            drop(guard);
        }
    }

    /// What can be said without a fetch.
    fn known(&self, renew: bool) -> Option<Result<Known>> {
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
        let (why, _) = state
            .failed
            .as_ref()
            .filter(|(_, since)| age(since) < AFTER_FAILURE)?;
        let stale = refresh.saturating_add(Duration::from_secs(self.service.stale_seconds));
        Some(match &state.keys {
            Some((keys, since)) if age(since) < stale => Ok(known(keys, since)),
            _ => Err(Error::new(format_args!(
                "the key set of {}: {why}",
                self.service.service
            ))),
        })
    }

    async fn fetch(&self, request: &Request) -> Result<KeySet, String> {
        let answer = request
            .fetch(&self.service.service)
            .get(&self.service.path)
            .header("accept", "application/json")
            .timeout(Duration::from_millis(self.service.timeout_ms))
            .await
            .map_err(|err: FetchError| err.to_string())?;
        if answer.status != 200 {
            return Err(format!("status {}", answer.status));
        }
        if answer.body.len() > MAX_SET {
            return Err("it is too large".to_owned());
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
