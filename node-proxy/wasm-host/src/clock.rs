//! Time, as filters see it. Injected, so that tests decide how it passes.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Where a host takes the time from.
pub trait Clock: Send + Sync {
    /// Nanoseconds since 1970.
    fn wall(&self) -> u64;

    /// Nanoseconds since some moment, never going back.
    fn monotonic(&self) -> u64;
}

/// The machine's.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

static START: OnceLock<Instant> = OnceLock::new();

impl SystemClock {
    /// What [`Clock::monotonic`] said at that moment.
    #[must_use]
    pub fn at(moment: Instant) -> u64 {
        let start = *START.get_or_init(Instant::now);
        nanos(moment.saturating_duration_since(start).as_nanos())
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> u64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| nanos(since.as_nanos()))
    }

    fn monotonic(&self) -> u64 {
        Self::at(Instant::now())
    }
}

fn nanos(nanos: u128) -> u64 {
    u64::try_from(nanos).unwrap_or(u64::MAX)
}
