//! A table that an earlier loader pinned with another size than is wanted now:
//! a new one takes its place, and the entries move over, so that no connection
//! notices.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use aya::Pod;
use aya::maps::{HashMap, IterableMap as _, MapData, MapError};
use tracing::info;

use crate::Error;
use crate::conntrack::now;
use crate::pins::Pins;
use crate::tables::read;

/// `BPF_NOEXIST`, from the kernel's `bpf.h`.
const NEW: u64 = 1;
/// The programs stamp entries with a clock that lags by a tick.
const CLOCK_LAG: u64 = 100_000_000;

/// A pinned table of another size.
pub(crate) struct Outgrown<K, V> {
    old: HashMap<MapData, K, V>,
    name: &'static str,
    pin: PathBuf,
    new_pin: PathBuf,
    room: usize,
    last_seen: fn(&V) -> u64,
    moved_until: u64,
}

impl<K: Pod, V: Pod> Outgrown<K, V> {
    /// The pinned table, if there is one and it has not `room` for so many
    /// entries.
    pub(crate) fn find(
        pins: &Pins,
        name: &'static str,
        room: u32,
        last_seen: fn(&V) -> u64,
    ) -> Result<Option<Self>, Error> {
        let pin = pins.maps().join(name);
        // A name with a dot is none on bpffs.
        let new_pin = pins.maps().join(format!("{name}_NEW"));
        // Left by a loader that did not come to its end.
        match fs::remove_file(&new_pin) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Error::io(&new_pin)(error));
            }
            _ => {}
        }
        if !pin.exists() {
            return Ok(None);
        }
        let old: HashMap<MapData, K, V> = pins.open(name)?;
        let size = old.map().info().map_err(Error::map(name))?.max_entries();
        if size == room {
            return Ok(None);
        }
        info!(table = name, from = size, to = room, "another size");
        Ok(Some(Self {
            old,
            name,
            pin,
            new_pin,
            room: room as usize,
            last_seen,
            moved_until: 0,
        }))
    }

    /// Where the loader has to pin the new table.
    pub(crate) fn new_pin(&self) -> &Path {
        &self.new_pin
    }

    /// Fills the new table and puts its pin in the old one's place. The
    /// programs that run meanwhile go on with the old one.
    pub(crate) fn take_place(&mut self) -> Result<(), Error> {
        let new = MapData::from_pin(&self.new_pin)
            .and_then(|data| HashMap::try_from(aya::maps::Map::LruHashMap(data)))
            .map_err(Error::map(self.name))?;
        self.move_to(new)?;
        fs::rename(&self.new_pin, &self.pin).map_err(Error::io(&self.new_pin))
    }

    /// Moves what the old programs still wrote; to be called once they are
    /// replaced.
    pub(crate) fn move_rest(&mut self, pins: &Pins) -> Result<(), Error> {
        self.move_to(pins.open(self.name)?)
    }

    fn move_to(&mut self, mut new: HashMap<MapData, K, V>) -> Result<(), Error> {
        let since = self.moved_until.saturating_sub(CLOCK_LAG);
        self.moved_until = now();
        let mut entries = read(&self.old, self.name)?;
        entries.retain(|(_, value)| (self.last_seen)(value) >= since);
        // The newest last: with less room, older ones give way.
        entries.sort_by_key(|(_, value)| (self.last_seen)(value));
        let surplus = entries.len().saturating_sub(self.room);
        for (key, value) in &entries[surplus..] {
            match new.insert(key, value, NEW) {
                // Known by the new programs already.
                Err(error) if is_taken(&error) => {}
                result => result.map_err(Error::map(self.name))?,
            }
        }
        Ok(())
    }
}

fn is_taken(error: &MapError) -> bool {
    match error {
        MapError::SyscallError(error) => error.io_error.kind() == ErrorKind::AlreadyExists,
        _ => false,
    }
}
