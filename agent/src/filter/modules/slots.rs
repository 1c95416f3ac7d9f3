//! Who is looked at next: a few sources at once, and every namespace in its turn,
//! so that nobody whose servers never answer keeps others waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use tokio_util::sync::CancellationToken;
use weft_api::k8s::filter::{Location, ModuleSource};

use crate::filter::fetch::Stamp;

/// How many sources are looked at at once: of those on the network, and of those
/// that the node or the API server has, which nobody's server can hold up.
const AT_ONCE: usize = 4;
/// And of one namespace.
const OF_ONE: usize = 2;

/// Who wants a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Something on this node is to have it.
    pub needed: bool,
    /// The namespaces of the filters that name it; of those that need it, where
    /// some do. Empty for the cluster's.
    pub tenants: BTreeSet<Box<str>>,
}

impl Wanted {
    /// Adds a filter of this namespace.
    pub fn add(&mut self, tenant: &str, needed: bool) {
        if needed && !self.needed {
            self.needed = true;
            self.tenants.clear();
        }
        if needed == self.needed {
            self.tenants.insert(tenant.into());
        }
    }
}

/// A look that is to be done.
#[derive(Debug)]
pub struct Look {
    /// At what.
    pub source: ModuleSource,
    /// Of the file that it was.
    pub stamp: Option<Stamp>,
    /// On whose account.
    pub tenant: Box<str>,
    /// Cancelled when nobody wants it any more.
    pub stop: CancellationToken,
}

/// The looks under way. One that was broken off keeps its slot until it has
/// ended.
#[derive(Debug, Default)]
pub struct Slots {
    running: BTreeMap<ModuleSource, Running>,
    /// The last turn of each namespace.
    last: BTreeMap<Box<str>, u64>,
    turn: u64,
}

#[derive(Debug)]
struct Running {
    tenant: Box<str>,
    stop: CancellationToken,
}

/// A source, who wants it, and when it is to be looked at.
type Due<'d> = (&'d ModuleSource, &'d Wanted, Instant);

impl Slots {
    /// Breaks off what is not wanted.
    pub fn stop_unless(&self, wanted: impl Fn(&ModuleSource) -> bool) {
        let unwanted = self.running.iter().filter(|(source, _)| !wanted(source));
        unwanted.for_each(|(_, running)| running.stop.cancel());
    }

    /// A look has ended.
    pub fn ended(&mut self, source: &ModuleSource) {
        self.running.remove(source);
    }

    /// When the first of them is due for which there is a slot.
    pub fn next_due<'d>(&self, dues: impl Iterator<Item = Due<'d>>) -> Option<Instant> {
        let taken = self.taken();
        let can = |due: &Due<'d>| {
            !self.running.contains_key(due.0)
                && due.1.tenants.iter().any(|one| taken.leaves(due.0, one))
        };
        dues.filter(can).map(|(_, _, due)| due).min()
    }

    /// Those of them whose turn it is, with the namespaces on whose account: first
    /// of the namespace of which the fewest are under way, then of the one that
    /// waits longest for its turn, and of one namespace what is due longest.
    pub fn turns<'d>(
        &mut self,
        due: impl Iterator<Item = Due<'d>> + Clone,
    ) -> Vec<(ModuleSource, Box<str>)> {
        let mut taken = self.taken();
        let mut turns: Vec<(ModuleSource, Box<str>)> = Vec::new();
        loop {
            let last = &self.last;
            let chosen: BTreeSet<_> = turns.iter().map(|(source, _)| source).collect();
            let free = due.clone().filter(|(source, ..)| {
                !self.running.contains_key(*source) && !chosen.contains(source)
            });
            let next = free
                .flat_map(|(source, wanted, due)| {
                    let tenants = wanted.tenants.iter();
                    let tenants = tenants.filter(|one| taken.leaves(source, one));
                    let of = tenants.map(|one| {
                        let turn = last.get(one).copied().unwrap_or_default();
                        (taken.of(source, one), turn, due, source, one)
                    });
                    of.collect::<Vec<_>>()
                })
                .min();
            let Some((_, _, _, source, tenant)) = next else {
                return turns;
            };
            taken.take(source, tenant);
            self.turn += 1;
            self.last.insert(tenant.clone(), self.turn);
            turns.push((source.clone(), tenant.clone()));
        }
    }

    /// A look begins.
    pub fn start(&mut self, source: ModuleSource, tenant: Box<str>, stamp: Option<Stamp>) -> Look {
        let stop = CancellationToken::new();
        let running = Running {
            tenant: tenant.clone(),
            stop: stop.clone(),
        };
        self.running.insert(source.clone(), running);
        Look {
            source,
            stamp,
            tenant,
            stop,
        }
    }

    /// Forgets the turns of namespaces that want nothing.
    pub fn retain<'w>(&mut self, wanted: impl Iterator<Item = &'w Wanted>) {
        let tenants = wanted.flat_map(|one| &one.tenants);
        let tenants: BTreeSet<&str> = tenants.map(|one| &**one).collect();
        self.last.retain(|tenant, _| tenants.contains(&**tenant));
    }

    fn taken(&self) -> Taken {
        let mut taken = Taken::default();
        for (source, running) in &self.running {
            taken.take(source, &running.tenant);
        }
        taken
    }
}

/// Slots that are taken: of what is far away and what is not.
#[derive(Debug, Default)]
struct Taken([Pool; 2]);

#[derive(Debug, Default)]
struct Pool {
    all: usize,
    by_tenant: BTreeMap<Box<str>, usize>,
}

impl Taken {
    fn pool(source: &ModuleSource) -> usize {
        usize::from(match &source.location {
            Location::File(_) | Location::ConfigMap { .. } => false,
            Location::Https(_) | Location::Oci(_) => true,
        })
    }

    fn take(&mut self, source: &ModuleSource, tenant: &str) {
        if let Some(pool) = self.0.get_mut(Self::pool(source)) {
            pool.all += 1;
            *pool.by_tenant.entry(tenant.into()).or_default() += 1;
        }
    }

    fn of(&self, source: &ModuleSource, tenant: &str) -> usize {
        let pool = self.0.get(Self::pool(source));
        let taken = pool.and_then(|pool| pool.by_tenant.get(tenant));
        taken.copied().unwrap_or_default()
    }

    fn leaves(&self, source: &ModuleSource, tenant: &str) -> bool {
        let pool = self.0.get(Self::pool(source));
        pool.is_some_and(|pool| pool.all < AT_ONCE) && self.of(source, tenant) < OF_ONE
    }
}
