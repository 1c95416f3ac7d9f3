//! Queues of proxy-wasm: messages between filters of a node, by name.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;

/// Queues at once.
const MAX_QUEUES: usize = 64;
/// Bytes that one queue holds.
const MAX_BYTES: usize = 1 << 20;
/// What a message takes beside its bytes.
const OVERHEAD: usize = 64;
/// Longest name of a queue.
const MAX_NAME: usize = 256;

/// Why a queue did not take a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueError {
    /// No such queue.
    Unknown,
    /// Its name is too long.
    Name,
    /// Too many queues, or it holds too much.
    Full,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Bytes>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    /// A message came, and nobody who listens has been told.
    news: AtomicBool,
}

#[derive(Debug, Default)]
struct Names {
    numbers: HashMap<String, u32>,
    queues: Vec<Arc<Queue>>,
}

/// All queues of filters that share.
#[derive(Debug, Default)]
pub struct Queues {
    names: RwLock<Names>,
}

impl Queues {
    /// No queue.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of a queue, which is made if it is not there.
    pub(crate) fn register(&self, name: &str) -> Result<u32, QueueError> {
        if name.len() > MAX_NAME {
            return Err(QueueError::Name);
        }
        if let Some(number) = self.resolve(name) {
            return Ok(number);
        }
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = names.numbers.get(name) {
            return Ok(*number);
        }
        if names.queues.len() >= MAX_QUEUES {
            return Err(QueueError::Full);
        }
        names.queues.push(Arc::default());
        let number = u32::try_from(names.queues.len()).map_err(|_many| QueueError::Full)?;
        names.numbers.insert(name.to_owned(), number);
        Ok(number)
    }

    /// The number of a queue that is there.
    pub(crate) fn resolve(&self, name: &str) -> Option<u32> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.numbers.get(name).copied()
    }

    pub(crate) fn push(&self, number: u32, message: &[u8]) -> Result<(), QueueError> {
        let queue = self.queue(number).ok_or(QueueError::Unknown)?;
        let mut waiting = lock(&queue.waiting);
        let weight = weight(message);
        if waiting.bytes + weight > MAX_BYTES {
            return Err(QueueError::Full);
        }
        waiting.bytes += weight;
        waiting.messages.push_back(Bytes::copy_from_slice(message));
        queue.news.store(true, Ordering::Release);
        Ok(())
    }

    /// The next message; none when there is none.
    pub(crate) fn pop(&self, number: u32) -> Result<Option<Bytes>, QueueError> {
        let queue = self.queue(number).ok_or(QueueError::Unknown)?;
        let mut waiting = lock(&queue.waiting);
        let message = waiting.messages.pop_front();
        waiting.bytes -= message.as_deref().map_or(0, weight);
        Ok(message)
    }

    /// Whether a message came since the last call; true for one of those who ask.
    pub(crate) fn take_news(&self, number: u32) -> bool {
        self.queue(number).is_some_and(|queue| {
            queue.news.load(Ordering::Acquire) && queue.news.swap(false, Ordering::AcqRel)
        })
    }

    fn queue(&self, number: u32) -> Option<Arc<Queue>> {
        let at = usize::try_from(number).ok()?.checked_sub(1)?;
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names.queues.get(at).cloned()
    }
}

const fn weight(message: &[u8]) -> usize {
    OVERHEAD + message.len()
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::{MAX_BYTES, MAX_NAME, MAX_QUEUES, OVERHEAD, QueueError, Queues};

    #[test]
    fn messages_come_in_their_order() {
        let queues = Queues::new();
        let number = queues.register("a").expect("room");
        assert_eq!(queues.register("a"), Ok(number));
        assert_eq!(queues.resolve("a"), Some(number));
        assert_eq!(queues.resolve("b"), None);
        queues.push(number, b"1").expect("room");
        queues.push(number, b"2").expect("room");
        let popped = || queues.pop(number).expect("there").map(|m| m.to_vec());
        assert_eq!(popped(), Some(b"1".to_vec()));
        assert_eq!(popped(), Some(b"2".to_vec()));
        assert_eq!(popped(), None);
        assert_eq!(queues.pop(number + 1), Err(QueueError::Unknown));
        assert_eq!(queues.push(0, b""), Err(QueueError::Unknown));
    }

    #[test]
    fn one_of_those_who_listen_is_told() {
        let queues = Queues::new();
        let number = queues.register("a").expect("room");
        assert!(!queues.take_news(number));
        queues.push(number, b"1").expect("room");
        assert!(queues.take_news(number));
        assert!(!queues.take_news(number));
    }

    #[test]
    fn queues_and_what_they_hold_are_bounded() {
        let queues = Queues::new();
        let number = queues.register("a").expect("room");
        let most = vec![0; MAX_BYTES - OVERHEAD];
        queues.push(number, &most).expect("room");
        assert_eq!(queues.push(number, b""), Err(QueueError::Full));
        queues.pop(number).expect("there");
        queues.push(number, b"1").expect("room again");
        for queue in 1..MAX_QUEUES {
            queues.register(&queue.to_string()).expect("room");
        }
        assert_eq!(queues.register("more"), Err(QueueError::Full));
    }

    #[test]
    fn messages_of_nothing_fill_a_queue_too() {
        let queues = Queues::new();
        let number = queues.register("a").expect("room");
        let room = MAX_BYTES / OVERHEAD;
        for _message in 0..room {
            queues.push(number, b"").expect("room");
        }
        assert_eq!(queues.push(number, b""), Err(QueueError::Full));
        for _message in 0..room {
            assert!(queues.pop(number).expect("there").is_some());
        }
        assert_eq!(queues.pop(number), Ok(None));
        queues.push(number, b"").expect("room again");
    }

    #[test]
    fn a_name_has_an_end() {
        let queues = Queues::new();
        let longest = "n".repeat(MAX_NAME);
        let number = queues.register(&longest).expect("short enough");
        assert_eq!(queues.resolve(&longest), Some(number));
        let longer = "n".repeat(MAX_NAME + 1);
        assert_eq!(queues.register(&longer), Err(QueueError::Name));
    }
}
