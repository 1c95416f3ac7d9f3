//! Values shared by all instances of a filter on a node, with a time to live, compare-and-swap and
//! counters, under a quota.
//!
//! Where the quota is used up a write is an error. Filters of proxy-wasm are not made for that, since
//! Envoy has no bound: what they write without a time to live gives way, least recently written
//! first, to what they write next.
//!
//! Keys are spread over shards, each with a lock of its own that is held for one look-up, so that
//! workers hardly ever meet. Time is given by the caller.

mod item;

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use self::item::{Content, Item, Shard, Stays, weight};

const SHARDS: usize = 16;
/// Values that ran out and are removed by a write, beside its own work.
const SWEPT_PER_WRITE: usize = 2;
/// Values that one write makes give way, at most: as many of the smallest ones as take the room of
/// one of 1 MiB.
const EVICTED_PER_WRITE: usize = 16 * 1024;

/// How much a filter may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvQuota {
    /// Keys at once.
    pub keys: usize,
    /// Bytes of keys and values, and what they take beside.
    pub bytes: usize,
    /// Longest key.
    pub key: usize,
    /// Longest value.
    pub value: usize,
}

impl Default for KvQuota {
    fn default() -> Self {
        Self {
            keys: 65_536,
            bytes: 16 << 20,
            key: 512,
            value: 1 << 20,
        }
    }
}

/// Why a value was not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// Somebody else changed it: the version that it has now, none if it is gone.
    #[error("it was changed by somebody else")]
    Conflict(Option<u64>),
    /// No more keys or bytes.
    #[error("the filter's quota of shared values is used up")]
    Quota,
    /// Too long, or no number.
    #[error("{0}")]
    Invalid(String),
}

/// A value and its version, which grows with each change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvEntry {
    /// Its bytes.
    pub value: Arc<[u8]>,
    /// Never 0, and neither are its lower 32 bits: proxy-wasm has only those, and 0 means none.
    pub version: u64,
}

/// Values of one filter.
#[derive(Debug)]
pub struct Kv {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    quota: KvQuota,
    keys: AtomicUsize,
    bytes: AtomicUsize,
    version: AtomicU64,
}

impl Kv {
    /// Nothing, with room for `quota`.
    #[must_use]
    pub fn new(quota: KvQuota) -> Self {
        Self {
            shards: std::array::from_fn(|_shard| Mutex::default()),
            hasher: RandomState::new(),
            quota,
            keys: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            version: AtomicU64::new(0),
        }
    }

    /// Keys that are kept; some of them may be over already.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys.load(Ordering::Relaxed)
    }

    /// Bytes that are kept.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str, now: u64) -> Option<KvEntry> {
        let shard = self.shard(key);
        let item = shard.items.get(key).filter(|item| !item.is_over(now))?;
        Some(KvEntry {
            value: item.content.bytes(),
            version: item.version,
        })
    }

    /// Sets it, whatever it was. Returns its version.
    ///
    /// # Errors
    /// [`KvError::Quota`] and [`KvError::Invalid`].
    pub fn set(
        &self,
        key: &str,
        value: &[u8],
        ttl: Option<Duration>,
        now: u64,
    ) -> Result<u64, KvError> {
        self.put(key, value, Stays::new(ttl, now), now, |_found| Ok(()))
    }

    /// The same for proxy-wasm: it stays while there is room.
    ///
    /// # Errors
    /// [`KvError::Invalid`]; [`KvError::Quota`] where others do not give way.
    pub(crate) fn set_while_room(&self, key: &str, value: &[u8], now: u64) -> Result<u64, KvError> {
        self.put(key, value, Stays::WhileThereIsRoom, now, |_found| Ok(()))
    }

    /// Sets it if it has this version; with none, if it is not there. Returns its new version.
    ///
    /// # Errors
    /// [`KvError::Conflict`] if it is another; [`KvError::Quota`] and [`KvError::Invalid`].
    pub fn compare_and_swap(
        &self,
        key: &str,
        version: Option<u64>,
        value: &[u8],
        ttl: Option<Duration>,
        now: u64,
    ) -> Result<u64, KvError> {
        self.put(key, value, Stays::new(ttl, now), now, |found| {
            match found == version {
                true => Ok(()),
                false => Err(KvError::Conflict(found)),
            }
        })
    }

    /// The same for proxy-wasm, which knows the lower half of a version; it stays while there is
    /// room.
    ///
    /// # Errors
    /// See [`Self::compare_and_swap`].
    pub(crate) fn compare_low(
        &self,
        key: &str,
        version: u32,
        value: &[u8],
        now: u64,
    ) -> Result<u64, KvError> {
        self.put(
            key,
            value,
            Stays::WhileThereIsRoom,
            now,
            |found| match found.is_some_and(|found| low(found) == version) {
                true => Ok(()),
                false => Err(KvError::Conflict(found)),
            },
        )
    }

    /// Adds to a number, which begins at 0 and lives for `ttl` from then. Returns what it is now.
    ///
    /// # Errors
    /// [`KvError::Invalid`] if what is there is no number, or the sum does not fit;
    /// [`KvError::Quota`].
    pub fn increment(
        &self,
        key: &str,
        delta: i64,
        ttl: Option<Duration>,
        now: u64,
    ) -> Result<i64, KvError> {
        let mut sum = delta;
        self.update(key, size_of::<i64>(), now, |found| {
            let Some(item) = found else {
                return Ok((Content::Number(delta), Stays::new(ttl, now)));
            };
            let before = item.content.number().ok_or_else(|| {
                KvError::Invalid(format!("the value of {key:?} is no number of 8 bytes"))
            })?;
            sum = before
                .checked_add(delta)
                .ok_or_else(|| KvError::Invalid(format!("the number {key:?} would overflow")))?;
            Ok((Content::Number(sum), item.stays))
        })?;
        Ok(sum)
    }

    /// Forgets a key.
    pub fn remove(&self, key: &str) {
        let mut shard = self.shard(key);
        self.take(&mut shard, key);
    }

    /// Removes what is over, at most `limit` keys of each shard. Returns how many there were.
    pub fn sweep(&self, now: u64, limit: usize) -> usize {
        let shards = self.shards.iter();
        shards
            .map(|shard| self.sweep_shard(&mut lock(shard), now, limit))
            .sum()
    }

    fn check(&self, key: &str, value: usize) -> Result<(), KvError> {
        let quota = &self.quota;
        if key.is_empty() || key.len() > quota.key {
            return Err(KvError::Invalid(format!(
                "a key has 1 to {} bytes, this one {}",
                quota.key,
                key.len()
            )));
        }
        if value > quota.value {
            return Err(KvError::Invalid(format!(
                "a value has at most {} bytes, this one {value}",
                quota.value
            )));
        }
        if value > quota.bytes {
            return Err(KvError::Quota);
        }
        Ok(())
    }

    fn put(
        &self,
        key: &str,
        value: &[u8],
        stays: Stays,
        now: u64,
        may: impl Fn(Option<u64>) -> Result<(), KvError>,
    ) -> Result<u64, KvError> {
        self.update(key, value.len(), now, |found| {
            may(found.map(|item| item.version))?;
            Ok((Content::Bytes(value.into()), stays))
        })
    }

    /// Writes what `make` makes of what is there. Returns its version.
    fn update(
        &self,
        key: &str,
        length: usize,
        now: u64,
        mut make: impl FnMut(Option<&Item>) -> Result<(Content, Stays), KvError>,
    ) -> Result<u64, KvError> {
        self.check(key, length)?;
        let (mut swept, mut evicted) = (false, 0);
        loop {
            let mut shard = self.shard(key);
            self.sweep_shard(&mut shard, now, SWEPT_PER_WRITE);
            let there = shard.items.get(key);
            let (content, stays) = make(there.filter(|item| !item.is_over(now)))?;
            let freed = there.map_or((0, 0), |item| (1, weight(key, &item.content)));
            if self.reserve(weight(key, &content), freed) {
                return Ok(self.store(&mut shard, key, content, stays));
            }
            drop(shard);
            // What is over in other shards still counts: make room and look once more.
            if !swept && self.sweep(now, usize::MAX) > 0 {
                swept = true;
                continue;
            }
            swept = true;
            let may_evict = stays == Stays::WhileThereIsRoom && evicted < EVICTED_PER_WRITE;
            if !may_evict || !self.evict() {
                return Err(KvError::Quota);
            }
            evicted += 1;
        }
    }

    /// Forgets the value that was written before all others that give way; false if there is none.
    fn evict(&self) -> bool {
        let firsts = self.shards.iter().filter_map(|shard| {
            let version = *lock(shard).giving_way.first_key_value()?.0;
            Some((version, shard))
        });
        let Some((version, shard)) = firsts.min_by_key(|(version, _)| *version) else {
            return false;
        };
        let mut shard = lock(shard);
        // Somebody may have been faster: then there is room as well.
        if let Some(key) = shard.giving_way.get(&version).cloned() {
            self.take(&mut shard, &key);
        }
        true
    }

    fn store(&self, shard: &mut Shard, key: &str, content: Content, stays: Stays) -> u64 {
        let version = self.next_version();
        if let Some(item) = shard.items.get_mut(key)
            && item.stays == stays
            && stays != Stays::WhileThereIsRoom
        {
            item.content = content;
            item.version = version;
            return version;
        }
        let (key, before) = match shard.items.remove_entry(key) {
            Some((key, before)) => (key, Some(before)),
            None => (key.into(), None),
        };
        if let Some(before) = before {
            shard.unlist(&key, &before);
        }
        match stays {
            Stays::ForGood => {}
            Stays::Until(end) => {
                shard.order.insert((end, Arc::clone(&key)));
            }
            Stays::WhileThereIsRoom => {
                shard.giving_way.insert(version, Arc::clone(&key));
            }
        }
        let item = Item {
            content,
            version,
            stays,
        };
        shard.items.insert(key, item);
        version
    }

    /// Takes room for a value of `wanted` bytes in place of `freed` keys and bytes.
    fn reserve(&self, wanted: usize, freed: (usize, usize)) -> bool {
        let keys = self.keys.fetch_add(1, Ordering::Relaxed) + 1 - freed.0;
        let bytes = self.bytes.fetch_add(wanted, Ordering::Relaxed) + wanted - freed.1;
        let fits = keys <= self.quota.keys && bytes <= self.quota.bytes;
        let (keys, bytes) = if fits { freed } else { (1, wanted) };
        self.keys.fetch_sub(keys, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        fits
    }

    fn sweep_shard(&self, shard: &mut Shard, now: u64, limit: usize) -> usize {
        let mut swept = 0;
        while swept < limit
            && let Some((expires, key)) = shard.order.first()
            && *expires <= now
        {
            let key = Arc::clone(key);
            self.take(shard, &key);
            swept += 1;
        }
        swept
    }

    fn take(&self, shard: &mut Shard, key: &str) {
        if let Some((key, item)) = shard.items.remove_entry(key) {
            self.keys.fetch_sub(1, Ordering::Relaxed);
            self.bytes
                .fetch_sub(weight(&key, &item.content), Ordering::Relaxed);
            shard.unlist(&key, &item);
        }
    }

    fn next_version(&self) -> u64 {
        let version = self.version.fetch_add(1, Ordering::Relaxed) + 1;
        match low(version) {
            0 => self.version.fetch_add(1, Ordering::Relaxed) + 1,
            _ => version,
        }
    }

    fn shard(&self, key: &str) -> MutexGuard<'_, Shard> {
        let at = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or_default();
        lock(&self.shards[at])
    }
}

/// The part of a version that proxy-wasm sees.
#[expect(clippy::cast_possible_truncation, reason = "that is what is wanted")]
pub(crate) const fn low(version: u64) -> u32 {
    version as u32
}

/// Nobody panics while holding it; if somebody did, the map itself is whole.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
