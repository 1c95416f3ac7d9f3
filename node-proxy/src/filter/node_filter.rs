//! A filter on this node, across its versions.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use weft_core::filter::FilterKey;
use weft_wasm_host::budget::Allowance;
use weft_wasm_host::{FaultKind, Filter, Limits, Published, ReloadError, Shared};

/// What all workers share of a filter.
pub struct NodeFilter {
    /// Never given twice while the proxy runs.
    pub id: u64,
    /// The object that it comes from.
    pub key: FilterKey,
    /// The key in words, for records and metrics.
    pub name: Arc<str>,
    /// The version in force: the last good one.
    pub published: Published,
    /// What outlives a version.
    pub shared: Shared,
    /// Its CPU time, and what it shares with its namespace; clusterwide filters
    /// share with each other.
    pub budget: Allowance,
    /// The last attempt failed at the configuration. Beside the condition of
    /// `published`, which is behind a lock.
    misconfigured: AtomicBool,
}

impl NodeFilter {
    /// One of which no version is there yet.
    #[must_use]
    pub fn new(id: u64, key: FilterKey, budget: Allowance) -> Self {
        let name = key.to_string().into();
        Self {
            id,
            key,
            name,
            published: Published::new(),
            shared: Shared::new(&Limits::default(), Arc::clone(budget.memory())),
            budget,
            misconfigured: AtomicBool::new(false),
        }
    }

    /// A new version, or why there is none: then the last good one stays.
    pub fn publish(&self, next: Result<Arc<Filter>, ReloadError>) {
        let kind = next.as_ref().err().map(ReloadError::kind);
        self.misconfigured
            .store(kind == Some(FaultKind::Config), Ordering::Relaxed);
        self.published.publish(next);
    }

    /// What requests meet while no version is there. Reads without a lock.
    #[must_use]
    pub fn first_fault(&self) -> FaultKind {
        match self.misconfigured.load(Ordering::Relaxed) {
            true => FaultKind::Config,
            false => FaultKind::Load,
        }
    }
}

impl fmt::Debug for NodeFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeFilter")
            .field("id", &self.id)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use weft_core::filter::{FilterKey, FilterKind};
    use weft_wasm_host::budget::{Allowance, BudgetLimits, Namespace};
    use weft_wasm_host::{ConfigureError, Fault, FaultKind, ReloadError};

    use super::NodeFilter;

    #[test]
    fn a_filter_without_a_version_fails_as_its_last_attempt_did() {
        let key = FilterKey {
            kind: FilterKind::WeftFilter,
            namespace: "default".into(),
            name: "jwt".into(),
        };
        let limits = BudgetLimits::default();
        let budget = Allowance::new(limits, 1, Namespace::new(limits, 1));
        let filter = NodeFilter::new(1, key, budget);
        assert_eq!(&*filter.name, "WeftFilter default/jwt");
        assert_eq!(filter.first_fault(), FaultKind::Load);
        let refused = Fault::Config("no such header".to_owned());
        filter.publish(Err(ReloadError::Configure(ConfigureError::Fault(refused))));
        assert_eq!(filter.first_fault(), FaultKind::Config);
        assert!(filter.published.current().is_none());
        filter.publish(Err(ReloadError::Fetch("not here".to_owned())));
        assert_eq!(filter.first_fault(), FaultKind::Load);
    }
}
