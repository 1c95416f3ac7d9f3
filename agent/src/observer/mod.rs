//! The node's flow observer: events of the datapath and records of the proxy
//! become flows, the newest are kept, and clients ask for them.
//!
//! ```text
//! datapath events --+                      +-- Unix socket
//!                   +-> convert -> ring ---+
//! proxy records ----+                      +-- TCP (4244)
//! ```

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
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::info;
use weft_api::node::RecordBatch;
use weft_datapath::Event;

use crate::view::ViewHandle;
use convert::Converter;
pub(crate) use query::check as check_request;
use ring::{Ring, Seen};
use seen::Namespaces;
use server::ObserverService;
pub(crate) use server::{Answers, VERSION, routes, silence};

/// Flows that a node keeps unless configured otherwise.
pub const DEFAULT_CAPACITY: usize = 4095;

/// How the observer serves.
#[derive(Clone, Debug)]
pub struct ObserverConfig {
    /// Unix socket to listen on.
    pub socket: PathBuf,
    /// TCP address to listen on too.
    pub listen: Option<SocketAddr>,
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
    let observer = Observer::new(inputs.view.clone(), config.capacity);
    let unix = crate::socket::listen(&config.socket).map_err(|error| ObserverError::Socket {
        socket: config.socket.clone(),
        error,
    })?;
    let tcp = match config.listen {
        None => None,
        Some(listen) => {
            let bound = tokio::net::TcpListener::bind(listen).await;
            Some(bound.map_err(|error| ObserverError::Listen { listen, error })?)
        }
    };
    info!(socket = %config.socket.display(), tcp = ?config.listen, "serving flows");
    let service = ObserverService::new(&observer, shutdown.clone());
    let serve = server::serve(service, unix, tcp, shutdown.clone());
    let ingest = observer.ingest(inputs.events, inputs.records, shutdown);
    let (served, ()) = tokio::join!(serve, ingest);
    Ok(served?)
}

/// What ingestion and the service share.
#[derive(Clone, Debug)]
struct Observer {
    view: ViewHandle,
    ring: Arc<Ring>,
    namespaces: Arc<Namespaces>,
}

impl Observer {
    fn new(view: ViewHandle, capacity: usize) -> Self {
        Self {
            view,
            ring: Arc::new(Ring::new(capacity)),
            namespaces: Arc::default(),
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
            self.ring.push(Seen::Lost(lost));
        }
    }
}
