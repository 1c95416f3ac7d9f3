//! What one filter may use: on each worker, and with the others of its namespace.

use std::sync::Arc;
use std::time::Duration;

use super::{Admission, Budget, BudgetLimits, Memory, Ticket};

/// So many times the reserve of one filter all of a namespace have together: one that burns time is
/// slowed long before the others of its namespace are.
const FILTERS: u32 = 5;

/// What all filters of a namespace share, on all workers.
#[derive(Debug)]
pub struct Namespace {
    budget: Budget,
    memory: Arc<Memory>,
}

impl Namespace {
    /// Of a node with so many workers, of each of which so much may be used.
    #[must_use]
    pub fn new(limits: BudgetLimits, workers: usize) -> Arc<Self> {
        let all = limits.of_workers(workers.max(1));
        let reserve = all.reserve.saturating_mul(FILTERS);
        Arc::new(Self {
            budget: Budget::new(BudgetLimits { reserve, ..all }),
            memory: Arc::new(Memory::new(all.memory)),
        })
    }

    /// Whether it has been in quarantine lately, so that the next one is to be longer.
    #[must_use]
    pub fn remembers(&self, now: u64) -> bool {
        self.budget.remembers(now)
    }
}

/// The accounts of a filter, one on each worker, and the one that it shares. What a filter leaves
/// unused on one worker it cannot use on another: there it would be others who wait.
#[derive(Debug)]
pub struct Allowance {
    own: Box<[Budget]>,
    shared: Arc<Namespace>,
}

/// Taken by [`Allowance::admit`], to be given back with [`Allowance::settle`] or
/// [`Allowance::cancel`].
#[derive(Debug)]
#[must_use = "what was reserved for the call is to be settled"]
pub struct Reservation {
    worker: usize,
    own: Ticket,
    shared: Ticket,
}

impl Reservation {
    const fn of_nothing(worker: usize) -> Self {
        Self {
            worker,
            own: Ticket { reserved: 0 },
            shared: Ticket { reserved: 0 },
        }
    }
}

impl Allowance {
    /// A filter's, which may use so much of each worker.
    #[must_use]
    pub fn new(limits: BudgetLimits, workers: usize, shared: Arc<Namespace>) -> Self {
        let own = (0..workers.max(1)).map(|_worker| Budget::new(limits));
        Self {
            own: own.collect(),
            shared,
        }
    }

    /// Asks before a call: both accounts have to let it run. Of a refusal nothing is reserved.
    pub fn admit(&self, worker: usize, now: u64) -> (Admission, Reservation) {
        let (own, of_own) = self.own(worker).admit(now);
        if own.refuses() {
            return (own, Reservation::of_nothing(worker));
        }
        let (shared, of_shared) = self.shared.budget.admit(now);
        if shared.refuses() {
            self.own(worker).cancel(of_own, now);
            return (shared, Reservation::of_nothing(worker));
        }
        let wait = own.wait().max(shared.wait());
        let admission = match wait.is_zero() {
            true => Admission::Run,
            false => Admission::Wait(wait),
        };
        let reservation = Reservation {
            worker,
            own: of_own,
            shared: of_shared,
        };
        (admission, reservation)
    }

    /// Whether nothing of it may run now, neither a call nor what else a worker does for it.
    pub fn is_closed(&self, worker: usize, now: u64) -> bool {
        self.own(worker).is_closed(now) || self.shared.budget.is_closed(now)
    }

    /// Pays for a call.
    pub fn settle(&self, reservation: Reservation, spent: Duration, now: u64) {
        self.own(reservation.worker)
            .settle(reservation.own, spent, now);
        self.shared.budget.settle(reservation.shared, spent, now);
    }

    /// A call is not made after all.
    pub fn cancel(&self, reservation: Reservation, now: u64) {
        self.own(reservation.worker).cancel(reservation.own, now);
        self.shared.budget.cancel(reservation.shared, now);
    }

    /// Pays for what was done without asking: instances that were made, requests that ended.
    pub fn charge(&self, worker: usize, spent: Duration, now: u64) {
        self.own(worker).charge(spent, now);
        self.shared.budget.charge(spent, now);
    }

    /// Pays for what threads other than the worker did for it, which hold up nobody.
    pub fn charge_apart(&self, worker: usize, spent: Duration, now: u64) {
        self.own(worker).charge_apart(spent, now);
        self.shared.budget.charge_apart(spent, now);
    }

    /// The end of the last quarantine that it is in, on any worker or with its namespace.
    #[must_use]
    pub fn quarantined(&self, now: u64) -> Option<u64> {
        self.accounts().filter_map(|one| one.quarantined(now)).max()
    }

    /// Whether calls of it have to wait.
    #[must_use]
    pub fn slowed(&self, now: u64) -> bool {
        self.accounts().any(|one| one.slowed(now))
    }

    /// The memory of its namespace's instances.
    #[must_use]
    pub fn memory(&self) -> &Arc<Memory> {
        &self.shared.memory
    }

    fn own(&self, worker: usize) -> &Budget {
        // There is always one, and workers beyond those that were told share them.
        &self.own[worker % self.own.len()]
    }

    fn accounts(&self) -> impl Iterator<Item = &Budget> {
        self.own.iter().chain([&self.shared.budget])
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::{Admission, Allowance, BudgetLimits, Namespace};

    const S: u64 = 1_000_000_000;
    const LONG: Duration = Duration::from_micros(4900);

    /// Calls of a filter on a worker until it is refused. How many there were.
    fn burn(filter: &Allowance, worker: usize) -> usize {
        let mut calls = 0;
        while !filter.is_closed(worker, S) {
            let (admission, reservation) = filter.admit(worker, S);
            assert!(matches!(admission, Admission::Run | Admission::Wait(_)));
            filter.settle(reservation, LONG, S);
            calls += 1;
        }
        calls
    }

    #[test]
    fn a_filter_is_slowed_before_its_namespace_is() {
        let limits = BudgetLimits::default();
        let shared = Namespace::new(limits, 1);
        let [greedy, modest] = [0; 2].map(|_| Allowance::new(limits, 1, Arc::clone(&shared)));
        let calls = burn(&greedy, 0);
        assert!(calls <= 3, "{calls}");
        for _refused in 0..1000 {
            assert!(matches!(greedy.admit(0, S).0, Admission::Refused));
        }
        let (admission, reservation) = modest.admit(0, S);
        assert_eq!(admission, Admission::Run);
        modest.cancel(reservation, S);
        assert!(greedy.slowed(S) && !modest.slowed(S));
    }

    #[test]
    fn what_is_unused_on_one_worker_is_not_used_on_another() {
        let limits = BudgetLimits::default();
        let workers = 64;
        let filter = Allowance::new(limits, workers, Namespace::new(limits, workers));
        assert!(burn(&filter, 0) <= 3);
        let (admission, reservation) = filter.admit(1, S);
        assert_eq!(admission, Admission::Run);
        filter.cancel(reservation, S);
    }

    #[test]
    fn many_filters_are_no_way_round_it() {
        let limits = BudgetLimits::default();
        let shared = Namespace::new(limits, 1);
        let filters = (0..100).map(|_| Allowance::new(limits, 1, Arc::clone(&shared)));
        let filters: Vec<_> = filters.collect();
        let served: usize = filters.iter().map(|filter| burn(filter, 0)).sum();
        assert!(served <= 8, "{served}");
        assert!(filters.iter().all(|filter| filter.slowed(S)));
    }
}
