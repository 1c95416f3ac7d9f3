//! What an HTTP/1 server has copied and its socket has not taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use super::Account;
use super::waiting::Waiting;

/// The server's buffer as it is made; the connection is charged for this much
/// of it anyway.
const SMALLEST: usize = 8 * 1024;

/// Bytes that follow at once, and only behind less than so many: a connection
/// keeps the largest buffer that it ever had, and most of a large one would never
/// be used again.
const WINDOW: usize = 64 * 1024;

/// The buffer that the server writes from. It doubles as it grows and never
/// shrinks: what counts is the most that ever waited.
#[derive(Debug)]
pub struct WriteBuffer {
    account: Arc<Account>,
    waiting: Waiting,
    size: AtomicUsize,
}

impl WriteBuffer {
    /// As it is made.
    #[must_use]
    pub fn new(account: Arc<Account>) -> Self {
        Self {
            account,
            waiting: Waiting::default(),
            size: AtomicUsize::new(SMALLEST),
        }
    }

    /// Whose memory it is.
    #[must_use]
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// How many bytes of a body may follow now. If none, the task is woken when
    /// some may.
    pub fn poll_room(&self, context: &Context<'_>) -> Poll<usize> {
        let waiting = self.waiting.bytes();
        if waiting == 0 || (waiting < WINDOW && !self.account.is_scarce()) {
            return Poll::Ready(WINDOW);
        }
        self.waiting.wake_when_gone(context);
        Poll::Pending
    }

    /// So much was copied into it.
    pub fn put(&self, bytes: usize) {
        self.waiting.put(bytes);
        let size = self.size.load(Ordering::Relaxed);
        let needed = self.waiting.bytes();
        if needed > size {
            let grown = needed.next_power_of_two();
            self.size.store(grown, Ordering::Relaxed);
            self.account.take(grown - size);
        }
    }

    /// So much was sent, of what was copied or of what the server put around
    /// it.
    pub fn sent(&self, bytes: usize) {
        self.waiting.sent(bytes);
    }
}

impl Drop for WriteBuffer {
    fn drop(&mut self) {
        let size = self.size.load(Ordering::Relaxed);
        self.account.give(size - SMALLEST);
    }
}
