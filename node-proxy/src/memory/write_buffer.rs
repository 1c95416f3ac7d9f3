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
///
/// What waits is never more than what is in the buffer, or a body could wait for
/// room in an empty one. That rests on the server's way with its one buffer: what
/// it offers to the socket is all that is in there.
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

    /// So much of an answer was given to the server to be copied into it. Of
    /// trailers it leaves out those that it may not send.
    pub fn put(&self, bytes: usize) {
        self.waiting.put(bytes);
        self.grow(self.waiting.bytes());
    }

    /// The server offered all that was in it to the socket, which took so much.
    pub fn wrote(&self, offered: usize, taken: usize) {
        if self.waiting.bytes() == 0 {
            // What is written may be of another protocol.
            return;
        }
        // With what the server puts around content.
        self.grow(offered);
        self.waiting.sent(taken);
        self.waiting.keep(offered.saturating_sub(taken));
    }

    /// Whether it has become larger than it was made.
    #[must_use]
    pub fn is_grown(&self) -> bool {
        self.size.load(Ordering::Relaxed) > SMALLEST
    }

    fn grow(&self, needed: usize) {
        let size = self.size.load(Ordering::Relaxed);
        if needed > size {
            let grown = needed.next_power_of_two();
            self.size.store(grown, Ordering::Relaxed);
            self.account.take(grown - size);
        }
    }
}

impl Drop for WriteBuffer {
    fn drop(&mut self) {
        let size = self.size.load(Ordering::Relaxed);
        self.account.give(size - SMALLEST);
    }
}
