//! The node's flow observer: events of the datapath and records of the proxy
//! become flows, the newest are kept, and clients ask for them.
//!
//! ```text
//! datapath events --+                      +-- Unix socket
//!                   +-> convert -> ring ---+
//! proxy records ----+                      +-- TCP (4244)
//! ```

mod admission;
mod convert;
mod mask;
mod query;
mod ring;
mod seen;
mod server;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::info;
use weft_api::node::RecordBatch;
use weft_datapath::Event;

use crate::metrics::Metrics;
use crate::view::ViewHandle;
pub(crate) use admission::{Followers, holding};
use convert::Converter;
pub(crate) use query::check as check_request;
use ring::{Ring, Seen};
use seen::Namespaces;
use server::Listeners;
pub(crate) use server::{Answers, VERSION, routes, silence};

/// Flows that a node keeps unless configured otherwise.
pub const DEFAULT_CAPACITY: usize = 4095;

/// Streams that followers may hold open at once, over the Unix socket and over
/// TCP each: many times what relays and people at a terminal need.
const FOLLOWERS: usize = 128;

/// How the observer serves.
#[derive(Clone, Debug)]
pub struct ObserverConfig {
    /// Unix socket to listen on.
    pub socket: PathBuf,
    /// TCP addresses to listen on too. Pods are refused there.
    pub listen: Vec<SocketAddr>,
    /// Ports behind which a node's address stands for one of its pods.
    pub masquerading: RangeInclusive<u16>,
    /// Flows to keep.
    pub capacity: usize,
}

/// What the datapath reported.
#[derive(Clone, Debug, Default)]
pub struct EventBatch {
    /// In the order in which they were read.
    pub events: Vec<Event>,
    /// Events lost since the last batch because nobody read them in time.
    pub lost: u64,
}

/// Where the observer learns from.
#[derive(Debug)]
pub struct ObserverInputs {
    /// Names for addresses, identities and rules.
    pub view: ViewHandle,
    /// Packets.
    pub events: mpsc::Receiver<EventBatch>,
    /// Requests and responses.
    pub records: mpsc::Receiver<RecordBatch>,
    /// What is counted.
    pub metrics: Metrics,
}

/// Why the observer ended.
#[derive(Debug, thiserror::Error)]
pub enum ObserverError {
    /// The Unix socket cannot be made.
    #[error("{}: {error}", socket.display())]
    Socket {
        /// Its path.
        socket: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The TCP address cannot be bound.
    #[error("{listen}: {error}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// Serving failed.
    #[error("serving flows: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Observes and serves until `shutdown` is cancelled.
///
/// # Errors
/// When a listener cannot be bound, or serving fails.
pub async fn run(
    config: ObserverConfig,
    inputs: ObserverInputs,
    shutdown: CancellationToken,
) -> Result<(), ObserverError> {
    let observer = Observer::new(inputs.view.clone(), config.capacity, inputs.metrics);
    let unix = crate::socket::listen(&config.socket).map_err(|error| ObserverError::Socket {
        socket: config.socket.clone(),
        error,
    })?;
    let mut tcp = Vec::with_capacity(config.listen.len());
    for listen in &config.listen {
        let listen = *listen;
        let bound = TcpListener::bind(listen).await;
        tcp.push(bound.map_err(|error| ObserverError::Listen { listen, error })?);
    }
    info!(socket = %config.socket.display(), tcp = ?config.listen, "serving flows");
    let listeners = Listeners {
        unix,
        tcp,
        masquerading: config.masquerading,
    };
    let serve = server::serve(&observer, listeners, shutdown.clone());
    let ingest = observer
        .clone()
        .ingest(inputs.events, inputs.records, shutdown);
    let (served, ()) = tokio::join!(serve, ingest);
    Ok(served?)
}

/// What ingestion and the service share.
#[derive(Clone, Debug)]
struct Observer {
    view: ViewHandle,
    ring: Arc<Ring>,
    namespaces: Arc<Namespaces>,
    metrics: Metrics,
}

impl Observer {
    fn new(view: ViewHandle, capacity: usize, metrics: Metrics) -> Self {
        Self {
            view,
            ring: Arc::new(Ring::new(capacity)),
            namespaces: Arc::default(),
            metrics,
        }
    }

    /// Takes in events and records until the end, or until nobody sends any.
    async fn ingest(
        self,
        mut events: mpsc::Receiver<EventBatch>,
        mut records: mpsc::Receiver<RecordBatch>,
        shutdown: CancellationToken,
    ) {
        let mut converter = Converter::new(self.view.clone());
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(batch) = events.recv() => {
                    for event in &batch.events {
                        self.see(converter.event(event));
                    }
                    self.lost(converter.events_lost(batch.lost));
                }
                Some(batch) = records.recv() => {
                    for record in &batch.records {
                        self.see(converter.record(record));
                    }
                    self.lost(converter.records_lost(batch.lost));
                }
                else => return,
            }
            self.ring.publish();
        }
    }

    fn see(&self, flow: weft_api::hubble::flow::Flow) {
        self.namespaces.see(&flow);
        self.ring.push(Seen::Flow(Box::new(flow)));
    }

    fn lost(&self, lost: Option<weft_api::hubble::flow::LostEvent>) {
        if let Some(lost) = lost {
            self.metrics.lost_events(lost.num_events_lost);
            self.ring.push(Seen::Lost(lost));
        }
    }
}
