//! What each source stands for, and when to look again: plain state, which is
//! told the time.

mod slots;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use weft_api::k8s::filter::{Location, ModuleSource, Refresh};
use weft_core::filter::ModuleDigest;

use super::fetch::{Found, Stamp};
use super::store::Store;
use slots::Slots;
pub use slots::{Look, Wanted};

/// Files are looked at this often: a look is a few system calls.
const FILES: Duration = Duration::from_secs(2);
/// First and longest wait after a failure.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_LAST: Duration = Duration::from_secs(300);

/// The sources that filters name.
pub struct Modules {
    store: Store,
    /// Between two looks at what may stand for something else later.
    refresh: Duration,
    entries: BTreeMap<ModuleSource, Entry>,
    slots: Slots,
}

#[derive(Debug, Default)]
struct Entry {
    wanted: Wanted,
    digest: Option<ModuleDigest>,
    error: Option<String>,
    /// In a row.
    failures: u32,
    /// When to look. While it is looked at: that it is to be looked at again.
    due: Option<Instant>,
    stamp: Option<Stamp>,
}

impl Modules {
    /// No sources yet.
    pub fn new(store: Store, refresh: Duration) -> Self {
        Self {
            store,
            refresh,
            entries: BTreeMap::new(),
            slots: Slots::default(),
        }
    }

    /// These are the sources from now on, and those that are needed on this node
    /// are looked at. What others stood for last is known all the same. A look at
    /// one that nothing here needs any more is broken off.
    pub fn want(&mut self, wanted: &BTreeMap<ModuleSource, Wanted>, now: Instant) {
        self.entries.retain(|source, _| wanted.contains_key(source));
        self.slots
            .stop_unless(|source| wanted.get(source).is_some_and(|wanted| wanted.needed));
        for (source, wanted) in wanted {
            let store = &self.store;
            let entry = self.entries.entry(source.clone()).or_insert_with(|| Entry {
                digest: store.last_of(&key_of(source)),
                ..Entry::default()
            });
            let settled = entry.digest.is_some() && is_fixed(source);
            if wanted.needed && !entry.wanted.needed && !settled {
                entry.due = Some(now);
            }
            if !wanted.needed {
                entry.due = None;
                entry.error = None;
            }
            if entry.wanted != *wanted {
                entry.wanted = wanted.clone();
            }
        }
        let wanted = self.entries.values().map(|entry| &entry.wanted);
        self.slots.retain(wanted);
        self.retain(now);
    }

    fn retain(&self, now: Instant) {
        let sources: BTreeSet<_> = self.entries.keys().map(key_of).collect();
        let mut in_use: BTreeMap<ModuleDigest, BTreeSet<Box<str>>> = BTreeMap::new();
        for entry in self.entries.values() {
            if let Some(digest) = entry.digest {
                let tenants = entry.wanted.tenants.iter().cloned();
                in_use.entry(digest).or_default().extend(tenants);
            }
        }
        self.store.retain(&sources, in_use, now);
    }

    /// A ConfigMap changed.
    pub fn map_changed(&mut self, namespace: &str, name: &str, now: Instant) {
        let is = |source: &ModuleSource| match &source.location {
            Location::ConfigMap {
                namespace: of,
                name: map,
                ..
            } => of == namespace && map == name,
            _ => false,
        };
        let of_map = self.entries.iter_mut().filter(|(source, _)| is(source));
        for (_, entry) in of_map.filter(|(_, entry)| entry.wanted.needed) {
            entry.due = Some(now);
        }
    }

    /// The store has lost a module: sources are looked at anew.
    pub fn lost(&mut self, now: Instant) {
        for entry in self.entries.values_mut() {
            if entry.digest.is_some_and(|digest| !self.store.has(digest)) {
                entry.digest = None;
                entry.stamp = None;
                if entry.wanted.needed {
                    entry.due = Some(now);
                }
            }
        }
    }

    /// The ConfigMaps that are named and needed: namespaces and names.
    pub fn maps(&self) -> BTreeSet<(String, String)> {
        let needed = self.entries.iter().filter(|(_, one)| one.wanted.needed);
        let maps = needed.filter_map(|(source, _)| match &source.location {
            Location::ConfigMap {
                namespace, name, ..
            } => Some((namespace.clone(), name.clone())),
            _ => None,
        });
        maps.collect()
    }

    /// When something is due next for which there is a slot.
    pub fn due(&self) -> Option<Instant> {
        self.slots.next_due(dues(&self.entries))
    }

    /// Starts what is due.
    pub fn start(&mut self, now: Instant) -> Vec<Look> {
        let due = dues(&self.entries).filter(|(_, _, due)| *due <= now);
        let turns = self.slots.turns(due);
        let mut looks = Vec::with_capacity(turns.len());
        for (source, tenant) in turns {
            let Some(entry) = self.entries.get_mut(&source) else {
                continue;
            };
            entry.due = None;
            looks.push(self.slots.start(source, tenant, entry.stamp));
        }
        looks
    }

    /// A look has ended; one that was broken off has found nothing.
    pub fn ended(
        &mut self,
        source: &ModuleSource,
        found: Option<Result<Found, String>>,
        now: Instant,
    ) {
        self.slots.ended(source);
        let Some(entry) = self.entries.get_mut(source) else {
            return;
        };
        let Some(found) = found else {
            return;
        };
        let again = entry.due.is_some();
        // What others needed may have taken its place already.
        let found = found.and_then(|found| match found {
            Found::Module(digest, _) if !self.store.has(digest) => {
                Err("it gave way to other modules on the node's disk".to_owned())
            }
            found => Ok(found),
        });
        match found {
            Ok(found) => {
                entry.failures = 0;
                entry.error = None;
                if let Found::Module(digest, stamp) = found {
                    entry.digest = Some(digest);
                    entry.stamp = stamp;
                    self.store.note(&key_of(source), digest);
                }
                entry.due = match (&source.location, source.refresh) {
                    // The disk lost it since; it is the same no more.
                    _ if entry.digest.is_none() => Some(now),
                    (Location::File(_), _) => Some(now + FILES),
                    (Location::ConfigMap { .. }, _) | (_, Refresh::Never) => None,
                    (_, Refresh::Periodic) => Some(now + self.refresh),
                };
            }
            Err(error) => {
                entry.error = Some(format!("{}: {error}", source.location.told()));
                let longest = match &source.location {
                    Location::File(_) => FILES,
                    _ => BACKOFF_LAST,
                };
                let wait = BACKOFF_FIRST.saturating_mul(1 << entry.failures.min(16));
                entry.failures += 1;
                entry.due = Some(now + wait.min(longest));
            }
        }
        if again {
            entry.due = Some(now);
        }
        if !entry.wanted.needed {
            entry.due = None;
        }
        self.retain(now);
    }

    /// What a source stands for on this node, and what is wrong with it.
    pub fn state(&self, source: &ModuleSource) -> (Option<ModuleDigest>, Option<&str>) {
        self.entries
            .get(source)
            .map_or((None, None), |entry| (entry.digest, entry.error.as_deref()))
    }
}

fn dues(
    entries: &BTreeMap<ModuleSource, Entry>,
) -> impl Iterator<Item = (&ModuleSource, &Wanted, Instant)> + Clone {
    let entries = entries.iter();
    entries.filter_map(|(source, entry)| Some((source, &entry.wanted, entry.due?)))
}

/// Whether it stands for the same for ever.
fn is_fixed(source: &ModuleSource) -> bool {
    match &source.location {
        Location::File(_) | Location::ConfigMap { .. } => false,
        Location::Https(_) | Location::Oci(_) => source.refresh == Refresh::Never,
    }
}

/// What a source is called on disk. What a login opened is not known to those
/// who do not have it.
fn key_of(source: &ModuleSource) -> String {
    let mut key = source.location.to_string();
    if let Some((namespace, name)) = &source.pull_secret {
        key.push_str(&format!(" secret={namespace}/{name}"));
    }
    if let Some(digest) = source.sha256 {
        key.push_str(&format!(" sha256={digest}"));
    }
    key
}

#[cfg(test)]
mod tests;
