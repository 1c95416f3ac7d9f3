//! When a call of a filter has taken too long.
//!
//! What counts is the CPU time of the thread, not time that passes: on a machine that is busy a
//! worker may lose the processor for longer than a deadline in the midst of a call, and the filter
//! is not to blame for that. Reading the CPU time is a system call, so it is read only when a call
//! is still running at the next tick: of a call of a microsecond, one in a thousand.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use wasmtime::UpdateDeadline;

use super::ticker::{LINGER, TICK};

/// The deadline of the call that is running.
#[derive(Debug, Default)]
pub(crate) struct Deadline {
    limit: Duration,
    /// CPU time of the thread at the first tick of this call, which is at most a tick into it.
    first: Option<Duration>,
    exceeded: bool,
}

/// Ticks until the first look at a call.
pub(crate) const FIRST_LOOK: u64 = 1;
/// Most ticks until the next look: each tells the ticker that the call is still running, and without
/// one it would go to sleep before a long deadline is over.
const NEXT_LOOK: u64 = LINGER / 4;

impl Deadline {
    /// A call begins.
    pub(crate) const fn start(&mut self, limit: Duration) {
        self.limit = limit;
        self.first = None;
        self.exceeded = false;
    }

    pub(crate) const fn limit(&self) -> Duration {
        self.limit
    }

    /// Whether the last call was ended by it.
    pub(crate) const fn exceeded(&self) -> bool {
        self.exceeded
    }

    /// CPU time of the last call, from its start to its end of which so much time has passed.
    pub(crate) fn used(&self, passed: Duration) -> Duration {
        match passed <= TICK {
            true => passed,
            false => self.used_at(passed, thread_time()),
        }
    }

    fn used_at(&self, passed: Duration, now: Duration) -> Duration {
        let after = self.first.map(|first| now.saturating_sub(first));
        passed.min(TICK + after.unwrap_or_default())
    }

    /// The epoch has reached where the last look said to look again.
    pub(crate) fn look(&mut self) -> UpdateDeadline {
        self.look_at(thread_time())
    }

    fn look_at(&mut self, now: Duration) -> UpdateDeadline {
        let first = *self.first.get_or_insert(now);
        let used = now.saturating_sub(first) + TICK;
        let left = self.limit.saturating_sub(used);
        if left.is_zero() {
            self.exceeded = true;
            return UpdateDeadline::Interrupt;
        }
        let ticks = left.as_nanos().div_ceil(TICK.as_nanos());
        let ticks = u64::try_from(ticks).unwrap_or(NEXT_LOOK);
        UpdateDeadline::Continue(ticks.clamp(1, NEXT_LOOK))
    }
}

/// CPU time that this thread has used.
#[must_use]
pub fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use wasmtime::UpdateDeadline;

    use super::{Deadline, NEXT_LOOK};

    const MS: Duration = Duration::from_millis(1);

    fn ticks(update: &UpdateDeadline) -> Option<u64> {
        match update {
            UpdateDeadline::Continue(ticks) => Some(*ticks),
            _ => None,
        }
    }

    #[test]
    fn a_thread_that_lost_the_processor_has_time_left() {
        let mut deadline = Deadline::default();
        deadline.start(5 * MS);
        let start = Duration::from_secs(7);
        assert_eq!(ticks(&deadline.look_at(start)), Some(4));
        // Four ticks went by and the thread ran for half a millisecond of them.
        assert_eq!(ticks(&deadline.look_at(start + MS / 2)), Some(4));
        assert_eq!(ticks(&deadline.look_at(start + 3 * MS)), Some(1));
        assert!(!deadline.exceeded());
        assert_eq!(ticks(&deadline.look_at(start + 4 * MS)), None);
        assert!(deadline.exceeded());
    }

    #[test]
    fn time_in_which_the_thread_did_not_run_is_not_used() {
        let mut deadline = Deadline::default();
        deadline.start(5 * MS);
        assert_eq!(deadline.used_at(MS / 2, MS), MS / 2);
        // Nothing looked at it: it ran for less than a tick.
        assert_eq!(deadline.used_at(20 * MS, MS), MS);
        let _update = deadline.look_at(MS);
        assert_eq!(deadline.used_at(20 * MS, 3 * MS), 3 * MS);
    }

    #[test]
    fn a_long_deadline_is_looked_at_now_and_then() {
        let mut deadline = Deadline::default();
        deadline.start(1000 * MS);
        assert_eq!(ticks(&deadline.look_at(Duration::ZERO)), Some(NEXT_LOOK));
        assert_eq!(ticks(&deadline.look_at(50 * MS)), Some(NEXT_LOOK));
        assert_eq!(ticks(&deadline.look_at(989 * MS)), Some(10));
        assert_eq!(ticks(&deadline.look_at(999 * MS)), None);
    }

    #[test]
    fn each_call_has_a_time_of_its_own() {
        let mut deadline = Deadline::default();
        deadline.start(MS);
        assert_eq!(ticks(&deadline.look_at(Duration::ZERO)), None);
        deadline.start(2 * MS);
        assert!(!deadline.exceeded());
        assert_eq!(ticks(&deadline.look_at(90 * MS)), Some(1));
    }
}
