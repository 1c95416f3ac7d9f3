//! The window of all clients of a node for which there is no room in the shared values.
//!
//! It is stored while there is room, and never goes: its size stays the same, so it can be counted
//! in when the quota is used up.

use weft_sdk::prelude::*;
use weft_sdk::{KvError, time};

/// Keys of clients begin in another way.
const KEY: &str = "shared";

/// When the window began, in milliseconds since 1970, and how many requests have come in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Window {
    began: u64,
    count: u64,
}

/// Makes room for it, if no other worker has.
pub(crate) fn reserve(kv: &Kv) -> Result<()> {
    match kv.compare_and_set(KEY, None, Window::default().bytes(), None) {
        // Where there is no room it fails when it is needed: the configuration is good all the same.
        Ok(_) | Err(KvError::Conflict(_) | KvError::Quota) => Ok(()),
        Err(err) => Err(err.into()),
    }
}

/// Counts a request, and says how many there are with it.
pub(crate) fn count(kv: &Kv, length: Duration) -> Result<i64, KvError> {
    let now = u64::try_from(time::wall_clock().as_millis()).unwrap_or(u64::MAX);
    let length = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
    let mut window = Window::default();
    kv.update(KEY, None, |old| {
        window = Window::of(old).counted(now, length);
        window.bytes().to_vec()
    })?;
    Ok(i64::try_from(window.count).unwrap_or(i64::MAX))
}

impl Window {
    /// What is no window counts as one that is over.
    fn of(bytes: Option<&[u8]>) -> Self {
        let numbers = bytes.and_then(|bytes| bytes.as_chunks::<8>().0.first_chunk::<2>());
        numbers.map_or_else(Self::default, |[began, count]| Self {
            began: u64::from_le_bytes(*began),
            count: u64::from_le_bytes(*count),
        })
    }

    fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.began.to_le_bytes());
        bytes[8..].copy_from_slice(&self.count.to_le_bytes());
        bytes
    }

    /// With one more request. A clock that was set back begins a new window, too.
    fn counted(self, now: u64, length: u64) -> Self {
        let goes_on = now
            .checked_sub(self.began)
            .is_some_and(|since| since < length);
        if goes_on {
            return Self {
                began: self.began,
                count: self.count.saturating_add(1),
            };
        }
        Self {
            began: now,
            count: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_begins_with_its_first_request() {
        let first = Window::default().counted(5000, 1000);
        let second = first.counted(5999, 1000);
        assert_eq!((first.count, second.count), (1, 2));
        assert_eq!(Window::of(Some(&second.bytes())), second);
        for now in [6000, 4999] {
            let began = Window {
                began: now,
                count: 1,
            };
            assert_eq!(second.counted(now, 1000), began);
        }
        assert_eq!(Window::of(Some(b"short")), Window::default());
    }
}
