//! What has to be done all the time: sweep connection tracking, forget what is
//! gone, hand the kernel's events on.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use weft_datapath::{Conntrack, Error, Events, GcReport, TableUse};

use crate::metrics::Metrics;
use crate::observer::EventBatch;

/// The connection table evicts by itself when it is full; a sweep this often
/// keeps it from getting there.
const SWEEP: Duration = Duration::from_secs(15);
/// What is to be forgotten is gathered for this long: pods go in groups.
const GATHER: Duration = Duration::from_millis(10);
/// Of the time that forgetting takes, how often it rests afterwards: where pods
/// come and go all the time, it never takes more than a fifth of a processor.
const REST: u32 = 4;
/// Wait before what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Events in one batch: enough to make the channel cheap, few enough to be
/// fresh.
const BATCH: usize = 256;
/// Batches that may wait for the observer.
const BATCHES: usize = 128;

/// What the tables of connections are read for.
pub trait Tables {
    /// Removes what has timed out.
    ///
    /// # Errors
    /// When a table cannot be read or written.
    fn sweep(&mut self) -> Result<GcReport, Error>;
    /// Forgets what has come up: the connections of pods that are gone.
    ///
    /// # Errors
    /// When a table cannot be read or written.
    fn forget(&mut self) -> Result<usize, Error>;
}

impl Tables for Conntrack {
    fn sweep(&mut self) -> Result<GcReport, Error> {
        self.gc()
    }

    fn forget(&mut self) -> Result<usize, Error> {
        Conntrack::forget(self)
    }
}

/// Reads the tables of connections whenever something is to be removed: every
/// [`SWEEP`] what has timed out, and soon after `gone` was notified what pods
/// left that are no more. Only here, so that there are never two such passes at
/// once and the reconciler waits for none; what a pod left whose address is
/// given away at once is the one thing that the reconciler has forgotten itself.
///
/// # Errors
/// Never for a pass that fails: it is reported and tried again.
pub async fn sweep(
    mut tables: impl Tables,
    gone: Arc<Notify>,
    metrics: Metrics,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(SWEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before = GcReport::default();
    // A former agent may have left something.
    let mut forget_at = Some(Instant::now());
    let mut rested = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            () = until(forget_at) => {
                let start = Instant::now();
                let forgotten = tokio::task::block_in_place(|| tables.forget());
                let now = Instant::now();
                rested = now + (now - start) * REST;
                forget_at = again(forgotten, now);
            }
            () = gone.notified(), if forget_at.is_none() => {
                forget_at = Some(rested.max(Instant::now() + GATHER));
            }
            _ = ticks.tick() => match tokio::task::block_in_place(|| tables.sweep()) {
                Ok(report) => {
                    debug!(?report, "connections swept");
                    tell(&metrics, "conntrack", &before.conntrack, &report.conntrack);
                    tell(&metrics, "nat", &before.nat, &report.nat);
                    before = report;
                }
                Err(error) => warn!(%error, "connections not swept, trying again"),
            },
        }
    }
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// When to try again to forget, if it failed.
fn again(forgotten: Result<usize, Error>, now: Instant) -> Option<Instant> {
    match forgotten {
        Ok(entries) => {
            debug!(entries, "connections of what is gone forgotten");
            None
        }
        Err(error) => {
            warn!(%error, "connections of pods that are gone are not forgotten, trying again");
            Some(now + RETRY)
        }
    }
}

/// A table that pushes out what is in use breaks connections, and nothing else
/// would say why.
fn tell(metrics: &Metrics, table: &'static str, before: &TableUse, now: &TableUse) {
    let evicted = now.evicted.saturating_sub(before.evicted);
    let refused = now.refused.saturating_sub(before.refused);
    metrics.table(table, now, evicted, refused);
    if evicted > 0 || refused > 0 {
        let (entries, capacity) = (now.entries, now.capacity);
        warn!(
            table,
            evicted, refused, entries, capacity, "the table is too small for this node"
        );
    }
}

/// A channel for batches of events.
pub fn event_channel() -> (mpsc::Sender<EventBatch>, mpsc::Receiver<EventBatch>) {
    mpsc::channel(BATCHES)
}

/// Reads events and hands them on, until `stop` is cancelled or nobody
/// listens. When the listener is behind, events are counted as lost rather
/// than kept: the ring would overflow into the very same count.
///
/// # Errors
/// When the ring cannot be waited for.
pub async fn pump(
    events: Events,
    batches: mpsc::Sender<EventBatch>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut lost_before = events.lost().unwrap_or_default();
    let mut ring = watched(events).context("waiting for events")?;
    let mut dropped = 0;
    loop {
        let readable = stop.run_until_cancelled(ring.readable_mut()).await;
        let Some(guard) = readable else { return Ok(()) };
        let mut guard = guard.context("waiting for events")?;
        let events = guard.get_inner_mut();
        let mut batch = Vec::with_capacity(BATCH);
        while batch.len() < BATCH
            && let Some(event) = events.next()
        {
            batch.push(event);
        }
        let drained = batch.len() < BATCH;
        let lost_now = events.lost().unwrap_or(lost_before);
        let lost = lost_now.saturating_sub(lost_before) + dropped;
        lost_before = lost_now;
        if drained {
            guard.clear_ready();
        }
        if batch.is_empty() && lost == 0 {
            continue;
        }
        match batches.try_send(EventBatch {
            events: batch,
            lost,
        }) {
            Ok(()) => dropped = 0,
            Err(TrySendError::Full(batch)) => dropped = batch.lost + batch.events.len() as u64,
            Err(TrySendError::Closed(_)) => return Ok(()),
        }
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe; `Events` owns the ring's descriptor and never changes it"
)]
fn watched(events: Events) -> std::io::Result<AsyncFd<Events>> {
    AsyncFd::with_interest(events, Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc as blocking;

    use super::*;

    /// Tables whose passes wait for the test.
    struct Slow {
        /// What has come up since the last pass.
        up: Arc<AtomicUsize>,
        passes: mpsc::UnboundedSender<usize>,
        succeed: blocking::Receiver<bool>,
    }

    impl Tables for Slow {
        fn sweep(&mut self) -> Result<GcReport, Error> {
            Ok(GcReport::default())
        }

        fn forget(&mut self) -> Result<usize, Error> {
            let came_up = self.up.swap(0, Ordering::Relaxed);
            self.passes.send(came_up).expect("a test that listens");
            match self.succeed.recv() {
                Ok(true) => Ok(came_up),
                _ => Err(Error::Invalid("told to".into())),
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_pass_serves_all_that_came_up() {
        let (up, gone) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let (started, mut passes) = mpsc::unbounded_channel();
        let (succeed, may_succeed) = blocking::channel();
        let tables = Slow {
            up: up.clone(),
            passes: started,
            succeed: may_succeed,
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(sweep(tables, gone.clone(), Metrics::new(), stop.clone()));
        let pods_go = |count| {
            for _ in 0..count {
                up.fetch_add(1, Ordering::Relaxed);
                gone.notify_one();
            }
        };
        assert_eq!(passes.recv().await, Some(0), "what a former agent left");
        pods_go(100);
        succeed.send(true).expect("it waits");
        assert_eq!(passes.recv().await, Some(100));
        // What failed is tried again without being asked.
        succeed.send(false).expect("it waits");
        assert_eq!(passes.recv().await, Some(0));
        succeed.send(true).expect("it waits");
        pods_go(1);
        assert_eq!(passes.recv().await, Some(1));
        succeed.send(true).expect("it waits");
        stop.cancel();
        task.await.expect("no panic").expect("no error");
        assert_eq!(passes.recv().await, None, "no pass without a reason");
    }
}
