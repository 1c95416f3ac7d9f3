//! What one source makes the proxy hold, and how that is kept within a bound.
//!
//! A client, together with a server of its own, can make a proxy hold what is
//! on its way between them: windows, buffers, heads, the state of streams.
//! All of it is charged to the client's address while it lasts. As a source
//! comes near its bound it is first served in small pieces, which slows it
//! down and nothing else; then it gets no more connections and requests; and
//! at the bound itself the HTTP/2 connection on which more comes is closed.
//! Other sources notice nothing of it.
//!
//! A source has one [`Purse`] and, on each worker, an [`Account`] that leases
//! from it in advance. So a request touches only what belongs to its worker.

mod answered;
mod flow;
mod unread;
mod waiting;
mod write_buffer;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use http::HeaderMap;

pub use self::answered::Answered;
pub use self::flow::{Flow, Owner, Piece, unshared};
pub use self::unread::{Frames, Unread};
pub use self::write_buffer::WriteBuffer;

/// What an account leases at once.
const LEASE: usize = 16 * 1024;

/// Most that an account keeps leased without need.
const SLACK: usize = 64 * 1024;

/// What a source that is short of memory reads at once.
pub const SMALL: usize = 4 * 1024;

/// The buffers that sockets are read into. A frame or a field that is kept
/// keeps the buffer that it was read into.
pub const BUFFER: usize = 8 * 1024;

/// What a map keeps for each field beside its name and value.
const FIELD: usize = 128;

/// A head or trailers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields {
    /// Bytes of names and values.
    pub text: usize,
    /// Number of fields.
    pub count: usize,
}

impl Fields {
    /// Counts these.
    #[must_use]
    pub fn of(fields: &HeaderMap) -> Self {
        let text = fields
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len());
        Self {
            text: text.sum(),
            count: fields.len(),
        }
    }

    /// What they take: they are held twice, as they came and as they go on.
    #[must_use]
    pub fn memory(self) -> usize {
        2 * (self.text + FIELD * self.count)
    }
}

/// Memory of all sources.
#[derive(Debug)]
pub struct Purses {
    limit: AtomicU64,
    /// Locked when a worker sees the first connection of a source, and by no
    /// request.
    known: Mutex<HashMap<IpAddr, Weak<Purse>>>,
}

/// What sources have in use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// All together, in bytes.
    pub all: usize,
    /// The one that has the most.
    pub largest: usize,
}

/// Memory of one source, on all workers.
#[derive(Debug)]
pub struct Purse {
    of: Arc<Purses>,
    source: IpAddr,
    leased: AtomicUsize,
}

impl Purses {
    /// At most `limit` bytes for each source.
    #[must_use]
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            limit: AtomicU64::new(limit),
            known: Mutex::default(),
        })
    }

    /// From now on `limit` bytes for each source.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// An account of `source`, for one worker.
    #[must_use]
    pub fn open(self: &Arc<Self>, source: IpAddr) -> Arc<Account> {
        let mut known = self.known();
        let purse = known.get(&source).and_then(Weak::upgrade);
        let purse = purse.unwrap_or_else(|| {
            let purse = Arc::new(Purse {
                of: Arc::clone(self),
                source,
                leased: AtomicUsize::new(0),
            });
            known.insert(source, Arc::downgrade(&purse));
            purse
        });
        Arc::new(Account {
            purse,
            held: AtomicUsize::new(0),
            leased: AtomicUsize::new(0),
        })
    }

    /// What sources have in use.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let known = self.known();
        let purses = known.values().filter_map(Weak::upgrade);
        // Dropped only when the lock is free again: a purse takes it in its end.
        let purses: Vec<_> = purses.collect();
        drop(known);
        purses.iter().fold(Usage::default(), |usage, purse| {
            let leased = purse.leased.load(Ordering::Relaxed);
            Usage {
                all: usage.all + leased,
                largest: usage.largest.max(leased),
            }
        })
    }

    fn known(&self) -> MutexGuard<'_, HashMap<IpAddr, Weak<Purse>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Purse {
    fn drop(&mut self) {
        let mut known = self.of.known();
        // Another one may have taken its place already.
        if known
            .get(&self.source)
            .is_some_and(|purse| purse.strong_count() == 0)
        {
            known.remove(&self.source);
        }
    }
}

/// What one source makes one worker hold.
///
/// Atomic only because what is charged to it crosses interfaces that ask for
/// `Send`; it never leaves its worker, so nobody else writes in between.
#[derive(Debug)]
pub struct Account {
    purse: Arc<Purse>,
    held: AtomicUsize,
    leased: AtomicUsize,
}

impl Account {
    /// An account of nobody, without a bound worth the name.
    #[must_use]
    pub fn unbounded() -> Arc<Self> {
        Purses::new(u64::MAX).open(IpAddr::from([0, 0, 0, 0]))
    }

    /// So many bytes more are held. Never refused: whoever can do with less
    /// asks before.
    pub fn take(&self, bytes: usize) {
        let held = self.held.load(Ordering::Relaxed) + bytes;
        self.held.store(held, Ordering::Relaxed);
        let leased = self.leased.load(Ordering::Relaxed);
        if held > leased {
            let more = (held - leased).next_multiple_of(LEASE);
            self.leased.store(leased + more, Ordering::Relaxed);
            self.purse.leased.fetch_add(more, Ordering::Relaxed);
        }
    }

    /// So many bytes are held by something that leaves the worker.
    #[must_use]
    pub fn lend(&self, bytes: usize) -> Lent {
        self.purse.leased.fetch_add(bytes, Ordering::Relaxed);
        Lent {
            purse: Arc::clone(&self.purse),
            bytes,
        }
    }

    /// So many bytes less are held.
    pub fn give(&self, bytes: usize) {
        let held = self.held.load(Ordering::Relaxed).saturating_sub(bytes);
        self.held.store(held, Ordering::Relaxed);
        let leased = self.leased.load(Ordering::Relaxed);
        if leased - held > SLACK {
            let back = leased - held - LEASE;
            self.leased.store(leased - back, Ordering::Relaxed);
            self.purse.leased.fetch_sub(back, Ordering::Relaxed);
        }
    }

    /// Bytes that are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Half of the source's memory is in use: it is served in small pieces.
    #[must_use]
    pub fn is_scarce(&self) -> bool {
        self.above(2, 4)
    }

    /// Three quarters are: nothing new begins.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.above(3, 4)
    }

    /// All of it is: what brings more is ended.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.above(4, 4)
    }

    fn above(&self, part: u64, whole: u64) -> bool {
        let limit = self.purse.of.limit.load(Ordering::Relaxed);
        let leased = self.purse.leased.load(Ordering::Relaxed);
        leased as u64 > limit / whole * part
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let leased = self.leased.load(Ordering::Relaxed);
        self.purse.leased.fetch_sub(leased, Ordering::Relaxed);
    }
}

/// Something that is held on whatever thread; given back when dropped.
#[derive(Debug)]
pub struct Lent {
    purse: Arc<Purse>,
    bytes: usize,
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.purse.leased.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Something that is held, of a size that may change; given back when dropped.
#[derive(Debug)]
pub struct Held {
    account: Arc<Account>,
    bytes: usize,
}

impl Held {
    /// So many bytes are held from now on.
    #[must_use]
    pub fn new(account: &Arc<Account>, bytes: usize) -> Self {
        account.take(bytes);
        Self {
            account: Arc::clone(account),
            bytes,
        }
    }

    /// It has another size now.
    pub fn set(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.account.take(bytes - self.bytes);
        } else if bytes < self.bytes {
            self.account.give(self.bytes - bytes);
        }
        self.bytes = bytes;
    }

    /// Whose memory it is.
    #[must_use]
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.account.give(self.bytes);
    }
}

#[cfg(test)]
mod tests;
