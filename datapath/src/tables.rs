//! The tables that grow with traffic: reading them; and how full a table is.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::Pod;
use aya::maps::{HashMap, IterableMap as _, MapData, PerCpuArray};
use weft_datapath_common::{Counter, map_names};

use crate::Error;
use crate::pins::Pins;
use crate::sys;

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

/// What came of reading a table and removing some of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sieved {
    /// Entries that stay.
    pub(crate) kept: usize,
    /// Entries that were removed.
    pub(crate) removed: usize,
}

/// Entries that this process removed, through whichever handle: without knowing
/// them, removals would look like evictions.
#[derive(Clone, Default)]
pub(crate) struct Removals(Arc<AtomicU64>);

impl Removals {
    fn count(&self, removed: usize) {
        self.0.fetch_add(removed as u64, Ordering::Relaxed);
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
        let map: HashMap<MapData, K, V> = pins.table(name)?;
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

    fn fd(&self) -> BorrowedFd<'_> {
        self.map.map().fd().as_fd()
    }

    /// Shows each entry once.
    pub(crate) fn each(&self, show: impl FnMut(&K, &V)) -> Result<(), Error> {
        each(self.fd(), show).map_err(Error::table(self.name))
    }

    /// Shows each entry once and removes those of which `doomed` says so, batch
    /// by batch: an idle flow has next to no time to come back between the look
    /// and its removal.
    pub(crate) fn sieve(
        &mut self,
        mut doomed: impl FnMut(&K, &V) -> bool,
    ) -> Result<Sieved, Error> {
        let failed = Error::table(self.name);
        let mut sieved = Sieved::default();
        let mut remove = Vec::new();
        let mut reader = sys::Reader::new(self.fd());
        while let Some((keys, values)) = reader.next().map_err(&failed)? {
            remove.clear();
            let entries = keys.iter().zip(values);
            remove.extend(
                entries
                    .filter(|(key, value)| doomed(key, value))
                    .map(|(key, _)| *key),
            );
            sieved.kept += keys.len() - remove.len();
            let removed = sys::remove(self.fd(), &remove).map_err(&failed)?;
            self.removals.count(removed);
            sieved.removed += removed;
        }
        Ok(sieved)
    }

    /// As [`Table::sieve`], and tells how full the table is then.
    pub(crate) fn survey(
        &mut self,
        doomed: impl FnMut(&K, &V) -> bool,
    ) -> Result<(Sieved, TableUse), Error> {
        // What is added after this line and what is removed before the next but
        // one make the evictions look fewer, never more.
        let added = self.counter(self.counted.added)?;
        let sieved = self.sieve(doomed)?;
        let removed = match self.counted.removed {
            Some(removed) => self.counter(removed)? + self.removals.get(),
            None => self.removals.get(),
        };
        let refused = self.counter(self.counted.refused)?;
        let refused_before = *self.refused_before.get_or_insert(refused);
        let in_use = TableUse {
            capacity: self.capacity,
            entries: sieved.kept,
            evicted: self.evictions.seen(added, removed + sieved.kept as u64),
            refused: refused.saturating_sub(refused_before),
        };
        Ok((sieved, in_use))
    }

    fn counter(&self, counter: Counter) -> Result<u64, Error> {
        let failed = Error::map(map_names::COUNTERS);
        let per_cpu = self.counters.get(&(counter as u32), 0).map_err(failed)?;
        Ok(per_cpu.iter().sum())
    }

    /// Removes these entries; returns how many were there.
    pub(crate) fn remove(&mut self, keys: &[K]) -> Result<usize, Error> {
        let removed = sys::remove(self.fd(), keys).map_err(Error::table(self.name))?;
        self.removals.count(removed);
        Ok(removed)
    }
}

/// Shows each entry of a table once.
pub(crate) fn each<K: Pod, V: Pod>(
    map: BorrowedFd<'_>,
    mut show: impl FnMut(&K, &V),
) -> std::io::Result<()> {
    let mut reader = sys::Reader::new(map);
    while let Some((keys, values)) = reader.next()? {
        for (key, value) in keys.iter().zip(values) {
            show(key, value);
        }
    }
    Ok(())
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
