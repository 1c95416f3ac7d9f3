//! What an HTTP/2 server may still have to send of answers that are complete.
//!
//! The server queues the fields of an answer, and forgets its body as soon as
//! that has ended. A client that takes nothing more keeps both the fields and
//! the stream, and its proxy has nothing to hold on to.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::{Account, Held};

/// What the server keeps of a stream.
const STREAM: usize = 1024;

/// Fields of complete answers on one connection.
#[derive(Debug)]
pub struct Answered {
    held: RefCell<Held>,
    /// Since the last look.
    recent: Cell<usize>,
    /// Before that.
    before: Cell<usize>,
    /// Writes of the socket at the last look.
    writes: Cell<u64>,
}

impl Answered {
    /// None yet.
    #[must_use]
    pub fn new(account: &Arc<Account>) -> Self {
        Self {
            held: RefCell::new(Held::new(account, 0)),
            recent: Cell::new(0),
            before: Cell::new(0),
            writes: Cell::new(0),
        }
    }

    /// An answer is complete whose fields take so much memory, after so many
    /// writes of its socket.
    ///
    /// The server writes all it has in one go unless the socket blocks. So what
    /// was complete before the last write that it took is sent: a client that
    /// takes its answers keeps next to nothing, however fast they come.
    pub fn add(&self, fields: usize, writes: u64, blocked: bool) {
        if !blocked && writes != self.writes.get() {
            self.writes.set(writes);
            self.before.set(self.recent.take());
        }
        self.recent.set(self.recent.get() + STREAM + fields);
        self.charge();
    }

    /// To be called now and then. A server whose socket takes what it writes
    /// has sent what was there at the last look.
    pub fn settle(&self, blocked: bool) {
        let waiting = if blocked { self.before.get() } else { 0 };
        self.before.set(waiting + self.recent.take());
        self.charge();
    }

    fn charge(&self) {
        let all = self.before.get() + self.recent.get();
        self.held.borrow_mut().set(all);
    }
}
