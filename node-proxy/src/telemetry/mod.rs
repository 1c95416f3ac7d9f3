//! What the outside learns of requests: flows for the agent, spans, metrics.
//!
//! Workers hand over references ([`exchange`]) through bounded queues
//! ([`ring`]); everything that costs time is done here, on the control
//! thread.

pub mod exchange;
pub mod metrics;
pub mod record;
pub mod ring;
pub mod spans;

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use weft_api::node::{Record, RecordBatch};

use self::exchange::Event;
use self::metrics::Metrics;
use self::ring::Receiver;
use self::spans::Spans;

/// Events taken from one worker before the next one's turn, and records of
/// one batch.
const BATCH: usize = 1024;

/// Nap between rounds: long enough to find several events at once under load,
/// short enough that a flow is seen as it happens.
const NAP: Duration = Duration::from_millis(5);

/// Naps without an event before going to sleep until one comes.
const PATIENCE: u32 = 20;

/// Where telemetry goes.
#[derive(Debug)]
pub struct Sinks {
    /// Batches for the agent; none when there is no agent to send them to.
    pub records: Option<mpsc::Sender<RecordBatch>>,
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
            tokio::select! {
                () = tokio::time::sleep(NAP) => {}
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

fn round(receiver: &Receiver, sinks: &mut Sinks, lost: &mut Lost) -> usize {
    let mut records = Vec::new();
    let taken = receiver.drain(BATCH, |event| {
        sinks.metrics.observe(&event);
        if let Some(spans) = &sinks.spans {
            spans.observe(&event);
        }
        if sinks.records.is_some() {
            flows(&event, |record| records.push(record));
        }
    });
    let all_lost = receiver.lost() + lost.dropped;
    sinks.metrics.set_lost(all_lost);
    if let Some(sender) = &sinks.records
        && (!records.is_empty() || all_lost > lost.told)
    {
        let count = records.len() as u64;
        let batch = RecordBatch {
            records,
            lost: all_lost - lost.told,
        };
        match sender.try_send(batch) {
            Ok(()) => lost.told = all_lost,
            // The agent is away or slow; it learns later how much it missed.
            Err(_full) => lost.dropped += count,
        }
    }
    taken
}

/// The flow records of an event.
fn flows(event: &Event, mut each: impl FnMut(Record)) {
    match event {
        Event::Decided(exchange) => record::requests(exchange, each),
        Event::Answered(exchange)
        | Event::Ended {
            exchange,
            answer: true,
        } => record::responses(exchange, each),
        Event::Ended { answer: false, .. } => {}
        Event::Refused(refused) => each(record::refused(refused)),
    }
}
