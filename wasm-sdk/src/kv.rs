//! Values that all instances of a filter on a node share.

use std::fmt;
use std::time::Duration;

use crate::sys::host;
use crate::sys::types::{self, KvEntry};

/// How often an update is tried again when others change the same value.
const ATTEMPTS: usize = 16;

/// The values that all instances of this filter on this node share, other filters excluded. They
/// outlive an instance, not the proxy.
///
/// ```
/// use weft_sdk::prelude::*;
/// fn count(kv: &Kv, user: &str) -> Result<i64> {
///     Ok(kv.increment(&format!("seen/{user}"), 1, Duration::from_secs(60))?)
/// }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Kv(());

impl Kv {
    pub(crate) const fn new() -> Self {
        Self(())
    }

    /// The value of a key.
    ///
    /// ```
    /// # fn f(kv: &weft_sdk::Kv) -> Option<Vec<u8>> {
    /// kv.get("greeting").map(|entry| entry.value)
    /// # }
    /// ```
    #[must_use]
    pub fn get(&self, key: &str) -> Option<KvEntry> {
        host::kv_get(key)
    }

    /// Stores a value, for a while or until it is removed; its version.
    ///
    /// # Errors
    /// Where the filter's quota or the limits do not allow it.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # fn f(kv: &weft_sdk::Kv) -> Result<u64, weft_sdk::KvError> {
    /// kv.set("greeting", "hello", Duration::from_secs(60))
    /// # }
    /// ```
    pub fn set(
        &self,
        key: &str,
        value: impl AsRef<[u8]>,
        ttl: impl Into<Option<Duration>>,
    ) -> Result<u64, KvError> {
        Ok(host::kv_set(key, value.as_ref(), millis(ttl.into()))?)
    }

    /// Stores a value if the key has this version; with none, if it is not there.
    ///
    /// # Errors
    /// [`KvError::Conflict`] where it has another one.
    ///
    /// ```
    /// # fn f(kv: &weft_sdk::Kv) -> bool {
    /// kv.compare_and_set("leader", None, "me", None).is_ok()
    /// # }
    /// ```
    pub fn compare_and_set(
        &self,
        key: &str,
        version: Option<u64>,
        value: impl AsRef<[u8]>,
        ttl: impl Into<Option<Duration>>,
    ) -> Result<u64, KvError> {
        let ttl = millis(ttl.into());
        Ok(host::kv_cas(key, version, value.as_ref(), ttl)?)
    }

    /// Makes a new value of the old one, again where others were faster.
    ///
    /// # Errors
    /// Where the filter's quota does not allow it, or others were faster every time.
    ///
    /// ```
    /// # fn f(kv: &weft_sdk::Kv) -> Result<u64, weft_sdk::KvError> {
    /// kv.update("longest", None, |old| {
    ///     let old = old.unwrap_or_default();
    ///     if old.len() < 3 { b"abc".to_vec() } else { old.to_vec() }
    /// })
    /// # }
    /// ```
    pub fn update(
        &self,
        key: &str,
        ttl: impl Into<Option<Duration>>,
        mut change: impl FnMut(Option<&[u8]>) -> Vec<u8>,
    ) -> Result<u64, KvError> {
        let ttl = ttl.into();
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let old = self.get(key);
            let new = change(old.as_ref().map(|entry| entry.value.as_slice()));
            match self.compare_and_set(key, old.map(|entry| entry.version), new, ttl) {
                Err(KvError::Conflict(version)) => last = version,
                done => return done,
            }
        }
        Err(KvError::Conflict(last))
    }

    /// The number that [`Self::increment`] counts under a key.
    ///
    /// ```
    /// # fn f(kv: &weft_sdk::Kv) -> i64 {
    /// kv.number("requests").unwrap_or_default()
    /// # }
    /// ```
    #[must_use]
    pub fn number(&self, key: &str) -> Option<i64> {
        let bytes = self.get(key)?.value;
        Some(i64::from_le_bytes(bytes.try_into().ok()?))
    }

    /// Forgets a key.
    ///
    /// ```
    /// # fn f(kv: &weft_sdk::Kv) {
    /// kv.remove("greeting");
    /// # }
    /// ```
    pub fn remove(&self, key: &str) {
        host::kv_remove(key);
    }

    /// Adds to a number and gives what it is then. It begins at 0, and `ttl` counts from there.
    ///
    /// # Errors
    /// Where the key holds something else, or the quota is used up.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # fn f(kv: &weft_sdk::Kv) -> Result<bool, weft_sdk::KvError> {
    /// Ok(kv.increment("requests", 1, Duration::from_secs(1))? <= 100)
    /// # }
    /// ```
    pub fn increment(
        &self,
        key: &str,
        delta: i64,
        ttl: impl Into<Option<Duration>>,
    ) -> Result<i64, KvError> {
        Ok(host::kv_incr(key, delta, millis(ttl.into()))?)
    }
}

fn millis(ttl: Option<Duration>) -> Option<u64> {
    ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX))
}

/// Why a value could not be stored.
///
/// ```
/// use weft_sdk::{Kv, KvError};
/// fn first(kv: &Kv, key: &str) -> bool {
///     !matches!(kv.compare_and_set(key, None, b"1", None), Err(KvError::Conflict(_)))
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KvError {
    /// Somebody else changed it: the version that it has now, none if it is gone.
    Conflict(Option<u64>),
    /// The filter's quota of keys or bytes is used up.
    Quota,
    /// Key or value are larger than the limits allow, or an increment meets no number.
    Invalid(String),
}

impl From<types::KvError> for KvError {
    fn from(err: types::KvError) -> Self {
        match err {
            types::KvError::Conflict(version) => Self::Conflict(version),
            types::KvError::Quota => Self::Quota,
            types::KvError::Invalid(why) => Self::Invalid(why),
        }
    }
}

impl fmt::Display for KvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict(_) => f.write_str("the value was changed meanwhile"),
            Self::Quota => f.write_str("the filter's quota of stored values is used up"),
            Self::Invalid(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for KvError {}
