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
//! | after the exchange | the new one in the slot, the old one under its pin | moves over what the programs wrote last, removes the pin |

use std::ffi::CString;
use std::fs;
use std::io::ErrorKind;
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
        slot.set(0, &new.map, 0).map_err(&failed)?;
        self.move_missing(&held, &mut new, begun.saturating_sub(CLOCK_LAG))?;
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
            self.move_missing(&old, held, 0)?;
        }
        fs::remove_file(old_pin).map_err(Error::io(old_pin))
    }

    /// Copies everything into a table that no program uses yet.
    fn copy<K: Pod>(&self, old: &Table<K, V>, new: &Table<K, V>) -> Result<(), Error> {
        let entries = self.newest(old, 0, new.room)?;
        let (keys, values): (Vec<K>, Vec<V>) = entries.into_iter().unzip();
        sys::write(new.fd(), &keys, &values).map_err(Error::table(self.name))
    }

    /// Moves what was in use since then and is not known to the other table.
    fn move_missing<K: Pod>(
        &self,
        old: &Table<K, V>,
        new: &mut Table<K, V>,
        since: u64,
    ) -> Result<(), Error> {
        for (key, value) in self.newest(old, since, new.room)? {
            match new.map.insert(key, value, NEW) {
                Err(error) if is(&error, ErrorKind::AlreadyExists) => {}
                result => result.map_err(Error::map(self.name))?,
            }
        }
        Ok(())
    }

    /// The entries that were in use since then, the newest last; with less room,
    /// older ones give way.
    fn newest<K: Pod>(
        &self,
        table: &Table<K, V>,
        since: u64,
        room: u32,
    ) -> Result<Vec<(K, V)>, Error> {
        let last_seen = self.last_seen;
        let mut entries = Vec::new();
        let take = |key: &K, value: &V| {
            if last_seen(value) >= since {
                entries.push((*key, *value));
            }
        };
        tables::each(table.fd(), take).map_err(Error::table(self.name))?;
        entries.sort_by_key(|(_, value)| last_seen(value));
        let surplus = entries.len().saturating_sub(room as usize);
        entries.drain(..surplus);
        Ok(entries)
    }
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
