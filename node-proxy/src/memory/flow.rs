//! What was handed on and has not left yet.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};

use super::waiting::Waiting;
use super::{Account, BUFFER};

/// What queues keep beside each piece: the frame around it and its place, in a
/// table that doubles as it grows.
const FRAME: usize = 1024;

/// Content up to this size is copied out of the buffer that it was read into,
/// where it may have to wait.
const COPY: usize = 1024;

/// `bytes` on their own, and the memory that they keep. Small ones are copied;
/// larger ones keep the buffer that they were read into.
#[must_use]
pub fn unshared(bytes: Bytes) -> (Bytes, usize) {
    let length = bytes.len();
    if length <= COPY {
        (Bytes::copy_from_slice(&bytes), length)
    } else {
        (bytes, length.max(BUFFER))
    }
}

/// One direction of one exchange: pieces of a body that wait in a server's or
/// client's queue until the socket takes them.
///
/// While its source is short of memory the next piece is taken only when the
/// ones before have left. So a stream goes on, however little it holds.
#[derive(Debug)]
pub struct Flow {
    account: Arc<Account>,
    waiting: Waiting,
}

impl Flow {
    /// Nothing is on its way yet.
    #[must_use]
    pub fn new(account: Arc<Account>) -> Self {
        Self {
            account,
            waiting: Waiting::default(),
        }
    }

    /// Whose memory it is.
    #[must_use]
    pub fn account(&self) -> &Arc<Account> {
        &self.account
    }

    /// Whether another piece may follow now. If not, the task is woken when it
    /// may.
    pub fn poll_room(&self, context: &Context<'_>) -> Poll<()> {
        if self.waiting.bytes() == 0 || !self.account.is_scarce() {
            return Poll::Ready(());
        }
        self.waiting.wake_when_gone(context);
        Poll::Pending
    }

    /// A piece of this size waits to be sent.
    pub fn put(&self, bytes: usize) {
        self.waiting.put(bytes);
        self.account.take(bytes);
    }

    /// So much of it was sent.
    pub fn sent(&self, bytes: usize) {
        self.account.give(self.waiting.sent(bytes));
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.account.give(self.waiting.bytes());
    }
}

/// What a piece belongs to.
pub trait Owner {
    /// The direction that it is on.
    fn flow(&self) -> &Flow;
}

impl Owner for Arc<Flow> {
    fn flow(&self) -> &Flow {
        self
    }
}

impl<T: Owner> Owner for Rc<T> {
    fn flow(&self) -> &Flow {
        T::flow(self)
    }
}

/// A piece of a body. Charged until it is dropped, which the server or client
/// does when it is sent; those without an owner are charged where they go.
#[derive(Debug)]
pub struct Piece<O: Owner> {
    bytes: Bytes,
    charged: Option<(O, usize)>,
}

impl<O: Owner> Piece<O> {
    /// A piece that keeps `memory` bytes as long as it lives.
    #[must_use]
    pub fn new(bytes: Bytes, memory: usize, owner: O) -> Self {
        let memory = memory + FRAME;
        owner.flow().put(memory);
        Self {
            bytes,
            charged: Some((owner, memory)),
        }
    }

    /// A piece that is charged elsewhere.
    #[must_use]
    pub fn free(bytes: Bytes) -> Self {
        Self {
            bytes,
            charged: None,
        }
    }
}

impl<O: Owner> Buf for Piece<O> {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        self.bytes.copy_to_bytes(length)
    }
}

impl<O: Owner> Drop for Piece<O> {
    fn drop(&mut self) {
        if let Some((owner, memory)) = &self.charged {
            owner.flow().sent(*memory);
        }
    }
}
