//! What the instances of one node share: values, the clock, answers to fetches.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use super::limits::{KV_QUOTA, check_stored};
use super::message::{Answer, TestFetch};
use crate::sys::types::{KvEntry, KvError};

type Answers = Vec<(String, Box<dyn FnMut(&TestFetch) -> Answer>)>;

pub(super) struct Shared {
    now: Cell<Duration>,
    /// What the wall clock is ahead of it.
    wall: Cell<Duration>,
    random: RefCell<Vec<u8>>,
    random_at: Cell<usize>,
    values: RefCell<BTreeMap<String, Value>>,
    version: Cell<u64>,
    quota: Cell<(usize, usize)>,
    answers: RefCell<Answers>,
    fetches: RefCell<Vec<TestFetch>>,
}

struct Value {
    bytes: Vec<u8>,
    version: u64,
    expires: Option<Duration>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            now: Cell::new(Duration::ZERO),
            // 2030-01-01, so that nothing depends on when the test runs.
            wall: Cell::new(Duration::from_secs(1_893_456_000)),
            random: RefCell::new(vec![0x80]),
            random_at: Cell::new(0),
            values: RefCell::default(),
            version: Cell::new(0),
            quota: Cell::new(KV_QUOTA),
            answers: RefCell::default(),
            fetches: RefCell::default(),
        }
    }
}

impl Shared {
    pub(super) fn now(&self) -> Duration {
        self.now.get()
    }

    pub(super) fn set_now(&self, now: Duration) {
        self.now.set(now);
    }

    pub(super) fn wall_clock(&self) -> Duration {
        self.now.get() + self.wall.get()
    }

    pub(super) fn set_wall_clock(&self, since_1970: Duration) {
        self.wall.set(since_1970.saturating_sub(self.now.get()));
    }

    pub(super) fn set_random(&self, bytes: &[u8]) {
        assert!(!bytes.is_empty(), "there has to be a byte to repeat");
        self.random.replace(bytes.to_vec());
        self.random_at.set(0);
    }

    pub(super) fn random(&self, count: usize) -> Vec<u8> {
        let random = self.random.borrow();
        let start = self.random_at.get();
        self.random_at.set((start + count) % random.len());
        random
            .iter()
            .cycle()
            .skip(start)
            .take(count)
            .copied()
            .collect()
    }

    pub(super) fn answer(&self, service: &str, answer: impl FnMut(&TestFetch) -> Answer + 'static) {
        let mut answers = self.answers.borrow_mut();
        answers.retain(|(name, _)| name != service);
        answers.push((service.to_owned(), Box::new(answer)));
    }

    /// The answer to a fetch; none where nobody answers for the service.
    pub(super) fn fetch(&self, fetch: TestFetch) -> Option<Answer> {
        let mut answers = self.answers.borrow_mut();
        let answer = answers
            .iter_mut()
            .find(|(service, _)| *service == fetch.service)
            .map(|(_, answer)| answer(&fetch));
        self.fetches.borrow_mut().push(fetch);
        answer
    }

    pub(super) fn fetches(&self) -> Vec<TestFetch> {
        self.fetches.borrow().clone()
    }

    pub(super) fn set_quota(&self, keys: usize, bytes: usize) {
        self.quota.set((keys, bytes));
    }

    pub(super) fn stored(&self, key: &str) -> Option<Vec<u8>> {
        self.get(key).map(|entry| entry.value)
    }

    pub(super) fn get(&self, key: &str) -> Option<KvEntry> {
        self.sweep();
        let values = self.values.borrow();
        values.get(key).map(|value| KvEntry {
            value: value.bytes.clone(),
            version: value.version,
        })
    }

    pub(super) fn set(&self, key: &str, bytes: &[u8], ttl: Option<u64>) -> Result<u64, KvError> {
        let expires = ttl.map(|ttl| self.now.get() + Duration::from_millis(ttl));
        self.put(key, bytes.to_vec(), expires)
    }

    pub(super) fn compare_and_set(
        &self,
        key: &str,
        version: Option<u64>,
        bytes: &[u8],
        ttl: Option<u64>,
    ) -> Result<u64, KvError> {
        let found = self.get(key).map(|entry| entry.version);
        if found != version {
            return Err(KvError::Conflict(found));
        }
        self.set(key, bytes, ttl)
    }

    pub(super) fn remove(&self, key: &str) {
        self.values.borrow_mut().remove(key);
    }

    pub(super) fn increment(
        &self,
        key: &str,
        delta: i64,
        ttl: Option<u64>,
    ) -> Result<i64, KvError> {
        let Some(found) = self.get(key) else {
            self.set(key, &delta.to_le_bytes(), ttl)?;
            return Ok(delta);
        };
        let number = <[u8; 8]>::try_from(found.value)
            .map(i64::from_le_bytes)
            .map_err(|_| KvError::Invalid(format!("the value of {key:?} is no number")))?;
        let sum = number
            .checked_add(delta)
            .ok_or_else(|| KvError::Invalid(format!("the number {key:?} would overflow")))?;
        let expires = self
            .values
            .borrow()
            .get(key)
            .and_then(|value| value.expires);
        self.put(key, sum.to_le_bytes().to_vec(), expires)?;
        Ok(sum)
    }

    fn put(&self, key: &str, bytes: Vec<u8>, expires: Option<Duration>) -> Result<u64, KvError> {
        check_stored(key, bytes.len())?;
        self.sweep();
        let mut values = self.values.borrow_mut();
        let others = values.iter().filter(|(name, _)| *name != key);
        let (keys, used) = others.fold((0, 0), |(keys, used), (name, value)| {
            (keys + 1, used + name.len() + value.bytes.len())
        });
        let (max_keys, max_bytes) = self.quota.get();
        if keys + 1 > max_keys || used + key.len() + bytes.len() > max_bytes {
            return Err(KvError::Quota);
        }
        let version = self.version.get() + 1;
        self.version.set(version);
        values.insert(
            key.to_owned(),
            Value {
                bytes,
                version,
                expires,
            },
        );
        Ok(version)
    }

    fn sweep(&self) {
        let now = self.now.get();
        self.values
            .borrow_mut()
            .retain(|_, value| value.expires.is_none_or(|expires| now < expires));
    }
}
