//! From a worker to telemetry: a bounded queue that never makes a worker wait
//! or enter the kernel.
//!
//! One queue per worker. Pushing is lock-free, does not allocate and does not
//! wake anyone while telemetry is busy: it drains all queues in turns and
//! naps between them. Only when there was nothing to do for a while does it
//! sleep for real, and then the first push wakes it. A full queue drops the
//! event and counts it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver as Queue, SyncSender, TrySendError, sync_channel};

use tokio::sync::Notify;

use super::exchange::Event;

/// Events that one worker may be ahead of telemetry: at 50,000 requests a
/// second, 80 ms.
pub const CAPACITY: usize = 8192;

#[derive(Debug, Default)]
struct Shared {
    lost: AtomicU64,
    sleeping: AtomicBool,
    wake: Notify,
}

/// A worker's end.
#[derive(Debug, Clone)]
pub struct Sender {
    queue: SyncSender<Event>,
    shared: Arc<Shared>,
}

/// Telemetry's end: all workers' queues.
#[derive(Debug)]
pub struct Receiver {
    queues: Vec<Queue<Event>>,
    shared: Arc<Shared>,
}

/// Queues of `capacity` events for as many workers as are wanted.
#[must_use]
pub fn rings(workers: usize, capacity: usize) -> (Vec<Sender>, Receiver) {
    let shared = Arc::new(Shared::default());
    let (senders, queues) = (0..workers)
        .map(|_worker| {
            let (queue, receiver) = sync_channel(capacity);
            let sender = Sender {
                queue,
                shared: Arc::clone(&shared),
            };
            (sender, receiver)
        })
        .unzip();
    (senders, Receiver { queues, shared })
}

impl Sender {
    /// Hands an event over, or counts it as lost.
    pub fn push(&self, event: Event) {
        match self.queue.try_send(event) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.shared.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        if self.shared.sleeping.load(Ordering::Relaxed)
            && self.shared.sleeping.swap(false, Ordering::AcqRel)
        {
            self.shared.wake.notify_one();
        }
    }
}

impl Receiver {
    /// Takes what is there, up to `limit` events of each worker.
    pub fn drain(&self, limit: usize, mut each: impl FnMut(Event)) -> usize {
        let mut taken = 0;
        for queue in &self.queues {
            for event in queue.try_iter().take(limit) {
                each(event);
                taken += 1;
            }
        }
        taken
    }

    /// Events lost so far.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Announces sleep: from now on a push wakes. Look once more before
    /// waiting, for what was pushed in between.
    pub fn announce_sleep(&self) {
        self.shared.sleeping.store(true, Ordering::SeqCst);
    }

    /// What wakes a sleeper.
    #[must_use]
    pub fn alarm(&self) -> Alarm {
        Alarm(Arc::clone(&self.shared))
    }
}

/// Rings at the first push after [`Receiver::announce_sleep`].
#[derive(Debug)]
pub struct Alarm(Arc<Shared>);

impl Alarm {
    /// Waits for it.
    pub async fn rung(&self) {
        self.0.wake.notified().await;
    }
}
