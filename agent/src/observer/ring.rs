//! The newest flows of the node.
//!
//! One task writes, any number of readers follow, nobody waits for anybody: a
//! slot is one atomic pointer, and a reader that was overtaken sees it by the
//! number in the entry.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use weft_api::hubble::flow::{Flow, LostEvent};
use weft_api::hubble::wkt::Timestamp;

/// Nanoseconds over which the rate is taken.
const MINUTE: u64 = 60_000_000_000;

/// What the ring holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Seen {
    /// A flow.
    Flow(Box<Flow>),
    /// Something was not seen.
    Lost(LostEvent),
}

/// One observation with its place in the order of arrival.
#[derive(Debug)]
pub(super) struct Entry {
    pub number: u64,
    pub time: Timestamp,
    pub seen: Seen,
}

/// A ring of the newest entries.
#[derive(Debug)]
pub(super) struct Ring {
    slots: Box<[ArcSwapOption<Entry>]>,
    /// Number of the next entry.
    next: AtomicU64,
    /// Flows among the entries so far.
    flows: AtomicU64,
    /// Entries up to here are for readers to see.
    published: watch::Sender<u64>,
    /// When it began.
    pub started: Instant,
}

impl Ring {
    pub(super) fn new(capacity: usize) -> Self {
        let slots = (0..capacity.max(1)).map(|_| ArcSwapOption::empty());
        Self {
            slots: slots.collect(),
            next: AtomicU64::new(0),
            flows: AtomicU64::new(0),
            published: watch::Sender::new(0),
            started: Instant::now(),
        }
    }

    /// Adds an entry in place of the oldest. Only one task may write.
    pub(super) fn push(&self, seen: Seen) {
        let time = match &seen {
            Seen::Flow(flow) => {
                self.flows.fetch_add(1, Ordering::Relaxed);
                flow.time
            }
            Seen::Lost(lost) => lost.last,
        };
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let entry = Entry {
            number,
            time: time.unwrap_or_else(|| SystemTime::now().into()),
            seen,
        };
        if let Some(slot) = self.slot(number) {
            slot.store(Some(Arc::new(entry)));
        }
    }

    /// Shows readers what was pushed; once per batch, since it wakes them.
    pub(super) fn publish(&self) {
        let next = self.next.load(Ordering::Relaxed);
        self.published.send_if_modified(|published| {
            let news = *published != next;
            *published = next;
            news
        });
    }

    /// Follows the number of the entry after the newest.
    pub(super) fn news(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }

    /// Number of the entry after the newest.
    pub(super) fn end(&self) -> u64 {
        *self.published.borrow()
    }

    /// Number of the oldest entry that may still be there.
    pub(super) fn oldest(&self) -> u64 {
        let next = self.next.load(Ordering::Relaxed);
        next.saturating_sub(self.capacity()).min(self.end())
    }

    /// The entry of this number, unless a newer one has its place.
    pub(super) fn get(&self, number: u64) -> Option<Arc<Entry>> {
        let entry = self.slot(number)?.load_full()?;
        (entry.number == number).then_some(entry)
    }

    pub(super) fn capacity(&self) -> u64 {
        self.slots.len() as u64
    }

    /// Flows seen since the start.
    pub(super) fn seen(&self) -> u64 {
        self.flows.load(Ordering::Relaxed)
    }

    /// Entries that are there now.
    pub(super) fn len(&self) -> u64 {
        self.end() - self.oldest()
    }

    /// Flows per second over the last minute, or over as much of it as the
    /// observer was there and the ring still holds.
    pub(super) fn rate(&self, now: Timestamp) -> f64 {
        let now = now.unix_nanos();
        let up = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let begin = now.saturating_sub(MINUTE.min(up));
        let mut count = 0_u64;
        let mut oldest = now;
        let oldest_number = self.oldest();
        for number in (oldest_number..self.end()).rev() {
            let Some(entry) = self.get(number) else { break };
            let Seen::Flow(_) = entry.seen else { continue };
            let time = entry.time.unix_nanos();
            if time < begin {
                return per_second(count, now - begin);
            }
            oldest = oldest.min(time);
            count += 1;
        }
        // What was overwritten cannot be counted, nor may its time be.
        let overwritten = oldest_number > 0;
        per_second(count, now - if overwritten { oldest } else { begin })
    }

    fn slot(&self, number: u64) -> Option<&ArcSwapOption<Entry>> {
        let index = number % self.capacity();
        self.slots.get(usize::try_from(index).ok()?)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn per_second(count: u64, nanos: u64) -> f64 {
    match nanos {
        0 => 0.0,
        nanos => count as f64 / nanos as f64 * 1e9,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn flow(seconds: i64) -> Seen {
        Seen::Flow(Box::new(Flow {
            time: Some(Timestamp { seconds, nanos: 0 }),
            ..Flow::default()
        }))
    }

    #[test]
    fn the_oldest_make_room() {
        let ring = Ring::new(3);
        for second in 0..5 {
            ring.push(flow(second));
        }
        assert_eq!((ring.end(), ring.len()), (0, 0), "not yet published");
        ring.publish();
        assert_eq!(
            (ring.oldest(), ring.end(), ring.len(), ring.seen()),
            (2, 5, 3, 5)
        );
        assert!(ring.get(1).is_none(), "overwritten");
        assert_eq!(ring.get(2).map(|entry| entry.time.seconds), Some(2));
        assert!(ring.get(5).is_none(), "to come");
    }

    #[test]
    fn readers_are_woken_once_per_batch() {
        let ring = Ring::new(8);
        let news = ring.news();
        ring.push(flow(0));
        assert!(!news.has_changed().unwrap());
        ring.publish();
        assert!(news.has_changed().unwrap());
    }

    #[test]
    fn the_rate_counts_the_last_minute_as_far_as_it_is_known() {
        let mut ring = Ring::new(100);
        for second in 1_000..1_090 {
            ring.push(flow(second));
        }
        ring.publish();
        let now = Timestamp {
            seconds: 1_090,
            nanos: 0,
        };
        // Just started: there was no minute yet.
        assert!(ring.rate(now) < f64::EPSILON, "{}", ring.rate(now));
        if let Some(earlier) = Instant::now().checked_sub(Duration::from_secs(3_600)) {
            ring.started = earlier;
            assert!((ring.rate(now) - 1.0).abs() < 0.05, "{}", ring.rate(now));
        }
    }
}
