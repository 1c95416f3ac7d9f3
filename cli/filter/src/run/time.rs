//! Time of an offline run: it jumps to whatever is waited for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use weft_wasm_host::clock::{Clock, SystemClock};

/// Time as the filter sees it. It begins now, and passes only where the filter waits.
#[derive(Debug)]
pub(crate) struct OfflineClock {
    began: u64,
    passed: AtomicU64,
}

impl Default for OfflineClock {
    fn default() -> Self {
        Self {
            began: SystemClock.wall(),
            passed: AtomicU64::new(0),
        }
    }
}

impl OfflineClock {
    /// How long it runs, by its own time.
    pub(crate) fn passed(&self) -> Duration {
        Duration::from_nanos(self.monotonic())
    }

    /// Goes on to then; never back.
    pub(crate) fn advance_to(&self, then: Duration) {
        let nanos = u64::try_from(then.as_nanos()).unwrap_or(u64::MAX);
        self.passed.fetch_max(nanos, Ordering::Relaxed);
    }
}

impl Clock for OfflineClock {
    fn wall(&self) -> u64 {
        self.began.saturating_add(self.monotonic())
    }

    fn monotonic(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }
}

/// CPU time that this thread has taken: what deadlines go by.
pub(crate) fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    let nanos = u32::try_from(now.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanos)
}
