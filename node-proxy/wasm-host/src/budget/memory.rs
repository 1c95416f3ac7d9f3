//! The memory of all instances of one namespace's filters, on all workers.

use std::sync::atomic::{AtomicUsize, Ordering};

/// What an instance counts as at least: it takes a place in the engine, of which there are not
/// endlessly many, however small it is.
const INSTANCE: usize = 1 << 20;

/// Memory that the filters of one namespace have together.
#[derive(Debug)]
pub struct Memory {
    /// Bytes.
    most: usize,
    used: AtomicUsize,
}

impl Memory {
    /// So many bytes, all of them free.
    #[must_use]
    pub const fn new(most: usize) -> Self {
        Self {
            most,
            used: AtomicUsize::new(0),
        }
    }

    /// Bytes that are there altogether.
    #[must_use]
    pub const fn most(&self) -> usize {
        self.most
    }

    /// Bytes that instances have.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes what an instance takes that grows from so many bytes to so many. False if there is too
    /// little; then nothing is taken.
    pub(crate) fn grow(&self, from: usize, to: usize) -> bool {
        let more = counted(to).saturating_sub(counted(from));
        let take = |used: usize| used.checked_add(more).filter(|used| *used <= self.most);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_ok()
    }

    /// An instance of so many bytes is gone.
    pub(crate) fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(counted(bytes), Ordering::Relaxed);
    }
}

/// What so many bytes of an instance count as; none is no instance yet.
const fn counted(bytes: usize) -> usize {
    match bytes {
        0 => 0,
        bytes if bytes < INSTANCE => INSTANCE,
        bytes => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::Memory;

    const MIB: usize = 1 << 20;

    #[test]
    fn instances_take_what_there_is_and_give_it_back() {
        let memory = Memory::new(4 * MIB);
        assert!(memory.grow(0, 64 << 10), "a small one");
        assert_eq!(memory.used(), MIB);
        assert!(memory.grow(64 << 10, MIB), "it has that already");
        assert!(memory.grow(0, 2 * MIB));
        assert!(!memory.grow(2 * MIB, 4 * MIB), "nothing is taken");
        assert_eq!(memory.used(), 3 * MIB);
        memory.give_back(2 * MIB);
        memory.give_back(MIB);
        assert_eq!(memory.used(), 0);
    }
}
