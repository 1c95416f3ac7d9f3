//! How soon an instance that failed has a successor: at once, unless it keeps failing.

use std::time::Duration;

use crate::fault::{Fault, FaultKind};

/// The second failure in a row waits so long, each one after it twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// An instance that lived this long was a good one.
const GOOD: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Health {
    strikes: u32,
    not_before: u64,
    last: Option<Fault>,
}

impl Health {
    /// Whether a successor may be made.
    pub(super) const fn allows(&self, now: u64) -> bool {
        now >= self.not_before
    }

    /// Why there is no instance. Of what an instance did, those who come later have to be told no
    /// more than its kind.
    pub(super) fn why(&self) -> Fault {
        match &self.last {
            Some(fault @ (Fault::Config(_) | Fault::NoRoom(_))) => fault.clone(),
            Some(fault) => Fault::Down { of: fault.kind() },
            // Nothing failed: none was made yet.
            None => Fault::Down {
                of: FaultKind::Load,
            },
        }
    }

    /// An instance that began at `started` trapped; `served` says that it has dealt with something
    /// before. Then it is what it was asked that it cannot bear, and others need not wait: what
    /// instances cost is paid from the namespace's budget.
    pub(super) fn trapped(&mut self, started: u64, served: bool, now: u64, fault: Fault) {
        if served || now.saturating_sub(started) >= nanos(GOOD) {
            self.strikes = 0;
        }
        self.strike(now, fault);
    }

    /// None could be made.
    pub(super) fn failed(&mut self, now: u64, fault: Fault) {
        self.strikes = self.strikes.max(1);
        self.strike(now, fault);
    }

    /// One was made, where nothing else says how good it is.
    pub(super) fn started(&mut self) {
        if self.strikes > 0 {
            *self = Self::default();
        }
    }

    fn strike(&mut self, now: u64, fault: Fault) {
        self.last = Some(fault);
        self.strikes = self.strikes.saturating_add(1);
        let wait = match self.strikes {
            0 | 1 => Duration::ZERO,
            strikes => FIRST_WAIT
                .saturating_mul(1 << (strikes - 2).min(16))
                .min(LONGEST_WAIT),
        };
        self.not_before = now.saturating_add(nanos(wait));
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::{GOOD, Health, nanos};
    use crate::fault::{Fault, FaultKind};

    const MS: u64 = 1_000_000;

    fn trap(health: &mut Health, started: u64, now: u64) -> u64 {
        health.trapped(started, false, now, Fault::Trap("x".to_owned()));
        (health.not_before - now) / MS
    }

    #[test]
    fn the_first_successor_comes_at_once_and_later_ones_wait() {
        let mut health = Health::default();
        let waits: Vec<_> = (0..5).map(|_trap| trap(&mut health, 0, MS)).collect();
        assert_eq!(waits, [0, 100, 200, 400, 800]);
        assert!(!health.allows(MS));
        assert!(health.allows(801 * MS));
        let waits: Vec<_> = (0..20).map(|_trap| trap(&mut health, 0, MS)).collect();
        assert_eq!(waits.last(), Some(&1_000));
    }

    #[test]
    fn an_instance_that_served_has_a_successor_at_once() {
        let mut health = Health::default();
        for _request in 0..20 {
            health.trapped(0, true, MS, Fault::Trap("x".to_owned()));
            assert!(health.allows(MS));
        }
    }

    #[test]
    fn a_trap_now_and_then_is_forgiven() {
        let mut health = Health::default();
        let mut now = 0;
        for _day in 0..5 {
            let started = now;
            now += nanos(GOOD);
            assert_eq!(trap(&mut health, started, now), 0);
        }
    }

    #[test]
    fn who_does_not_start_waits_from_the_first_time_on() {
        let mut health = Health::default();
        health.failed(0, Fault::Config("no".to_owned()));
        assert!(!health.allows(0));
        assert_eq!(health.why(), Fault::Config("no".to_owned()));
        health.failed(0, Fault::Config("no".to_owned()));
        assert!(!health.allows(199 * MS));
        health.started();
        assert!(health.allows(0));
    }

    #[test]
    fn who_has_not_failed_is_not_blamed() {
        let mut health = Health::default();
        let of = FaultKind::Load;
        assert_eq!(health.why(), Fault::Down { of });
        trap(&mut health, 0, MS);
        let of = FaultKind::Trap;
        assert_eq!(health.why(), Fault::Down { of });
    }
}
