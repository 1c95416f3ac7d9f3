//! When a compiler runs that has the same processors as requests.
//!
//! While requests are served it runs four hundredths of the time. What comes while it does finds the
//! caches of the processor empty, or waits for memory that the kernel gives it; that is then so little
//! that of a hundred requests the slowest is slow for other reasons. While there are none, or when it has taken that long already, it runs all the
//! time (when nobody else wants the processor: see `background::step_back`).

use std::time::Duration;

/// Held back it runs for so long, and then rests.
const RUN: Duration = Duration::from_millis(4);
const REST: Duration = Duration::from_millis(96);
/// It is looked at as often where it is not: so that looking alone does not seem to be a request.
const LOOK: Duration = Duration::from_millis(20);
/// Requests are served where this process has taken more of the time of a processor than one part in
/// so many: one request in 50 ms takes as much, and what this process does without any takes less.
const SERVING: u32 = 200;
/// For so long it is held back, as long as there is something to compile: a module of 2 MiB, which
/// takes two seconds of a processor, is compiled then, and requests that are refused until their
/// filter is compiled do not wait for minutes because others are served.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a compiler does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It runs for a moment.
    Run,
    /// It is stopped.
    Rest,
    /// It runs on.
    RunOn,
}

impl Turn {
    /// For how long, at most.
    pub(super) const fn lasts(self) -> Duration {
        match self {
            Self::Run => RUN,
            Self::Rest => REST,
            Self::RunOn => LOOK,
        }
    }
}

/// A moment: since any beginning.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// Time.
    pub(super) time: Duration,
    /// Processor time of this process, which the compiler is no part of.
    pub(super) used: Duration,
}

/// One that began to run.
#[derive(Debug)]
pub(super) struct Throttle {
    until: Duration,
    looked: Moment,
    turn: Turn,
}

impl Throttle {
    /// One that begins to run when there has been something to compile for so long.
    pub(super) const fn new(now: Moment, before: Duration) -> Self {
        Self {
            until: now.time.saturating_add(PATIENCE).saturating_sub(before),
            looked: now,
            turn: Turn::Run,
        }
    }

    /// What it does from now on.
    pub(super) fn next(&mut self, now: Moment) -> Turn {
        self.turn = match self.turn {
            Turn::Rest => Turn::Run,
            Turn::Run | Turn::RunOn => match self.holds_back(now) {
                true => Turn::Rest,
                false => Turn::RunOn,
            },
        };
        self.turn
    }

    fn holds_back(&mut self, now: Moment) -> bool {
        let before = std::mem::replace(&mut self.looked, now);
        let used = now.used.saturating_sub(before.used);
        let passed = now.time.saturating_sub(before.time);
        used * SERVING > passed && now.time < self.until
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Moment, PATIENCE, Throttle, Turn};

    const NONE: Duration = Duration::ZERO;

    /// How long it runs in a second, in which this process takes this part of a processor.
    fn runs(throttle: &mut Throttle, now: &mut Moment, percent: f64) -> Duration {
        let (end, mut ran) = (now.time + Duration::from_secs(1), NONE);
        while now.time < end {
            let turn = throttle.next(*now);
            if turn != Turn::Rest {
                ran += turn.lasts();
            }
            now.time += turn.lasts();
            now.used += turn.lasts().mul_f64(percent / 100.0);
        }
        ran
    }

    #[test]
    fn it_is_held_back_while_requests_are_served_and_not_for_ever() {
        let mut now = Moment {
            time: NONE,
            used: NONE,
        };
        let mut throttle = Throttle::new(now, NONE);
        assert!(runs(&mut throttle, &mut now, 0.1).as_millis() >= 1000);
        let held_back = runs(&mut throttle, &mut now, 10.0).as_millis();
        assert!((40..=60).contains(&held_back), "{held_back} ms");
        let again = runs(&mut throttle, &mut now, 0.0).as_millis();
        assert!(again >= 900, "{again} ms");
        while now.time <= PATIENCE {
            runs(&mut throttle, &mut now, 400.0);
        }
        assert!(runs(&mut throttle, &mut now, 400.0).as_millis() >= 1000);
        // Nor is the next one.
        let mut throttle = Throttle::new(now, PATIENCE);
        assert!(runs(&mut throttle, &mut now, 400.0).as_millis() >= 1000);
    }

    #[test]
    fn a_request_now_and_then_is_one_too() {
        let start = Moment {
            time: NONE,
            used: NONE,
        };
        let mut throttle = Throttle::new(start, NONE);
        // One in 50 ms, which takes half a millisecond.
        let moment = |millis: u64| Moment {
            time: Duration::from_millis(millis),
            used: Duration::from_micros(millis / 50 * 500),
        };
        let (mut at, mut ran) = (0, 0);
        while at < 1000 {
            let turn = throttle.next(moment(at));
            let lasts = u64::try_from(turn.lasts().as_millis()).expect("small");
            ran += if turn == Turn::Rest { 0 } else { lasts };
            at += lasts;
        }
        assert!(ran <= 150, "{ran} ms");
    }
}
