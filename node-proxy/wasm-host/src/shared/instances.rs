//! Instances of a filter that are there at once, on all workers, where each request has its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many there are.
#[derive(Debug, Default)]
pub struct Instances(AtomicUsize);

/// One of them; it counts as long as this is kept.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Instances>);

impl Instances {
    /// Those that are there.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Room for one more, if there are fewer than `most`.
    pub(crate) fn take(self: &Arc<Self>, most: usize) -> Option<Permit> {
        let one_more = |count| (count < most).then_some(count + 1);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()?;
        Some(Permit(Arc::clone(self)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
