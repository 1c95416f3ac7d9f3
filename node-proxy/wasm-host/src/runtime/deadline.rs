//! When a call of a filter has taken too long.
//!
//! What counts is the CPU time of the thread, not time that passes: on a machine that is busy a
//! worker may lose the processor for longer than a deadline in the midst of a call, and the filter
//! is not to blame for that. Reading the CPU time is a system call, so it is not read for each call:
//! calls that follow each other closely share what was read before the first of them.

use std::cell::Cell;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use wasmtime::UpdateDeadline;

/// How old a reading may be. A call is stopped at most this much CPU time too late, never too early,
/// and is charged at most this much too much.
const FRESH: Duration = Duration::from_micros(250);

thread_local! {
    static READ: Cell<Read> = const { Cell::new(Read { at: 0, used: Duration::ZERO }) };
}

/// CPU time of a thread, and when it was read by the clock of a filter.
#[derive(Debug, Clone, Copy)]
struct Read {
    at: u64,
    used: Duration,
}

impl Read {
    /// A clock that stands still says nothing of how long ago it was.
    const fn is_fresh(self, now: u64) -> bool {
        let age = self.at.abs_diff(now) as u128;
        age > 0 && age <= FRESH.as_nanos()
    }
}

/// The deadline of the call that is running.
#[derive(Debug, Default)]
pub(crate) struct Deadline {
    limit: Duration,
    /// CPU time of the thread when the call began, or not long before; none while nothing has been
    /// called.
    before: Option<Duration>,
    exceeded: bool,
}

/// Ticks until a call is looked at, and between looks.
pub(crate) const LOOK_EVERY: u64 = 1;

impl Deadline {
    /// A call begins on this thread, at that moment by the clock of its filter if that is known.
    pub(crate) fn start(&mut self, limit: Duration, now: Option<u64>) {
        let before = now.map_or_else(thread_time, read_at);
        self.start_at(limit, before);
    }

    const fn start_at(&mut self, limit: Duration, before: Duration) {
        self.limit = limit;
        self.before = Some(before);
        self.exceeded = false;
    }

    /// Nothing runs. What time passes until the next call is not the filter's.
    pub(crate) const fn rest(&mut self) {
        self.before = None;
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
        match passed <= FRESH {
            true => passed,
            false => self.used_at(passed, thread_time()),
        }
    }

    fn used_at(&self, passed: Duration, now: Duration) -> Duration {
        passed.min(self.since(now).unwrap_or(FRESH))
    }

    /// CPU time that the call has used by then, with what was used shortly before it.
    fn since(&self, now: Duration) -> Option<Duration> {
        Some(now.saturating_sub(self.before?))
    }

    /// The call is still running after a tick.
    pub(crate) fn look(&mut self) -> UpdateDeadline {
        self.look_at(thread_time())
    }

    fn look_at(&mut self, now: Duration) -> UpdateDeadline {
        let used = self.since(now).unwrap_or_default();
        self.exceeded = used >= self.limit + FRESH;
        match self.exceeded {
            true => UpdateDeadline::Interrupt,
            false => UpdateDeadline::Continue(LOOK_EVERY),
        }
    }
}

/// CPU time that this thread has used at that moment, or not long before.
fn read_at(now: u64) -> Duration {
    let read = READ.get();
    if read.is_fresh(now) {
        return read.used;
    }
    let used = thread_time();
    READ.set(Read { at: now, used });
    used
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

    use super::{Deadline, FRESH, Read};

    const MS: Duration = Duration::from_millis(1);

    fn goes_on(deadline: &mut Deadline, now: Duration) -> bool {
        let goes_on = matches!(deadline.look_at(now), UpdateDeadline::Continue(_));
        assert_ne!(goes_on, deadline.exceeded());
        goes_on
    }

    #[test]
    fn a_call_has_all_of_its_time() {
        let mut deadline = Deadline::default();
        let start = Duration::from_secs(7);
        deadline.start_at(5 * MS, start);
        assert!(goes_on(&mut deadline, start));
        assert!(goes_on(&mut deadline, start + 5 * MS), "it began later");
        assert!(!goes_on(&mut deadline, start + 5 * MS + FRESH));
    }

    #[test]
    fn time_in_which_the_thread_did_not_run_is_not_used() {
        let mut deadline = Deadline::default();
        deadline.start_at(5 * MS, MS);
        assert_eq!(deadline.used_at(20 * MS, MS + FRESH), FRESH);
        assert_eq!(deadline.used_at(20 * MS, 3 * MS), 2 * MS);
        assert_eq!(deadline.used_at(MS, 3 * MS), MS, "the rest was before it");
        deadline.rest();
        assert_eq!(
            deadline.used_at(20 * MS, 9 * MS),
            FRESH,
            "nothing was called"
        );
    }

    #[test]
    fn each_call_has_a_time_of_its_own() {
        let mut deadline = Deadline::default();
        deadline.start_at(MS, Duration::ZERO);
        assert!(!goes_on(&mut deadline, 9 * MS));
        deadline.start_at(2 * MS, 9 * MS);
        assert!(!deadline.exceeded());
        assert!(goes_on(&mut deadline, 10 * MS));
    }

    #[test]
    fn what_was_read_is_used_for_a_while_by_clocks_that_go() {
        let used = Duration::ZERO;
        let at = 1_000_000;
        let read = Read { at, used };
        assert!(read.is_fresh(at + 1));
        assert!(read.is_fresh(at + 250_000));
        assert!(!read.is_fresh(at + 250_001));
        assert!(!read.is_fresh(at), "it may stand still");
        assert!(!read.is_fresh(0), "another clock");
    }
}
