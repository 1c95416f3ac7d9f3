//! One filter that is wanted, and how far it has come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_core::filter::FilterSpec;
use weft_wasm_host::{Digest, Filter};

use super::Wish;
use crate::filter::build;
use crate::filter::failure::Failure;
use crate::filter::listing::FilterState;
use crate::filter::log::FilterLog;

/// Wait before the first attempt that follows one that failed; each later one
/// is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Wait where the next attempt most likely ends as the last one did: each of
/// them takes as long as the filter takes to start.
const WAIT_WHEN_SLOW: Duration = Duration::from_secs(600);

/// What is to be done for a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Make a version of it.
    ToDo,
    /// Ask the agent for its module, not before this moment.
    Ask(Instant),
    /// Wait until this module is compiled, or can be.
    AwaitCompiler(Digest),
    /// Try once more, not before this moment.
    Again(Instant),
    /// Nothing: it is in force, or cannot be.
    Over,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) wish: Wish,
    pub(super) progress: Progress,
    /// Since when it is to be made, if it is.
    since: Instant,
    /// The version that is in force was made of this.
    pub(super) in_force: Option<Arc<FilterSpec>>,
    /// The last good version was looked for.
    pub(super) looked_back: bool,
    pub(super) log: Arc<FilterLog>,
    loaded: bool,
    error: Option<Failure>,
    attempts: u32,
}

impl Entry {
    pub(super) fn new(wish: Wish) -> Self {
        let log = Arc::new(FilterLog::new(&wish.filter.name));
        Self {
            wish,
            progress: Progress::ToDo,
            since: Instant::now(),
            in_force: None,
            looked_back: false,
            log,
            loaded: false,
            error: None,
            attempts: 0,
        }
    }

    pub(super) fn spec(&self) -> &Arc<FilterSpec> {
        &self.wish.spec
    }

    /// The module that is wanted.
    pub(super) fn module(&self) -> Option<Digest> {
        let module = self.wish.spec.module?;
        // The same digits in both.
        module.to_string().parse().ok()
    }

    /// What is wanted of it from now on.
    pub(super) fn renew(&mut self, wish: Wish) {
        let before = std::mem::replace(&mut self.wish, wish);
        let spec = &self.wish.spec;
        let unchanged = build::same(&before.spec, spec) && before.spec.problem == spec.problem;
        if !unchanged {
            self.enqueue();
            self.loaded = false;
            self.error = None;
            self.attempts = 0;
        }
        // What failed since something was not there may be there now.
        if self.progress == Progress::Over && self.error.as_ref().is_some_and(Failure::may_pass) {
            self.enqueue();
        }
    }

    /// A version of it is to be made. What waits for that already goes on
    /// waiting: a change is no way to the end of the queue, nor to its front.
    pub(super) fn enqueue(&mut self) {
        if !matches!(self.progress, Progress::ToDo | Progress::AwaitCompiler(_)) {
            self.since = Instant::now();
        }
        self.progress = Progress::ToDo;
    }

    /// Since when something can be done for it, if it can. It knows nothing of
    /// what the compiler does.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        match self.progress {
            Progress::ToDo | Progress::AwaitCompiler(_) => Some(self.since),
            Progress::Again(at) => Some(at).filter(|at| *at <= now),
            Progress::Ask(_) | Progress::Over => None,
        }
    }

    /// Whether the last good version is still to be looked for.
    pub(super) fn looks_back(&self) -> bool {
        !self.looked_back && self.wish.filter.published.current().is_none()
    }

    /// It is what is in force already: somebody took a change back.
    pub(super) fn is_in_force(&self) -> bool {
        let in_force = self.in_force.as_ref();
        in_force.is_some_and(|in_force| build::same(in_force, &self.wish.spec))
    }

    /// The version that is wanted came into force.
    pub(super) fn succeeded(&mut self, filter: Arc<Filter>) {
        self.wish.filter.publish(Ok(filter));
        self.in_force = Some(Arc::clone(&self.wish.spec));
        self.progress = Progress::Over;
        self.loaded = true;
        self.error = None;
        self.attempts = 0;
    }

    /// It did not. Returns whether that is news.
    pub(super) fn failed(&mut self, failure: Failure, now: Instant, again: bool) -> bool {
        let news = self.error.as_ref() != Some(&failure);
        self.loaded = failure.is_loaded();
        self.progress = if again && failure.may_pass() {
            Progress::Again(now + self.wait())
        } else if again && failure.is_of_the_node() {
            Progress::Again(now + WAIT_WHEN_SLOW)
        } else {
            Progress::Over
        };
        if news {
            self.wish.filter.publish(Err(failure.error.clone()));
            self.error = Some(failure);
        }
        news
    }

    /// Its module did not come. Returns whether that is news.
    pub(super) fn not_fetched(&mut self, failure: Failure, now: Instant) -> bool {
        let news = self.failed(failure, now, false);
        self.progress = Progress::Ask(now + self.wait());
        news
    }

    fn wait(&mut self) -> Duration {
        let doubled = 1 << self.attempts.min(16);
        self.attempts = self.attempts.saturating_add(1);
        FIRST_WAIT.saturating_mul(doubled).min(LONGEST_WAIT)
    }

    pub(super) fn state(&self) -> FilterState {
        FilterState {
            filter: Arc::clone(&self.wish.filter),
            wanted: self.wish.spec.module,
            loaded: self.loaded,
            configured: self.loaded && self.error.is_none() && self.is_in_force(),
            error: self.error.as_ref().map(|error| error.text.as_str().into()),
        }
    }
}
