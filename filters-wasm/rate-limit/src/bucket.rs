//! Token buckets, one for each client, as many as fit.

use std::collections::HashMap;
use std::time::Duration;

use weft_sdk::text::fnv1a;

/// A key that is longer than this is told apart by its beginning, its length and a hash.
const MAX_KEY: usize = 128;

/// The bucket of all clients that have none of their own. No key is written so.
const SHARED: &str = "\0";

/// More would take too much of the filter's memory, and too long to sweep.
pub(crate) const MAX_BUCKETS: usize = 50_000;

/// Full buckets are forgotten about once in a window, but not more or less often than this.
const SWEEP: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// One token is one request.
#[derive(Debug)]
pub(crate) struct Buckets {
    capacity: f64,
    /// Tokens in a second.
    rate: f64,
    max: usize,
    /// Buckets are swept then, and not for each new client that comes meanwhile.
    sweep_at: Duration,
    sweep_every: Duration,
    buckets: HashMap<String, Bucket>,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Duration,
}

impl Buckets {
    pub(crate) fn new(limit: u32, window: Duration, max: usize) -> Self {
        let capacity = f64::from(limit);
        Self {
            capacity,
            rate: capacity / window.as_secs_f64(),
            max: max.min(MAX_BUCKETS),
            sweep_at: Duration::ZERO,
            sweep_every: window.clamp(SWEEP.0, SWEEP.1),
            buckets: HashMap::new(),
        }
    }

    /// Takes a token and says how many are left; without one, when there will be one.
    pub(crate) fn take(&mut self, key: &str, now: Duration) -> Result<u32, Duration> {
        if now >= self.sweep_at {
            self.forget_full(now);
            self.sweep_at = now.saturating_add(self.sweep_every);
        }
        let mut key = shortened(key);
        if !self.buckets.contains_key(&key) && self.buckets.len() >= self.max {
            SHARED.clone_into(&mut key);
        }
        let (capacity, rate) = (self.capacity, self.rate);
        let bucket = self.buckets.entry(key).or_insert(Bucket {
            tokens: capacity,
            at: now,
        });
        bucket.fill(now, capacity, rate);
        if bucket.tokens < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - bucket.tokens) / rate));
        }
        bucket.tokens -= 1.0;
        Ok(whole(bucket.tokens))
    }

    /// A full bucket is the same as none.
    fn forget_full(&mut self, now: Duration) {
        let (capacity, rate) = (self.capacity, self.rate);
        self.buckets.retain(|_, bucket| {
            bucket.fill(now, capacity, rate);
            bucket.tokens < capacity
        });
    }
}

impl Bucket {
    fn fill(&mut self, now: Duration, capacity: f64, rate: f64) {
        let since = now.saturating_sub(self.at).as_secs_f64();
        self.tokens = capacity.min(self.tokens + since * rate);
        self.at = now;
    }
}

/// Whole tokens; there are never more than the limit, which is a `u32`.
fn whole(tokens: f64) -> u32 {
    tokens as u32
}

/// A key of bounded length.
pub(crate) fn shortened(key: &str) -> String {
    if key.len() <= MAX_KEY {
        return key.to_owned();
    }
    let start: String = key.chars().take(32).collect();
    format!("{start}~{}~{:016x}", key.len(), fnv1a(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_bucket_fills_over_time() {
        let mut buckets = Buckets::new(2, Duration::from_secs(1), 10);
        assert_eq!(buckets.take("a", ms(0)), Ok(1));
        assert_eq!(buckets.take("a", ms(0)), Ok(0));
        assert_eq!(buckets.take("a", ms(0)), Err(ms(500)));
        assert_eq!(buckets.take("a", ms(400)), Err(ms(100)));
        assert_eq!(buckets.take("a", ms(500)), Ok(0));
        assert_eq!(
            buckets.take("a", ms(100_000)),
            Ok(1),
            "never more than full"
        );
    }

    #[test]
    fn clients_beyond_the_bound_share_one_bucket() {
        let mut buckets = Buckets::new(1, Duration::from_secs(1), 2);
        assert_eq!(buckets.take("a", ms(0)), Ok(0));
        assert_eq!(buckets.take("b", ms(0)), Ok(0));
        assert_eq!(buckets.take("c", ms(0)), Ok(0));
        assert!(buckets.take("d", ms(0)).is_err(), "it shares with c");
        assert!(buckets.buckets.len() <= 3);
        // Those that were away long enough make room.
        assert_eq!(buckets.take("d", ms(2000)), Ok(0));
        assert_eq!(buckets.take("e", ms(2000)), Ok(0));
    }

    #[test]
    fn buckets_are_swept_at_intervals() {
        let mut buckets = Buckets::new(2, Duration::from_secs(1), 2);
        assert_eq!(buckets.take("a", ms(0)), Ok(1));
        assert_eq!(buckets.take("b", ms(0)), Ok(1));
        // Both are full again, and nobody looks.
        assert_eq!(buckets.take("c", ms(600)), Ok(1));
        assert_eq!(buckets.take("d", ms(600)), Ok(0), "it shares with c");
        // Those that are away go, though there would be room.
        let mut buckets = Buckets::new(2, Duration::from_secs(1), 10);
        for key in ["a", "b", "c"] {
            assert_eq!(buckets.take(key, ms(0)), Ok(1));
        }
        assert_eq!(buckets.take("d", ms(1000)), Ok(1));
        assert_eq!(buckets.buckets.len(), 1);
    }

    #[test]
    fn a_long_key_is_cut_and_still_its_own() {
        let long = "x".repeat(10_000);
        let other = format!("{}y", "x".repeat(9_999));
        assert!(shortened(&long).len() < MAX_KEY);
        assert_ne!(shortened(&long), shortened(&other));
        assert_eq!(shortened("short"), "short");
    }
}
