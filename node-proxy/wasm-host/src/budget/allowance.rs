//! What one filter may use: of its own, and with the others of its namespace.

use std::sync::Arc;
use std::time::Duration;

use super::{Admission, Budget, BudgetLimits, Memory, Ticket};

/// So many times the reserve of one filter all of a namespace have together: one that burns time is
/// slowed long before the others of its namespace are.
const FILTERS: u32 = 5;

/// The account of a filter, and the one that it shares.
#[derive(Debug)]
pub struct Allowance {
    own: Budget,
    shared: Arc<Budget>,
}

/// Taken by [`Allowance::admit`], to be given back with [`Allowance::settle`] or
/// [`Allowance::cancel`].
#[derive(Debug)]
#[must_use = "what was reserved for the call is to be settled"]
pub struct Reservation {
    own: Ticket,
    shared: Ticket,
}

impl Reservation {
    const NONE: Self = Self {
        own: Ticket { reserved: 0 },
        shared: Ticket { reserved: 0 },
    };
}

impl Allowance {
    /// The account of all filters of a namespace, each of which may use so much.
    #[must_use]
    pub fn of_namespace(limits: BudgetLimits) -> Arc<Budget> {
        let reserve = limits.reserve.saturating_mul(FILTERS);
        Arc::new(Budget::new(BudgetLimits { reserve, ..limits }))
    }

    /// A filter's.
    #[must_use]
    pub fn new(limits: BudgetLimits, shared: Arc<Budget>) -> Self {
        Self {
            own: Budget::new(limits),
            shared,
        }
    }

    /// Asks before a call: both accounts have to let it run. Of a refusal nothing is reserved.
    pub fn admit(&self, now: u64) -> (Admission, Reservation) {
        let (own, of_own) = self.own.admit(now);
        if own.refuses() {
            return (own, Reservation::NONE);
        }
        let (shared, of_shared) = self.shared.admit(now);
        if shared.refuses() {
            self.own.cancel(of_own, now);
            return (shared, Reservation::NONE);
        }
        let wait = own.wait().max(shared.wait());
        let admission = match wait.is_zero() {
            true => Admission::Run,
            false => Admission::Wait(wait),
        };
        let reservation = Reservation {
            own: of_own,
            shared: of_shared,
        };
        (admission, reservation)
    }

    /// Whether nothing of it may run now, neither a call nor what else a worker does for it.
    pub fn is_closed(&self, now: u64) -> bool {
        self.own.is_closed(now) || self.shared.is_closed(now)
    }

    /// Pays for a call.
    pub fn settle(&self, reservation: Reservation, spent: Duration, now: u64) {
        self.own.settle(reservation.own, spent, now);
        self.shared.settle(reservation.shared, spent, now);
    }

    /// A call is not made after all.
    pub fn cancel(&self, reservation: Reservation, now: u64) {
        self.own.cancel(reservation.own, now);
        self.shared.cancel(reservation.shared, now);
    }

    /// Pays for what was done without asking: instances that were made, requests that ended.
    pub fn charge(&self, spent: Duration, now: u64) {
        self.own.charge(spent, now);
        self.shared.charge(spent, now);
    }

    /// Pays for what threads other than workers did, which hold up nobody.
    pub fn charge_apart(&self, spent: Duration, now: u64) {
        self.own.charge_apart(spent, now);
        self.shared.charge_apart(spent, now);
    }

    /// The end of the quarantine that it is in, alone or with its namespace.
    #[must_use]
    pub fn quarantined(&self, now: u64) -> Option<u64> {
        self.own.quarantined(now).max(self.shared.quarantined(now))
    }

    /// Whether its calls have to wait.
    #[must_use]
    pub fn slowed(&self, now: u64) -> bool {
        self.own.slowed(now) || self.shared.slowed(now)
    }

    /// The memory of its namespace's instances.
    #[must_use]
    pub fn memory(&self) -> &Arc<Memory> {
        self.shared.memory()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::{Admission, Allowance, BudgetLimits};

    const S: u64 = 1_000_000_000;

    #[test]
    fn a_filter_is_slowed_before_its_namespace_is() {
        let limits = BudgetLimits::default();
        let shared = Allowance::of_namespace(limits);
        let [greedy, modest] = [0; 2].map(|_| Allowance::new(limits, Arc::clone(&shared)));
        let long = Duration::from_micros(4900);
        let mut calls = 0;
        while !greedy.is_closed(S) {
            let (admission, reservation) = greedy.admit(S);
            assert!(matches!(admission, Admission::Run | Admission::Wait(_)));
            greedy.settle(reservation, long, S);
            calls += 1;
        }
        assert!(calls <= 3, "{calls}");
        for _refused in 0..1000 {
            assert!(matches!(greedy.admit(S).0, Admission::Refused));
        }
        let (admission, reservation) = modest.admit(S);
        assert_eq!(admission, Admission::Run);
        modest.cancel(reservation, S);
        assert!(greedy.slowed(S) && !modest.slowed(S));
    }

    #[test]
    fn many_filters_are_no_way_round_it() {
        let limits = BudgetLimits::default();
        let shared = Allowance::of_namespace(limits);
        let long = Duration::from_micros(4900);
        let mut served = 0;
        for _filter in 0..100 {
            let filter = Allowance::new(limits, Arc::clone(&shared));
            let (admission, reservation) = filter.admit(S);
            match admission {
                Admission::Run => {
                    filter.settle(reservation, long, S);
                    served += 1;
                }
                _ => filter.cancel(reservation, S),
            }
        }
        assert!(served <= 8, "{served}");
        assert!(shared.slowed(S));
    }
}
