//! What is kept below a key, and for how long.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// What an entry takes beside its key and its value.
const OVERHEAD: usize = 96;

#[derive(Debug, Clone)]
pub(super) enum Content {
    Bytes(Arc<[u8]>),
    Number(i64),
}

impl Content {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Number(_) => size_of::<i64>(),
        }
    }

    /// A number reads as its eight bytes, the lowest first.
    pub(super) fn bytes(&self) -> Arc<[u8]> {
        match self {
            Self::Bytes(bytes) => Arc::clone(bytes),
            Self::Number(number) => Arc::from(&number.to_le_bytes()[..]),
        }
    }

    pub(super) fn number(&self) -> Option<i64> {
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
pub(super) struct Item {
    pub(super) content: Content,
    pub(super) version: u64,
    pub(super) stays: Stays,
}

/// How long a value stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stays {
    /// Until it is removed.
    ForGood,
    /// Until this moment, in nanoseconds of the caller's clock.
    Until(u64),
    /// Until there is no room for others.
    WhileThereIsRoom,
}

impl Stays {
    /// From now on.
    pub(super) fn new(ttl: Option<Duration>, now: u64) -> Self {
        let nanos = |ttl: Duration| u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX);
        ttl.map_or(Self::ForGood, |ttl| {
            Self::Until(now.saturating_add(nanos(ttl)))
        })
    }
}

impl Item {
    pub(super) fn is_over(&self, now: u64) -> bool {
        matches!(self.stays, Stays::Until(end) if end <= now)
    }
}

#[derive(Debug, Default)]
pub(super) struct Shard {
    pub(super) items: HashMap<Arc<str>, Item>,
    /// By the time at which they are over.
    pub(super) order: BTreeSet<(u64, Arc<str>)>,
    /// Those that give way, by their version: the first one was written before all others.
    pub(super) giving_way: BTreeMap<u64, Arc<str>>,
}

impl Shard {
    /// It is not there any more.
    pub(super) fn unlist(&mut self, key: &Arc<str>, item: &Item) {
        match item.stays {
            Stays::ForGood => {}
            Stays::Until(end) => {
                self.order.remove(&(end, Arc::clone(key)));
            }
            Stays::WhileThereIsRoom => {
                self.giving_way.remove(&item.version);
            }
        }
    }
}

/// Bytes that a value takes with all that belongs to it.
pub(super) fn weight(key: &str, content: &Content) -> usize {
    key.len() + content.len() + OVERHEAD
}
