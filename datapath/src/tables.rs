//! The tables that grow with traffic: reading them; and how full a table is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::Pod;
use aya::maps::{HashMap, IterableMap as _, MapData, MapError, PerCpuArray};
use weft_datapath_common::{Counter, map_names};

use crate::Error;
use crate::error::is_missing;
use crate::pins::Pins;

/// How full a table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableUse {
    /// Entries that it has room for.
    pub capacity: u32,
    /// Entries in it.
    pub entries: usize,
    /// Entries that the kernel pushed out to make room, as far as that is
    /// certain: what comes and goes while the table is read is left out.
    /// Counted from the first look of this handle.
    pub evicted: u64,
    /// Entries for which there was no room at all, or no port for masquerading,
    /// likewise.
    pub refused: u64,
}

/// Entries that this process removed, through whichever handle: without knowing
/// them, removals would look like evictions.
#[derive(Clone, Default)]
pub(crate) struct Removals(Arc<AtomicU64>);

impl Removals {
    fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the programs count about a table.
#[derive(Clone, Copy)]
pub(crate) struct Counted {
    pub(crate) added: Counter,
    pub(crate) removed: Option<Counter>,
    pub(crate) refused: Counter,
}

/// A table and what is counted about it.
pub(crate) struct Table<K, V> {
    map: HashMap<MapData, K, V>,
    name: &'static str,
    capacity: u32,
    counters: PerCpuArray<MapData, u64>,
    counted: Counted,
    removals: Removals,
    evictions: Evictions,
    refused_before: Option<u64>,
}

impl<K: Pod, V: Pod> Table<K, V> {
    pub(crate) fn open(
        pins: &Pins,
        name: &'static str,
        counted: Counted,
        removals: &Removals,
    ) -> Result<Self, Error> {
        let map: HashMap<MapData, K, V> = pins.open(name)?;
        let info = map.map().info().map_err(Error::map(name))?;
        Ok(Self {
            capacity: info.max_entries(),
            map,
            name,
            counters: pins.open(map_names::COUNTERS)?,
            counted,
            removals: removals.clone(),
            evictions: Evictions::default(),
            refused_before: None,
        })
    }

    /// Reads it whole.
    pub(crate) fn read(&self) -> Result<Vec<(K, V)>, Error> {
        read(&self.map, self.name)
    }

    /// Reads it whole and tells how full it is.
    pub(crate) fn survey(&mut self) -> Result<(Vec<(K, V)>, TableUse), Error> {
        // What is added after this line and what is removed before the next but
        // one make the evictions look fewer, never more.
        let added = self.counter(self.counted.added)?;
        let entries = self.read()?;
        let removed = match self.counted.removed {
            Some(removed) => self.counter(removed)? + self.removals.get(),
            None => self.removals.get(),
        };
        let refused = self.counter(self.counted.refused)?;
        let refused_before = *self.refused_before.get_or_insert(refused);
        let held = entries.len() as u64;
        let in_use = TableUse {
            capacity: self.capacity,
            entries: entries.len(),
            evicted: self.evictions.seen(added, removed + held),
            refused: refused.saturating_sub(refused_before),
        };
        Ok((entries, in_use))
    }

    fn counter(&self, counter: Counter) -> Result<u64, Error> {
        let failed = Error::map(map_names::COUNTERS);
        let per_cpu = self.counters.get(&(counter as u32), 0).map_err(failed)?;
        Ok(per_cpu.iter().sum())
    }

    /// Removes one entry; whether it was there.
    pub(crate) fn remove(&mut self, key: &K) -> Result<bool, Error> {
        match self.map.remove(key) {
            Ok(()) => {
                self.removals.count();
                Ok(true)
            }
            Err(error) if is_missing(&error) => Ok(false),
            Err(error) => Err(Error::map(self.name)(error)),
        }
    }

    /// Removes the doomed among these, which were read before: removing under
    /// an iterator sends it back to the start. Returns how many.
    pub(crate) fn remove_all(
        &mut self,
        entries: &[(K, V)],
        doomed: impl Fn(&K, &V) -> bool,
    ) -> Result<usize, Error> {
        let mut removed = 0;
        for (key, value) in entries {
            if doomed(key, value) && self.remove(key)? {
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// Reads a whole map. Entries that vanish meanwhile are left out.
pub(crate) fn read<K: Pod, V: Pod>(
    map: &HashMap<MapData, K, V>,
    name: &'static str,
) -> Result<Vec<(K, V)>, Error> {
    map.iter()
        .filter(|entry| !matches!(entry, Err(MapError::KeyNotFound)))
        .collect::<Result<_, _>>()
        .map_err(Error::map(name))
}

/// What was added and neither removed nor is still there was evicted.
#[derive(Default)]
struct Evictions {
    /// The same sum at the first look: the table may be older than its
    /// counters.
    before: Option<i128>,
    most: u64,
}

impl Evictions {
    fn seen(&mut self, added: u64, accounted_for: u64) -> u64 {
        let missing = i128::from(added) - i128::from(accounted_for);
        let before = *self.before.get_or_insert(missing);
        let since = u64::try_from(missing - before).unwrap_or(0);
        self.most = self.most.max(since);
        self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_was_evicted() {
        let mut evictions = Evictions::default();
        // An older table, whose entries nobody counted.
        assert_eq!(evictions.seen(0, 70), 0);
        assert_eq!(evictions.seen(50, 120), 0);
        assert_eq!(evictions.seen(100, 150), 20);
        // More was there than counted, for a moment: no eviction is taken back.
        assert_eq!(evictions.seen(100, 160), 20);
        assert_eq!(evictions.seen(130, 160), 40);
    }
}
