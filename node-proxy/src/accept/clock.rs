//! The worker's coarse clock: deadlines need no better one, and reading it
//! costs a memory access.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Length of a tick. Deadlines pass at most this much late.
pub const TICK: Duration = Duration::from_millis(100);

/// A moment, in ticks since the worker started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(pub u64);

impl Tick {
    /// Ticks from `earlier` to this one.
    #[must_use]
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Ticks that hold `duration`, at least one.
#[must_use]
pub fn ticks(duration: Duration) -> u64 {
    let ticks = duration.as_millis().div_ceil(TICK.as_millis());
    u64::try_from(ticks).unwrap_or(u64::MAX).max(1)
}

/// One per worker; its sweeper moves it on.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
    now: Cell<u64>,
}

impl Clock {
    /// A clock that stands at zero.
    #[must_use]
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            now: Cell::new(0),
        }
    }

    /// The moment of the last [`Clock::advance`].
    #[must_use]
    pub fn now(&self) -> Tick {
        Tick(self.now.get())
    }

    /// Reads the system's clock.
    pub fn advance(&self) -> Tick {
        let ticks = self.start.elapsed().as_millis() / TICK.as_millis();
        self.now.set(u64::try_from(ticks).unwrap_or(u64::MAX));
        self.now()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Tick, ticks};

    #[test]
    fn durations_round_up() {
        assert_eq!(ticks(Duration::ZERO), 1);
        assert_eq!(ticks(Duration::from_millis(100)), 1);
        assert_eq!(ticks(Duration::from_millis(101)), 2);
        assert_eq!(ticks(Duration::from_secs(60)), 600);
    }

    #[test]
    fn a_moment_in_the_future_is_not_long_ago() {
        assert_eq!(Tick(3).since(Tick(5)), 0);
    }
}
