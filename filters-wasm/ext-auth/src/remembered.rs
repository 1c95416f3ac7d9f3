//! Permissions that are good for a while.

use std::collections::{HashMap, VecDeque};

use weft_sdk::prelude::{Duration, Rc};

/// Stands for a question. Of fixed size, so that long paths and headers take no more room; nobody
/// can make another question with the same one.
pub(crate) type Digest = [u8; 32];

/// Beyond this the oldest ones are forgotten.
const MAX_REMEMBERED: usize = 4096;
/// Bytes of headers beyond which the oldest ones are forgotten.
const MAX_BYTES: usize = 4 << 20;

/// What a request is given that may pass.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Permission {
    pub(crate) until: Duration,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
}

#[derive(Debug, Default)]
pub(crate) struct Remembered {
    permissions: HashMap<Digest, Rc<Permission>>,
    /// As they came. All are good for the same time, so the first one is over first.
    order: VecDeque<(Digest, Rc<Permission>)>,
    bytes: usize,
}

impl Remembered {
    pub(crate) fn get(&mut self, digest: &Digest, now: Duration) -> Option<Rc<Permission>> {
        self.sweep(now);
        self.permissions.get(digest).cloned()
    }

    pub(crate) fn insert(&mut self, digest: Digest, permission: Rc<Permission>, now: Duration) {
        self.sweep(now);
        self.bytes += permission.size();
        self.permissions.insert(digest, permission.clone());
        self.order.push_back((digest, permission));
        while self.order.len() > MAX_REMEMBERED || self.bytes > MAX_BYTES {
            self.forget_first();
        }
    }

    /// Each one is forgotten once, so this costs no more than they did.
    fn sweep(&mut self, now: Duration) {
        while self
            .order
            .front()
            .is_some_and(|(_, permission)| permission.until <= now)
        {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let Some((digest, permission)) = self.order.pop_front() else {
            return;
        };
        self.bytes = self.bytes.saturating_sub(permission.size());
        // There may be a newer one for the same question.
        let current = self.permissions.get(&digest);
        if current.is_some_and(|current| Rc::ptr_eq(current, &permission)) {
            self.permissions.remove(&digest);
        }
    }
}

impl Permission {
    fn size(&self) -> usize {
        let bytes = |(name, value): &(String, Vec<u8>)| name.len() + value.len();
        self.headers.iter().map(bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until(seconds: u64, bytes: usize) -> Rc<Permission> {
        Rc::new(Permission {
            until: Duration::from_secs(seconds),
            headers: vec![("x".to_owned(), vec![b'a'; bytes])],
        })
    }

    fn digest(number: usize) -> Digest {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&(number as u64).to_le_bytes());
        digest
    }

    #[test]
    fn what_is_over_is_not_kept() {
        let mut remembered = Remembered::default();
        for number in 0..100 {
            remembered.insert(digest(number), until(10, 1), Duration::ZERO);
        }
        assert_eq!(remembered.get(&digest(200), Duration::from_secs(10)), None);
        assert!(remembered.permissions.is_empty());
        assert!(remembered.order.is_empty());
        assert_eq!(remembered.bytes, 0);
    }

    #[test]
    fn the_oldest_make_room() {
        let mut remembered = Remembered::default();
        for number in 0..=MAX_REMEMBERED {
            remembered.insert(digest(number), until(10, 1), Duration::ZERO);
        }
        assert_eq!(remembered.permissions.len(), MAX_REMEMBERED);
        assert_eq!(remembered.get(&digest(0), Duration::ZERO), None);
        assert!(remembered.get(&digest(1), Duration::ZERO).is_some());
        remembered.insert(digest(0), until(10, MAX_BYTES / 2), Duration::ZERO);
        remembered.insert(digest(1), until(10, MAX_BYTES / 2), Duration::ZERO);
        assert!(remembered.bytes <= MAX_BYTES);
        assert_eq!(remembered.permissions.len(), 1);
    }

    #[test]
    fn a_newer_one_outlives_the_older_one() {
        let mut remembered = Remembered::default();
        remembered.insert(digest(0), until(10, 1), Duration::ZERO);
        remembered.insert(digest(0), until(20, 1), Duration::from_secs(5));
        let found = remembered.get(&digest(0), Duration::from_secs(15));
        assert_eq!(found, Some(until(20, 1)));
    }
}
