//! Values shared by all instances of a filter on a node, with a time to live, compare-and-swap and
//! counters, under a quota.
//!
//! Keys are spread over shards, each with a lock of its own that is held for one look-up, so that
//! workers hardly ever meet. Time is given by the caller.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const SHARDS: usize = 16;
/// Values that ran out and are removed by a write, beside its own work.
const SWEPT_PER_WRITE: usize = 2;
/// What an entry takes beside its key and its value.
const OVERHEAD: usize = 96;

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

#[derive(Debug, Clone)]
enum Content {
    Bytes(Arc<[u8]>),
    Number(i64),
}

impl Content {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Number(_) => size_of::<i64>(),
        }
    }

    /// A number reads as its eight bytes, the lowest first.
    fn bytes(&self) -> Arc<[u8]> {
        match self {
            Self::Bytes(bytes) => Arc::clone(bytes),
            Self::Number(number) => Arc::from(&number.to_le_bytes()[..]),
        }
    }

    fn number(&self) -> Option<i64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Bytes(bytes) => {
                let bytes: [u8; 8] = bytes.as_ref().try_into().ok()?;
                Some(i64::from_le_bytes(bytes))
            }
        }
    }
}

#[derive(Debug)]
struct Item {
    content: Content,
    version: u64,
    /// Nanoseconds of the caller's clock; none stays.
    expires: Option<u64>,
}

impl Item {
    fn is_over(&self, now: u64) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

#[derive(Debug, Default)]
struct Shard {
    items: HashMap<Arc<str>, Item>,
    /// By the time at which they are over.
    order: BTreeSet<(u64, Arc<str>)>,
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
        self.put(key, value, ttl, now, |_found| Ok(()))
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
        self.put(key, value, ttl, now, |found| match found == version {
            true => Ok(()),
            false => Err(KvError::Conflict(found)),
        })
    }

    /// The same for proxy-wasm, which knows the lower half of a version.
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
        self.put(key, value, None, now, |found| {
            match found.is_some_and(|found| low(found) == version) {
                true => Ok(()),
                false => Err(KvError::Conflict(found)),
            }
        })
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
                return Ok((Content::Number(delta), expiry(ttl, now)));
            };
            let before = item.content.number().ok_or_else(|| {
                KvError::Invalid(format!("the value of {key:?} is no number of 8 bytes"))
            })?;
            sum = before
                .checked_add(delta)
                .ok_or_else(|| KvError::Invalid(format!("the number {key:?} would overflow")))?;
            Ok((Content::Number(sum), item.expires))
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
        Ok(())
    }

    fn put(
        &self,
        key: &str,
        value: &[u8],
        ttl: Option<Duration>,
        now: u64,
        may: impl Fn(Option<u64>) -> Result<(), KvError>,
    ) -> Result<u64, KvError> {
        self.update(key, value.len(), now, |found| {
            may(found.map(|item| item.version))?;
            Ok((Content::Bytes(value.into()), expiry(ttl, now)))
        })
    }

    /// Writes what `make` makes of what is there. Returns its version.
    fn update(
        &self,
        key: &str,
        length: usize,
        now: u64,
        mut make: impl FnMut(Option<&Item>) -> Result<(Content, Option<u64>), KvError>,
    ) -> Result<u64, KvError> {
        self.check(key, length)?;
        for swept in [false, true] {
            let mut shard = self.shard(key);
            self.sweep_shard(&mut shard, now, SWEPT_PER_WRITE);
            let there = shard.items.get(key);
            let (content, expires) = make(there.filter(|item| !item.is_over(now)))?;
            let freed = there.map_or((0, 0), |item| (1, weight(key, &item.content)));
            if self.reserve(weight(key, &content), freed) {
                return Ok(self.store(&mut shard, key, content, expires));
            }
            drop(shard);
            // What is over in other shards still counts: make room and look once more.
            if !swept && self.sweep(now, usize::MAX) == 0 {
                break;
            }
        }
        Err(KvError::Quota)
    }

    fn store(&self, shard: &mut Shard, key: &str, content: Content, expires: Option<u64>) -> u64 {
        let version = self.next_version();
        if let Some(item) = shard.items.get_mut(key)
            && item.expires == expires
        {
            item.content = content;
            item.version = version;
            return version;
        }
        let key: Arc<str> = key.into();
        let item = Item {
            content,
            version,
            expires,
        };
        let before = shard.items.insert(Arc::clone(&key), item);
        if let Some(over) = before.and_then(|item| item.expires) {
            shard.order.remove(&(over, Arc::clone(&key)));
        }
        if let Some(expires) = expires {
            shard.order.insert((expires, key));
        }
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
            if let Some(expires) = item.expires {
                shard.order.remove(&(expires, key));
            }
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

/// When a value that is written now is over.
fn expiry(ttl: Option<Duration>, now: u64) -> Option<u64> {
    let ttl = u64::try_from(ttl?.as_nanos()).unwrap_or(u64::MAX);
    Some(now.saturating_add(ttl))
}

/// The part of a version that proxy-wasm sees.
#[expect(clippy::cast_possible_truncation, reason = "that is what is wanted")]
pub(crate) const fn low(version: u64) -> u32 {
    version as u32
}

fn weight(key: &str, content: &Content) -> usize {
    key.len() + content.len() + OVERHEAD
}

/// Nobody panics while holding it; if somebody did, the map itself is whole.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
