//! How much waits to be sent, and who waits for it to leave.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Context;

use futures_util::task::AtomicWaker;

/// Bytes that wait to be sent.
///
/// Atomic only because some of it crosses interfaces that ask for `Send`; it
/// never leaves its worker.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    bytes: AtomicUsize,
    /// Someone waits for the last of them to leave.
    asked: AtomicBool,
    waker: AtomicWaker,
}

impl Waiting {
    /// Those that wait now.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// So many more wait.
    pub(super) fn put(&self, bytes: usize) {
        self.bytes.store(self.bytes() + bytes, Ordering::Relaxed);
    }

    /// So many were sent, or more, where what is sent has a frame. Says how
    /// many of those that waited are gone.
    pub(super) fn sent(&self, bytes: usize) -> usize {
        let gone = bytes.min(self.bytes());
        self.keep(self.bytes() - gone);
        gone
    }

    /// No more than so many wait.
    pub(super) fn keep(&self, most: usize) {
        let waiting = self.bytes();
        self.bytes.store(waiting.min(most), Ordering::Relaxed);
        if waiting > 0 && most == 0 && self.asked.swap(false, Ordering::Relaxed) {
            self.waker.wake();
        }
    }

    /// Wakes the task when none waits any more.
    pub(super) fn wake_when_gone(&self, context: &Context<'_>) {
        self.waker.register(context.waker());
        self.asked.store(true, Ordering::Relaxed);
    }
}
