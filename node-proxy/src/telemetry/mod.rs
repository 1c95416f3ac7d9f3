//! What the outside learns of requests: flows for the agent, spans, metrics.
//!
//! Workers hand over references ([`exchange`]) through bounded queues
//! ([`ring`]); everything that costs time is done here, on the control
//! thread.

pub mod exchange;
mod filters;
mod guests;
pub mod metrics;
pub mod record;
pub mod ring;
pub mod spans;
pub mod wire;

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use self::exchange::Event;
use self::metrics::Metrics;
use self::record::Batch;
use self::ring::Receiver;
use self::spans::Spans;

/// Events taken from one worker before the next one's turn, and records of
/// one batch.
const BATCH: usize = 1024;

/// Nap between rounds: long enough to find several events at once, short enough
/// that a flow is seen as it happens.
const NAP: Duration = Duration::from_millis(5);

/// Nap while so many events come in a round. What waits is memory that workers
/// cannot use again: with longer naps they outgrow their processor's cache.
const BUSY_NAP: Duration = Duration::from_millis(1);
const BUSY: usize = 32;

/// Naps without an event before going to sleep until one comes.
const PATIENCE: u32 = 20;

/// Where telemetry goes.
#[derive(Debug)]
pub struct Sinks {
    /// Encoded batches for the agent; none when there is no agent to send them
    /// to.
    pub records: Option<mpsc::Sender<Bytes>>,
    /// Spans; none without an exporter.
    pub spans: Option<Spans>,
    /// Counters.
    pub metrics: Metrics,
}

/// Takes events from the workers until told to stop, and then what is left.
pub async fn run(receiver: Receiver, mut sinks: Sinks, mut stop: oneshot::Receiver<()>) {
    let mut lost = Lost::default();
    let mut idle = 0;
    let alarm = receiver.alarm();
    loop {
        let taken = round(&receiver, &mut sinks, &mut lost);
        if taken >= BATCH {
            // More is waiting; others of this thread first.
            tokio::task::yield_now().await;
            continue;
        }
        idle = if taken > 0 { 0 } else { idle + 1 };
        if idle > PATIENCE {
            receiver.announce_sleep();
            if round(&receiver, &mut sinks, &mut lost) == 0 {
                tokio::select! {
                    () = alarm.rung() => {}
                    _stop = &mut stop => break,
                }
            }
            idle = 0;
        } else {
            let nap = if taken < BUSY { NAP } else { BUSY_NAP };
            tokio::select! {
                () = tokio::time::sleep(nap) => {}
                _stop = &mut stop => break,
            }
        }
    }
    while round(&receiver, &mut sinks, &mut lost) > 0 {}
}

/// Records that were lost, and how many of them the agent knows of.
#[derive(Debug, Default)]
struct Lost {
    /// Of batches that found no place.
    dropped: u64,
    /// Told already.
    told: u64,
}

impl Lost {
    /// Sends a batch, and with it what was lost since the last one; `ring` is
    /// how much workers had no room for.
    fn send(&mut self, sender: &mpsc::Sender<Bytes>, batch: Batch, ring: u64) {
        let all = ring + self.dropped;
        let count = batch.records();
        match sender.try_send(batch.finish(all - self.told)) {
            Ok(()) => self.told = all,
            // The agent is away or slow; it learns later how much it missed.
            Err(_full) => self.dropped += count,
        }
    }
}

fn round(receiver: &Receiver, sinks: &mut Sinks, lost: &mut Lost) -> usize {
    let mut batch = Batch::default();
    let taken = receiver.drain(BATCH, |event| {
        sinks.metrics.observe(&event);
        if let Some(spans) = &sinks.spans {
            spans.observe(&event);
        }
        if let Some(sender) = &sinks.records {
            flows(&event, &mut batch);
            if batch.is_full() {
                lost.send(sender, std::mem::take(&mut batch), receiver.lost());
            }
        }
    });
    let all_lost = receiver.lost() + lost.dropped;
    sinks.metrics.set_lost(all_lost);
    if let Some(sender) = &sinks.records
        && (batch.records() > 0 || all_lost > lost.told)
    {
        lost.send(sender, batch, receiver.lost());
    }
    taken
}

/// The flow records of an event.
fn flows(event: &Event, batch: &mut Batch) {
    match event {
        Event::Decided(exchange) => batch.requests(exchange),
        Event::Answered(exchange)
        | Event::Ended {
            exchange,
            answer: true,
        } => batch.responses(exchange),
        Event::Ended { answer: false, .. } => {}
        Event::Refused(refused) => batch.refused(refused),
    }
}
