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
}

impl Answered {
    /// None yet.
    #[must_use]
    pub fn new(account: &Arc<Account>) -> Self {
        Self {
            held: RefCell::new(Held::new(account, 0)),
            recent: Cell::new(0),
            before: Cell::new(0),
        }
    }

    /// An answer is complete whose fields take so much memory.
    pub fn add(&self, fields: usize) {
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
