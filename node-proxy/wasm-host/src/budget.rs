//! How much CPU time and memory filters may use, and what becomes of those that use more.
//!
//! A filter that burns just under its deadline on every request breaks no limit of a single call
//! and takes the worker from everybody else. So the time of calls is paid from an account: it fills
//! at a fixed rate, holds some reserve, and a call that finds it empty waits until it is paid for.
//! Who keeps it empty is put into quarantine, each time for longer. A filter has an account on each
//! worker, and shares one with its namespace ([`Allowance`]).
//!
//! Long calls are dear. While one runs, its worker does nothing else: the longer it is, the more
//! requests of others come meanwhile, and the longer each of them waits. What it costs them grows
//! with its square, and so does its price beyond [`BudgetLimits::slice`]; beyond half a millisecond,
//! which is seen in others' p99, with its cube, up to 300 times its length. So the same account pays
//! for many calls that nobody notices, or for few that last.
//!
//! Pure: time comes from the caller, workers meet in atomics.

mod allowance;
mod memory;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

pub use allowance::{Allowance, Namespace, Reservation};
pub use memory::Memory;

/// No call costs more than this many times its length.
const DEAREST: u128 = 300;
/// Nanoseconds of a call that is seen in others' p99.
const LONG: u128 = 500_000;

/// What may be used of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetLimits {
    /// CPU time per second.
    pub per_second: Duration,
    /// CPU time that can be saved up for bursts.
    pub reserve: Duration,
    /// A call that takes n times as long costs n times that.
    pub slice: Duration,
    /// A call waits at most this long; where it would be longer it is refused.
    pub max_wait: Duration,
    /// So long without an account that is paid off, and it is quarantine.
    pub patience: Duration,
    /// The first quarantine. Each one that follows is twice as long.
    pub quarantine: Duration,
    /// The longest one.
    pub max_quarantine: Duration,
    /// Bytes of memory of all instances of a namespace.
    pub memory: usize,
}

impl BudgetLimits {
    /// What may be used of so many workers together.
    #[must_use]
    pub fn of_workers(self, workers: usize) -> Self {
        let times = u32::try_from(workers).unwrap_or(u32::MAX);
        Self {
            per_second: self.per_second.saturating_mul(times),
            reserve: self.reserve.saturating_mul(times),
            memory: self.memory.saturating_mul(workers),
            ..self
        }
    }
}

impl Default for BudgetLimits {
    fn default() -> Self {
        Self {
            // A filter of headers at the most that a worker serves takes a sixth of it.
            per_second: Duration::from_millis(500),
            reserve: Duration::from_millis(1000),
            slice: Duration::from_micros(60),
            max_wait: Duration::from_secs(2),
            patience: Duration::from_secs(5),
            quarantine: Duration::from_secs(10),
            max_quarantine: Duration::from_secs(600),
            memory: 64 << 20,
        }
    }
}

/// Whether a filter may be called now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// At once.
    Run,
    /// After this long: slowed. Its place in the account is taken.
    Wait(Duration),
    /// Not now: there is more waiting than can be paid for. Its policy of timeouts decides.
    Refused,
    /// Not before this moment. Its policy of timeouts decides.
    Quarantined {
        /// Nanoseconds of the caller's clock.
        until: u64,
    },
}

impl Admission {
    const fn refuses(self) -> bool {
        matches!(self, Self::Refused | Self::Quarantined { .. })
    }

    const fn wait(self) -> Duration {
        match self {
            Self::Wait(wait) => wait,
            Self::Run | Self::Refused | Self::Quarantined { .. } => Duration::ZERO,
        }
    }
}

/// Taken by [`Budget::admit`] for one call, to be given back with [`Budget::settle`] or
/// [`Budget::cancel`].
#[derive(Debug)]
#[must_use = "what was reserved for the call is to be settled"]
pub struct Ticket {
    /// Nanoseconds of the clock.
    reserved: u64,
}

/// An account of CPU time.
#[derive(Debug)]
pub struct Budget {
    limits: BudgetLimits,
    /// Nanoseconds of the clock that one nanosecond of CPU time costs, in 1/1024.
    price: u64,
    /// The reserve, in nanoseconds of the clock.
    reserve: u64,
    /// The moment at which all that was used is paid for.
    paid: AtomicU64,
    /// Since when it has been in debt; 0 is not.
    indebted: AtomicU64,
    /// Moment of release from the last quarantine; 0 is none.
    released: AtomicU64,
    strikes: AtomicU32,
    /// What a call costs, as those lately did: nanoseconds of the clock.
    expected: AtomicU64,
}

impl Budget {
    /// An account with its full reserve.
    #[must_use]
    pub fn new(limits: BudgetLimits) -> Self {
        let per_second = nanos(limits.per_second).max(1);
        let price = (1_000_000_000_u64.saturating_mul(1024) / per_second).max(1);
        Self {
            reserve: whole(nanos(limits.reserve).into(), price),
            limits,
            price,
            paid: AtomicU64::new(0),
            indebted: AtomicU64::new(0),
            released: AtomicU64::new(0),
            strikes: AtomicU32::new(0),
            expected: AtomicU64::new(0),
        }
    }

    /// Asks before a call. What it will probably take is reserved, so that many that ask at once do
    /// not all find the same room.
    pub fn admit(&self, now: u64) -> (Admission, Ticket) {
        if let Some(refusal) = self.refusal(now) {
            return (refusal, Ticket { reserved: 0 });
        }
        let wait = self.debt(now);
        let reserved = self.expected.load(Ordering::Relaxed);
        self.pay(now, reserved, 0);
        let admission = match wait {
            0 => Admission::Run,
            wait => Admission::Wait(Duration::from_nanos(wait)),
        };
        (admission, Ticket { reserved })
    }

    /// Whether nothing of it may run now, neither a call nor what else a worker does for it.
    pub fn is_closed(&self, now: u64) -> bool {
        self.refusal(now).is_some()
    }

    fn refusal(&self, now: u64) -> Option<Admission> {
        let until = self.released.load(Ordering::Relaxed);
        if until > now {
            return Some(Admission::Quarantined { until });
        }
        let wait = self.debt(now);
        if self.has_recovered(now) {
            self.indebted.store(0, Ordering::Relaxed);
        } else if (wait > 0 || self.indebted.load(Ordering::Relaxed) != 0)
            && let Some(until) = self.judge(now)
        {
            return Some(Admission::Quarantined { until });
        }
        (wait > nanos(self.limits.max_wait)).then_some(Admission::Refused)
    }

    /// Pays for a call.
    pub fn settle(&self, ticket: Ticket, spent: Duration, now: u64) {
        let cost = self.cost(spent);
        let average = |expected: u64| {
            let average = (expected - expected / 8).saturating_add(cost / 8);
            // Those that wait together are not to find the room of one.
            Some(average.max(cost))
        };
        // It is never refused.
        let _before = self
            .expected
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, average);
        self.pay(now, cost, ticket.reserved);
    }

    /// A call is not made after all.
    pub fn cancel(&self, ticket: Ticket, now: u64) {
        self.pay(now, 0, ticket.reserved);
    }

    /// Pays for what was done without asking: instances that were made, requests that ended.
    pub fn charge(&self, spent: Duration, now: u64) {
        self.pay(now, self.cost(spent), 0);
    }

    /// Pays for what threads other than workers did, which hold up nobody.
    pub fn charge_apart(&self, spent: Duration, now: u64) {
        self.pay(now, whole(nanos(spent).into(), self.price), 0);
    }

    /// Whether it has been in quarantine lately, so that the next one is to be longer.
    #[must_use]
    pub fn remembers(&self, now: u64) -> bool {
        let last = self.released.load(Ordering::Relaxed);
        last != 0 && last.saturating_add(nanos(self.limits.max_quarantine)) > now
    }

    /// The end of the quarantine that it is in.
    #[must_use]
    pub fn quarantined(&self, now: u64) -> Option<u64> {
        let until = self.released.load(Ordering::Relaxed);
        (until > now).then_some(until)
    }

    /// Whether its calls have to wait.
    #[must_use]
    pub fn slowed(&self, now: u64) -> bool {
        self.debt(now) > 0
    }

    /// Whether half of the reserve is there again. Less is no recovery: of many calls that take
    /// turns at an empty account, one or another always finds it paid off for a moment.
    fn has_recovered(&self, now: u64) -> bool {
        let paid = self.paid.load(Ordering::Relaxed);
        paid.saturating_sub(now) <= self.reserve / 2
    }

    /// How long it takes until there is room for a call again.
    fn debt(&self, now: u64) -> u64 {
        let paid = self.paid.load(Ordering::Relaxed);
        paid.saturating_sub(now).saturating_sub(self.reserve)
    }

    /// It is in debt: for how long already, and is that too long?
    fn judge(&self, now: u64) -> Option<u64> {
        let since = self.indebted.load(Ordering::Relaxed);
        if since == 0 {
            // Whoever is first sets it; the others mean the same moment.
            let _lost =
                self.indebted
                    .compare_exchange(0, now.max(1), Ordering::Relaxed, Ordering::Relaxed);
            return None;
        }
        if now.saturating_sub(since) < nanos(self.limits.patience) {
            return None;
        }
        // One worker pronounces it.
        self.indebted
            .compare_exchange(since, 0, Ordering::Relaxed, Ordering::Relaxed)
            .ok()?;
        let last = self.released.load(Ordering::Relaxed);
        let well_behaved =
            last != 0 && now.saturating_sub(last) > nanos(self.limits.max_quarantine);
        if well_behaved {
            self.strikes.store(0, Ordering::Relaxed);
        }
        let strikes = self.strikes.fetch_add(1, Ordering::Relaxed).min(20);
        let length = nanos(self.limits.quarantine)
            .saturating_mul(1 << strikes)
            .min(nanos(self.limits.max_quarantine));
        let until = now.saturating_add(length);
        self.released.store(until, Ordering::Relaxed);
        // What it owes is forgiven: it begins anew.
        self.paid.store(until, Ordering::Relaxed);
        Some(until)
    }

    fn pay(&self, now: u64, cost: u64, reserved: u64) {
        let pay = |paid: u64| Some(paid.max(now).saturating_add(cost).saturating_sub(reserved));
        // It is never refused.
        let _before = self
            .paid
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay);
    }

    /// Nanoseconds of the clock that a call of this length costs.
    fn cost(&self, spent: Duration) -> u64 {
        if spent <= self.limits.slice && u128::from(nanos(spent)) <= LONG {
            // As nearly every call: none of what follows changes it.
            return whole(nanos(spent).into(), self.price);
        }
        let slice = u128::from(nanos(self.limits.slice).max(1));
        let spent = u128::from(nanos(spent));
        let square = spent * spent.max(slice) / slice;
        let dear = square.saturating_mul(spent.max(LONG)) / LONG;
        whole(dear.min(spent * DEAREST), self.price)
    }
}

/// What so much CPU time costs at this price.
fn whole(cpu: u128, price: u64) -> u64 {
    u64::try_from(cpu.saturating_mul(price.into()) / 1024).unwrap_or(u64::MAX)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Admission, Budget, BudgetLimits};

    const MS: u64 = 1_000_000;
    const S: u64 = 1_000 * MS;

    /// Calls of `spent` one after another until `end`; a wait is kept. Returns the CPU time used.
    fn drive(budget: &Budget, now: &mut u64, end: u64, spent: Duration) -> Duration {
        let mut used = Duration::ZERO;
        while *now < end {
            let (admission, ticket) = budget.admit(*now);
            match admission {
                Admission::Run => {}
                Admission::Wait(wait) => *now += wait.as_nanos() as u64,
                Admission::Refused => *now += MS,
                Admission::Quarantined { .. } => return used,
            }
            if admission != Admission::Refused {
                *now += spent.as_nanos() as u64;
                used += spent;
                budget.settle(ticket, spent, *now);
            }
        }
        used
    }

    #[test]
    fn a_modest_filter_never_waits() {
        let budget = Budget::new(BudgetLimits::default());
        let mut now = S;
        for _call in 0..100_000 {
            let (admission, ticket) = budget.admit(now);
            assert_eq!(admission, Admission::Run);
            budget.settle(ticket, Duration::from_micros(2), now);
            now += 100_000;
        }
        assert!(!budget.slowed(now));
    }

    #[test]
    fn a_greedy_one_is_slowed_to_its_share() {
        let limits = BudgetLimits {
            patience: Duration::from_secs(3600),
            ..BudgetLimits::default()
        };
        let budget = Budget::new(limits);
        let mut now = S;
        let used = drive(&budget, &mut now, 11 * S, limits.slice);
        // 10 s at 500 ms a second, and the reserve once.
        let fair = Duration::from_millis(6000);
        assert!(used > fair * 9 / 10 && used < fair * 11 / 10, "{used:?}");
        assert!(budget.slowed(now));
    }

    #[test]
    fn one_that_runs_until_its_deadline_hardly_ever_holds_a_worker() {
        let limits = BudgetLimits {
            patience: Duration::from_secs(3600),
            ..BudgetLimits::default()
        };
        let budget = Budget::new(limits);
        let mut now = S;
        let used = drive(&budget, &mut now, 101 * S, Duration::from_micros(4900));
        // Few requests of others can meet it: their p99 is what it was.
        assert!(used < Duration::from_millis(250), "{used:?} of 100 s");
        assert!(used > Duration::from_millis(100), "{used:?} of 100 s");
    }

    #[test]
    fn many_that_ask_at_once_wait_behind_each_other() {
        let budget = Budget::new(BudgetLimits::default());
        let mut now = S;
        drive(&budget, &mut now, 3 * S, Duration::from_millis(1));
        let waits: Vec<_> = (0..3).map(|_call| budget.admit(now).0).collect();
        let Admission::Wait(first) = waits[0] else {
            panic!("{waits:?}");
        };
        let Admission::Wait(second) = waits[1] else {
            panic!("{waits:?}");
        };
        assert!(second > first + Duration::from_millis(20), "{waits:?}");
        let all: Vec<_> = (0..100).map(|_call| budget.admit(now).0).collect();
        assert!(all.contains(&Admission::Refused), "the queue has an end");
    }

    #[test]
    fn who_stays_in_debt_is_quarantined_each_time_for_longer() {
        let budget = Budget::new(BudgetLimits::default());
        let mut now = S;
        let mut lengths = Vec::new();
        for _round in 0..3 {
            let end = now + 20 * S;
            drive(&budget, &mut now, end, Duration::from_micros(4900));
            let until = budget.quarantined(now).expect("in quarantine");
            assert_eq!(budget.admit(now).0, Admission::Quarantined { until });
            lengths.push((until - now) / S);
            now = until;
            assert_eq!(budget.quarantined(now), None);
        }
        assert_eq!(lengths, [10, 20, 40]);
    }

    #[test]
    fn what_is_done_without_asking_closes_it_too() {
        let budget = Budget::new(BudgetLimits::default());
        let mut now = S;
        assert!(!budget.is_closed(now));
        budget.charge(Duration::from_millis(20), now);
        assert!(budget.is_closed(now), "in debt beyond what anything waits");
        let end = now + 10 * S;
        while now < end && budget.quarantined(now).is_none() {
            if !budget.is_closed(now) {
                budget.charge(Duration::from_millis(5), now);
            }
            now += 100 * MS;
        }
        let until = budget.quarantined(now).expect("in quarantine");
        assert!(budget.remembers(until) && budget.remembers(until + 500 * S));
        assert!(!budget.remembers(until + 601 * S));
    }

    #[test]
    fn what_others_did_for_it_is_not_dear() {
        let budget = Budget::new(BudgetLimits::default());
        budget.charge_apart(Duration::from_millis(1000), S);
        assert!(!budget.slowed(S), "the reserve pays");
        budget.charge_apart(Duration::from_millis(10), S);
        assert!(budget.slowed(S) && !budget.is_closed(S));
    }

    #[test]
    fn small_calls_between_large_ones_are_no_recovery() {
        let budget = Budget::new(BudgetLimits::default());
        let mut now = S;
        let end = now + 20 * S;
        while now < end && budget.quarantined(now).is_none() {
            for spent in [3_000, 5, 5, 5].map(Duration::from_micros) {
                let (admission, ticket) = budget.admit(now);
                if let Admission::Wait(wait) = admission {
                    now += wait.as_nanos() as u64;
                }
                now += spent.as_nanos() as u64;
                budget.settle(ticket, spent, now);
            }
        }
        assert!(budget.quarantined(now).is_some(), "slowed for ever");
    }

    #[test]
    fn a_burst_is_not_held_against_anybody() {
        let budget = Budget::new(BudgetLimits::default());
        let mut now = S;
        for _minute in 0..20 {
            let end = now + S;
            drive(&budget, &mut now, end, Duration::from_millis(1));
            now += 60 * S;
            assert_eq!(budget.quarantined(now), None);
            assert!(!budget.slowed(now));
        }
    }
}
