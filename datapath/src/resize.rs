//! Tables whose size is the user's to choose. The programs find each in a slot
//! (a pinned map of one map), so that one of another size takes an old one's
//! place for all programs at once, between two packets. No connection notices.
//!
//! A loader may die at any point, and the next one goes on:
//!
//! | it died | what is there | what the next one does |
//! |---|---|---|
//! | before the slot was filled for the first time | an empty slot, and no program attached | fills it |
//! | while it filled the new table | the old one in the slot; the new one was nobody's and is gone | begins anew |
//! | with the old table pinned, before the exchange | the old one in the slot and under a second pin | removes that pin, begins anew |
//! | after the exchange | the new one in the slot, the old one under its pin | moves over what the programs wrote last, removes the pin; what they removed last stays until it times out |

use std::ffi::CString;
use std::fs;
use std::io::ErrorKind;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use aya::Pod;
use aya::maps::{ArrayOfMaps, HashMap, IterableMap as _, Map, MapData, MapError};
use tracing::info;

use crate::Error;
use crate::conntrack::now;
use crate::pins::Pins;
use crate::{sys, tables};

/// `BPF_NOEXIST`, from the kernel's `bpf.h`.
const NEW: u64 = 1;
/// Entries that are in this process's memory at a time: tables may be larger
/// than what it should take.
const CHUNK: usize = 65_536;
/// The programs stamp entries with a clock that lags by a tick.
const CLOCK_LAG: u64 = 100_000_000;

/// Where the programs find a table.
pub(crate) type Slot<K, V> = ArrayOfMaps<MapData, HashMap<MapData, K, V>>;

/// A table that grows with traffic.
#[derive(Clone, Copy)]
pub(crate) struct Resizable<V> {
    /// Name of its slot.
    pub(crate) name: &'static str,
    /// Entries that it is to have room for.
    pub(crate) room: u32,
    /// When an entry was last in use, on the clock of [`now`].
    pub(crate) last_seen: fn(&V) -> u64,
}

impl<V: Pod> Resizable<V> {
    /// Makes sure that the slot holds a table with room for so many entries, and
    /// that it has the entries of the one before.
    pub(crate) fn fit<K: Pod>(&self, pins: &Pins) -> Result<(), Error> {
        let failed = Error::map(self.name);
        let mut slot: Slot<K, V> = pins.open(self.name)?;
        let mut held = match slot.get(&0, 0) {
            Ok(held) => Table::of(held).map_err(&failed)?,
            Err(MapError::KeyNotFound) => {
                let first = self.create::<K>()?;
                return slot.set(0, &first.map, 0).map_err(&failed);
            }
            Err(error) => return Err(failed(error)),
        };
        // A name with a dot is none on bpffs.
        let old_pin = pins.maps().join(format!("{}_OLD", self.name));
        self.finish(&mut held, &old_pin)?;
        if held.room == self.room {
            return Ok(());
        }
        info!(
            table = self.name,
            from = held.room,
            to = self.room,
            "another size"
        );
        let mut new = self.create::<K>()?;
        let begun = now();
        self.copy(&held, &new)?;
        // Else it would go with this process, and with it what the programs
        // write from here on.
        held.map.map().pin(&old_pin).map_err(|source| Error::Pin {
            path: old_pin.clone(),
            source,
        })?;
        // The kernel returns when no program uses the old one any more.
        let exchanged = now();
        slot.set(0, &new.map, 0).map_err(&failed)?;
        self.catch_up(&held, &mut new, begun.saturating_sub(CLOCK_LAG))?;
        self.drop_removed(&held, &new, exchanged.saturating_sub(CLOCK_LAG))?;
        fs::remove_file(&old_pin).map_err(Error::io(&old_pin))
    }

    fn create<K: Pod>(&self) -> Result<Table<K, V>, Error> {
        let name = CString::new(self.name).unwrap_or_default();
        let fd = sys::create_table::<K, V>(&name, self.room).map_err(Error::table(self.name))?;
        MapData::from_fd(fd)
            .and_then(Table::open)
            .map_err(Error::map(self.name))
    }

    /// Ends what a loader began that did not come to its end.
    fn finish<K: Pod>(&self, held: &mut Table<K, V>, old_pin: &Path) -> Result<(), Error> {
        let old = match MapData::from_pin(old_pin).and_then(Table::<K, V>::open) {
            Ok(old) => old,
            Err(error) if is(&error, ErrorKind::NotFound) => return Ok(()),
            Err(error) => return Err(Error::map(self.name)(error)),
        };
        if old.id != held.id {
            info!(table = self.name, "a change of size is brought to its end");
            self.catch_up(&old, held, 0)?;
        }
        fs::remove_file(old_pin).map_err(Error::io(old_pin))
    }

    /// Copies everything into a table that no program uses yet.
    fn copy<K: Pod>(&self, old: &Table<K, V>, new: &Table<K, V>) -> Result<(), Error> {
        self.newest(old, 0, new.room, |entries| {
            let (keys, values): (Vec<K>, Vec<V>) = entries.iter().copied().unzip();
            sys::write(new.fd(), &keys, &values).map_err(Error::table(self.name))
        })
    }

    /// Moves what was in use since then and is not known to the other table, or
    /// only as it was before.
    fn catch_up<K: Pod>(
        &self,
        old: &Table<K, V>,
        new: &mut Table<K, V>,
        since: u64,
    ) -> Result<(), Error> {
        let room = new.room;
        self.newest(old, since, room, |entries| {
            for (key, value) in entries {
                self.move_entry(new, key, value)
                    .map_err(Error::map(self.name))?;
            }
            Ok(())
        })
    }

    fn move_entry<K: Pod>(
        &self,
        new: &mut Table<K, V>,
        key: &K,
        value: &V,
    ) -> Result<(), MapError> {
        match new.map.insert(key, value, NEW) {
            Err(error) if is(&error, ErrorKind::AlreadyExists) => {}
            result => return result,
        }
        let last_seen = self.last_seen;
        match new.map.get(key, 0) {
            // Copied, and then written to the old table once more.
            Ok(copy) if last_seen(&copy) < last_seen(value) => new.map.insert(key, value, 0),
            _ => Ok(()),
        }
    }

    /// Removes copies of what the programs removed from the old table after it
    /// was copied. Of what was in use after `until` nobody can tell whether it
    /// is a copy or the programs' own: it stays.
    fn drop_removed<K: Pod>(
        &self,
        old: &Table<K, V>,
        new: &Table<K, V>,
        until: u64,
    ) -> Result<(), Error> {
        let failed = Error::table(self.name);
        let mut removed = Vec::new();
        let mut reader = sys::Reader::<K, V>::new(new.fd());
        while let Some((keys, values)) = reader.next().map_err(&failed)? {
            removed.clear();
            for (key, value) in keys.iter().zip(values) {
                if (self.last_seen)(value) < until
                    && matches!(old.map.get(key, 0), Err(MapError::KeyNotFound))
                {
                    removed.push(*key);
                }
            }
            sys::remove(new.fd(), &removed).map_err(&failed)?;
        }
        Ok(())
    }

    /// Shows the entries that were in use since then, the newest last, at most
    /// [`CHUNK`] at a time; with less room, older ones give way.
    fn newest<K: Pod>(
        &self,
        table: &Table<K, V>,
        since: u64,
        room: u32,
        mut show: impl FnMut(&[(K, V)]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (last_seen, failed) = (self.last_seen, Error::table(self.name));
        let mut stamps = Vec::new();
        let take = |_: &K, value: &V| {
            let stamp = last_seen(value);
            stamps.extend((stamp >= since).then_some(stamp));
        };
        tables::each(table.fd(), take).map_err(&failed)?;
        let mut chunk: Vec<(K, V)> = Vec::new();
        for band in bands(stamps, room as usize) {
            let mut reader = sys::Reader::<K, V>::new(table.fd());
            while let Some((keys, values)) = reader.next().map_err(&failed)? {
                for (key, value) in keys.iter().zip(values) {
                    if !band.contains(&last_seen(value)) {
                        continue;
                    }
                    chunk.push((*key, *value));
                    if chunk.len() == CHUNK {
                        show_sorted(&mut chunk, last_seen, &mut show)?;
                    }
                }
            }
            show_sorted(&mut chunk, last_seen, &mut show)?;
        }
        Ok(())
    }
}

fn show_sorted<K, V>(
    chunk: &mut Vec<(K, V)>,
    last_seen: fn(&V) -> u64,
    show: &mut impl FnMut(&[(K, V)]) -> Result<(), Error>,
) -> Result<(), Error> {
    chunk.sort_by_key(|(_, value)| last_seen(value));
    show(chunk)?;
    chunk.clear();
    Ok(())
}

/// Times that part the newest of these, as many as there is room for, into
/// bands of [`CHUNK`], the oldest first. The last one has no end: what is in
/// use meanwhile moves into it. What has the same time is in the same band.
fn bands(mut stamps: Vec<u64>, room: usize) -> Vec<RangeInclusive<u64>> {
    stamps.sort_unstable();
    let surplus = stamps.len().saturating_sub(room);
    let mut starts: Vec<u64> = stamps[surplus..].iter().step_by(CHUNK).copied().collect();
    starts.dedup();
    let ends = starts.iter().skip(1).map(|next| next - 1).chain([u64::MAX]);
    starts
        .iter()
        .copied()
        .zip(ends)
        .map(|(start, end)| start..=end)
        .collect()
}

struct Table<K, V> {
    map: HashMap<MapData, K, V>,
    /// Entries that it has room for.
    room: u32,
    /// The kernel's number of it.
    id: u32,
}

impl<K: Pod, V: Pod> Table<K, V> {
    fn open(data: MapData) -> Result<Self, MapError> {
        Self::of(HashMap::try_from(Map::from_map_data(data)?)?)
    }

    fn of(map: HashMap<MapData, K, V>) -> Result<Self, MapError> {
        let info = map.map().info()?;
        Ok(Self {
            room: info.max_entries(),
            id: info.id(),
            map,
        })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.map.map().fd().as_fd()
    }
}

fn is(error: &MapError, kind: ErrorKind) -> bool {
    match error {
        MapError::SyscallError(error) => error.io_error.kind() == kind,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values are the times at which they were in use.
    const TABLE: Resizable<u64> = Resizable {
        name: "TABLE",
        room: 4 * CHUNK as u32,
        last_seen: |value| *value,
    };

    fn table() -> Table<u32, u64> {
        TABLE.create().expect("making tables needs root")
    }

    fn put(table: &mut Table<u32, u64>, entries: &[(u32, u64)]) {
        for (key, value) in entries {
            table.map.insert(key, value, 0).unwrap();
        }
    }

    fn held(table: &Table<u32, u64>) -> Vec<(u32, u64)> {
        let mut held = Vec::new();
        tables::each(table.fd(), |key, value| held.push((*key, *value))).unwrap();
        held.sort_unstable();
        held
    }

    #[test]
    fn what_changes_after_it_was_copied_is_as_the_programs_left_it() {
        let (mut old, mut new) = (table(), table());
        put(&mut old, &[(1, 10), (2, 20), (3, 30), (4, 40)]);
        TABLE.copy(&old, &new).unwrap();
        assert_eq!(held(&new), held(&old));
        // Before the exchange: written again, removed, new.
        put(&mut old, &[(2, 50), (5, 51), (6, 52)]);
        old.map.remove(&3).unwrap();
        // After it: of the programs' own, and newer than the old table's.
        put(&mut new, &[(6, 61), (7, 62)]);
        TABLE.catch_up(&old, &mut new, 45).unwrap();
        TABLE.drop_removed(&old, &new, 60).unwrap();
        let expected = [(1, 10), (2, 50), (4, 40), (5, 51), (6, 61), (7, 62)];
        assert_eq!(held(&new), expected);
    }

    #[test]
    fn a_table_is_read_in_chunks_the_newest_last() {
        let old = table();
        let count = 2 * CHUNK as u32 + 2;
        let entries: Vec<_> = (0..count)
            .map(|key| (key, u64::from(key * 7 % count)))
            .collect();
        let (keys, values): (Vec<u32>, Vec<u64>) = entries.iter().copied().unzip();
        sys::write(old.fd(), &keys, &values).unwrap();
        let mut seen = Vec::new();
        let show = |entries: &[(u32, u64)]| {
            assert!(entries.len() <= CHUNK, "{}", entries.len());
            seen.extend(entries.iter().map(|(_, stamp)| *stamp));
            Ok(())
        };
        TABLE.newest(&old, 5, count - 10, show).unwrap();
        assert_eq!(seen, (10..u64::from(count)).collect::<Vec<_>>());
        // All at the same time.
        let (keys, values): (Vec<u32>, Vec<u64>) = entries.iter().map(|(key, _)| (*key, 9)).unzip();
        sys::write(old.fd(), &keys, &values).unwrap();
        let mut shown = 0;
        let show = |entries: &[(u32, u64)]| {
            assert!(entries.len() <= CHUNK, "{}", entries.len());
            shown += entries.len();
            Ok(())
        };
        TABLE.newest(&old, 0, count, show).unwrap();
        assert_eq!(shown, count as usize);
    }
}
