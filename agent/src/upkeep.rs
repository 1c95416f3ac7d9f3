//! What has to be done all the time: sweep connection tracking, hand the
//! kernel's events on.

use std::time::Duration;

use anyhow::Context as _;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use weft_datapath::{Conntrack, Events, GcReport, TableUse};

use crate::metrics::Metrics;
use crate::observer::EventBatch;

/// The connection table evicts by itself when it is full; a sweep this often
/// keeps it from getting there.
const SWEEP: Duration = Duration::from_secs(15);
/// Events in one batch: enough to make the channel cheap, few enough to be
/// fresh.
const BATCH: usize = 256;
/// Batches that may wait for the observer.
const BATCHES: usize = 128;

/// Removes connections that have timed out and tells how full the tables are,
/// until `stop` is cancelled.
///
/// # Errors
/// Never for a sweep that fails: it is reported and tried again.
pub async fn sweep(
    mut conntrack: Conntrack,
    metrics: Metrics,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(SWEEP);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut before = GcReport::default();
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        match tokio::task::block_in_place(|| conntrack.gc()) {
            Ok(report) => {
                debug!(?report, "connections swept");
                tell(&metrics, "conntrack", &before.conntrack, &report.conntrack);
                tell(&metrics, "nat", &before.nat, &report.nat);
                before = report;
            }
            Err(error) => warn!(%error, "connections not swept, trying again"),
        }
    }
    Ok(())
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
