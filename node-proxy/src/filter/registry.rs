//! Which filters there are on the node. A filter is the same one as long as
//! snapshots name it, whatever version of it they want.

use std::collections::HashMap;
use std::sync::Arc;

use weft_core::filter::{FilterKey, FilterSpec};
use weft_wasm_host::budget::{Allowance, BudgetLimits, Namespace};
use weft_wasm_host::clock::{Clock, SystemClock};

use super::NodeFilter;

/// The filters of the snapshot in force.
#[derive(Debug)]
pub struct Registry {
    last: u64,
    filters: HashMap<FilterKey, Arc<NodeFilter>>,
    /// Of each worker.
    limits: BudgetLimits,
    workers: usize,
    /// By namespace. Workers may hold filters for longer than snapshots name
    /// them, and what those use is still their namespace's.
    namespaces: HashMap<Box<str>, Arc<Namespace>>,
}

impl Registry {
    /// No filters yet; they may use so much of each of so many workers.
    #[must_use]
    pub fn new(limits: BudgetLimits, workers: usize) -> Self {
        Self {
            last: 0,
            filters: HashMap::new(),
            limits,
            workers,
            namespaces: HashMap::new(),
        }
    }

    /// The filters of a snapshot, in its order. Those that it does not name are
    /// forgotten: one that comes back later begins anew.
    pub fn resolve(&mut self, specs: &[Arc<FilterSpec>]) -> Box<[Arc<NodeFilter>]> {
        let mut before = std::mem::take(&mut self.filters);
        let resolved = specs
            .iter()
            .map(|spec| {
                let known = before.remove(&spec.key);
                let filter = known.or_else(|| self.filters.get(&spec.key).cloned());
                let filter = filter.unwrap_or_else(|| self.add(&spec.key));
                self.filters.insert(spec.key.clone(), Arc::clone(&filter));
                filter
            })
            .collect();
        drop(before);
        // Who was in quarantine does not get out of it by coming back.
        let now = SystemClock.monotonic();
        self.namespaces
            .retain(|_name, one| Arc::strong_count(one) > 1 || one.remembers(now));
        resolved
    }

    fn add(&mut self, key: &FilterKey) -> Arc<NodeFilter> {
        self.last += 1;
        let namespace = self.namespace(&key.namespace);
        let budget = Allowance::new(self.limits, self.workers, namespace);
        Arc::new(NodeFilter::new(self.last, key.clone(), budget))
    }

    fn namespace(&mut self, name: &str) -> Arc<Namespace> {
        let known = self.namespaces.entry(name.into());
        let namespace = known.or_insert_with(|| Namespace::new(self.limits, self.workers));
        Arc::clone(namespace)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weft_core::filter::{
        FilterKey, FilterKind, FilterLimits, FilterSpec, Isolation, OnError, Plugin,
    };

    use weft_wasm_host::budget::BudgetLimits;

    use super::{NodeFilter, Registry};

    fn spec(namespace: &str, name: &str) -> Arc<FilterSpec> {
        Arc::new(FilterSpec {
            key: FilterKey {
                kind: FilterKind::WeftFilter,
                namespace: namespace.into(),
                name: name.into(),
            },
            module: None,
            problem: None,
            config: Arc::default(),
            limits: FilterLimits::default(),
            on_error: OnError::default(),
            isolation: Isolation::default(),
            callouts: Arc::default(),
            plugin: Plugin::default(),
        })
    }

    #[test]
    fn a_filter_stays_the_same_as_long_as_it_is_named() {
        let mut registry = Registry::new(BudgetLimits::default(), 1);
        let first = registry.resolve(&[spec("a", "x"), spec("a", "y")]);
        let mut changed = (*spec("a", "y")).clone();
        changed.config = Arc::from(&b"{}"[..]);
        let second = registry.resolve(&[Arc::new(changed), spec("a", "z")]);
        assert!(Arc::ptr_eq(&first[1], &second[0]));
        assert_eq!(&*second[1].name, "WeftFilter a/z");
        let third = registry.resolve(&[spec("a", "x")]);
        assert_ne!(third[0].id, first[0].id, "it was gone meanwhile");
        assert!(third[0].id > second[1].id, "no number is given twice");
    }

    #[test]
    fn filters_of_a_namespace_have_one_budget() {
        let mut registry = Registry::new(BudgetLimits::default(), 1);
        let first = registry.resolve(&[spec("a", "x"), spec("b", "x"), spec("a", "y")]);
        let same = |one: &NodeFilter, other: &NodeFilter| {
            Arc::ptr_eq(one.budget.memory(), other.budget.memory())
        };
        assert!(same(&first[0], &first[2]));
        assert!(!same(&first[0], &first[1]));
        let second = registry.resolve(&[spec("a", "y"), spec("a", "z")]);
        assert!(same(&second[1], &first[0]));
        drop((first, second));
        registry.resolve(&[]);
        assert!(registry.namespaces.is_empty());
    }

    #[test]
    fn one_key_is_one_filter() {
        let mut registry = Registry::new(BudgetLimits::default(), 1);
        let twice = registry.resolve(&[spec("a", "x"), spec("a", "x")]);
        assert!(Arc::ptr_eq(&twice[0], &twice[1]));
    }
}
