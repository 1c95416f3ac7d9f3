//! What somebody waits for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// That a module is to be compiled.
#[derive(Debug)]
pub struct Order {
    since: Instant,
    given_up: AtomicBool,
}

impl Order {
    /// One that is held back while requests are served, for a while from this moment on: since when
    /// there has been something to compile, this or what was before it.
    #[must_use]
    pub const fn since(since: Instant) -> Self {
        Self {
            since,
            given_up: AtomicBool::new(false),
        }
    }

    /// One of now.
    #[must_use]
    pub fn now() -> Self {
        Self::since(Instant::now())
    }

    /// Nobody wants it any more.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// Whether nobody wants it any more.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    pub(super) const fn waits_since(&self) -> Instant {
        self.since
    }
}
