//! The proxy's side of the agent: snapshots out, acknowledgements and records
//! in, over a Unix socket.

pub(crate) mod answers;

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::Stream;
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};
use weft_api::node::node_control_server::{NodeControl, NodeControlServer};
use weft_api::node::{
    FilterReports, FilterReportsReceived, ModuleRequest, RecordBatch, RecordsReceived, Snapshot,
    SnapshotStatus,
};

use answers::Answers;

use crate::filter::{Parts, ProxyEnd};

/// Batches of records that may wait for the observer.
const RECORD_BATCHES: usize = 256;

/// Largest batch of records that is accepted. Proxies send them before they
/// have a quarter of it.
const MAX_BATCH: usize = 8 * 1024 * 1024;

/// The feature of proxies that put filters in force.
const FILTERS: &str = "filters";

/// A snapshot that the proxy refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The snapshot's version.
    pub version: String,
    /// Which field, and why.
    pub error: String,
}

/// What is known of the proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ProxyStatus {
    /// A proxy holds the stream open.
    pub connected: bool,
    /// Its version of weft.
    pub proxy_version: String,
    /// Whether it puts filters in force; none until a proxy said. It is remembered
    /// when the proxy goes away.
    pub filters: Option<bool>,
    /// Version of the snapshot that it runs from, empty for none.
    pub acked: String,
    /// The newest snapshot that it refused, until it accepts another.
    pub refused: Option<Refusal>,
    /// Number of the last publication that it has answered for: besides what
    /// it acknowledged, it may run from any later one.
    #[serde(skip)]
    pub answered: u64,
}

/// The newest snapshot, and its number: equal ones that are published one
/// after the other have one number, all others have different ones.
#[derive(Debug, Clone, Default)]
struct Publication {
    number: u64,
    snapshot: Option<Arc<Snapshot>>,
}

impl Publication {
    fn is(&self, version: &str) -> bool {
        self.snapshot
            .as_ref()
            .is_some_and(|snapshot| snapshot.version == version)
    }
}

/// Hands snapshots to the proxy. Clones share one state.
#[derive(Debug, Clone)]
pub struct Control {
    snapshots: watch::Sender<Publication>,
    status: watch::Sender<ProxyStatus>,
    records: mpsc::Sender<RecordBatch>,
    /// Number of the newest stream: while an old proxy drains beside a new
    /// one, only the new one's acknowledgements count.
    newest: Arc<AtomicU64>,
}

impl Control {
    /// A control without a snapshot, and where the proxy's records come out.
    pub fn new() -> (Self, mpsc::Receiver<RecordBatch>) {
        let (records, receiver) = mpsc::channel(RECORD_BATCHES);
        let control = Self {
            snapshots: watch::Sender::new(Publication::default()),
            status: watch::Sender::new(ProxyStatus::default()),
            records,
            newest: Arc::default(),
        };
        (control, receiver)
    }

    /// Makes a snapshot the newest and returns its number; nothing is sent when
    /// its version is.
    pub fn publish(&self, snapshot: Snapshot) -> u64 {
        self.snapshots.send_if_modified(|newest| {
            let same = newest.is(&snapshot.version);
            if !same {
                newest.number += 1;
                newest.snapshot = Some(Arc::new(snapshot));
            }
            !same
        });
        self.snapshots.borrow().number
    }

    /// The newest snapshot, if there is one.
    #[cfg(test)]
    pub(crate) fn newest(&self) -> Option<Arc<Snapshot>> {
        self.snapshots.borrow().snapshot.clone()
    }

    /// Follows what is known of the proxy.
    pub fn status(&self) -> watch::Receiver<ProxyStatus> {
        self.status.subscribe()
    }

    /// Serves until `stop` is cancelled.
    ///
    /// # Errors
    /// When the socket cannot be bound or serving fails.
    pub async fn serve(
        self,
        socket: &Path,
        filters: ProxyEnd,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let listener = crate::socket::listen(socket)?;
        let service = Service {
            control: self,
            filters,
            stop: stop.clone(),
        };
        // An answering proxy must not hold up the end: the streams watch the
        // token, and are dropped with the server in any case.
        tonic::transport::Server::builder()
            .add_service(NodeControlServer::new(service).max_decoding_message_size(MAX_BATCH))
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.cancelled_owned())
            .await
            .map_err(io::Error::other)
    }
}

struct Service {
    control: Control,
    filters: ProxyEnd,
    stop: CancellationToken,
}

type SnapshotStream = Pin<Box<dyn Stream<Item = Result<Snapshot, Status>> + Send>>;

#[tonic::async_trait]
impl NodeControl for Service {
    type SnapshotsStream = SnapshotStream;

    async fn snapshots(
        &self,
        request: Request<Streaming<SnapshotStatus>>,
    ) -> Result<Response<SnapshotStream>, Status> {
        let (sender, receiver) = mpsc::channel(1);
        let session = Session {
            number: self.control.newest.fetch_add(1, Ordering::SeqCst) + 1,
            control: self.control.clone(),
            sender,
        };
        let stop = self.stop.clone();
        let inbound = request.into_inner();
        tokio::spawn(async move {
            let ended = stop.run_until_cancelled(session.run(inbound)).await;
            if let Some(Err(status)) = ended {
                info!(%status, "proxy went away");
            }
            session.left();
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn records(
        &self,
        request: Request<Streaming<RecordBatch>>,
    ) -> Result<Response<RecordsReceived>, Status> {
        let mut inbound = request.into_inner();
        let mut records = 0;
        loop {
            let next = self.stop.run_until_cancelled(inbound.message()).await;
            let Some(Some(batch)) = next.transpose()? else {
                return Ok(Response::new(RecordsReceived { records }));
            };
            records += batch.records.len() as u64;
            self.control
                .records
                .send(batch)
                .await
                .map_err(|_| Status::unavailable("the observer is gone"))?;
        }
    }

    type ModulesStream = Parts;

    async fn modules(&self, request: Request<ModuleRequest>) -> Result<Response<Parts>, Status> {
        let parts = self.filters.module(&request.into_inner().sha256)?;
        Ok(Response::new(parts))
    }

    async fn filters(
        &self,
        request: Request<Streaming<FilterReports>>,
    ) -> Result<Response<FilterReportsReceived>, Status> {
        let reporter = self.filters.reporter();
        let mut inbound = request.into_inner();
        loop {
            let next = self.stop.run_until_cancelled(inbound.message()).await;
            let Some(Some(reports)) = next.transpose()? else {
                return Ok(Response::new(FilterReportsReceived {}));
            };
            reporter.take(reports);
        }
    }
}

/// One proxy's stream.
struct Session {
    number: u64,
    control: Control,
    sender: mpsc::Sender<Result<Snapshot, Status>>,
}

impl Session {
    async fn run(&self, mut inbound: Streaming<SnapshotStatus>) -> Result<(), Status> {
        let mut snapshots = self.control.snapshots.subscribe();
        snapshots.mark_changed();
        let mut answers = Answers::default();
        let mut running = String::new();
        if let Some(first) = inbound.message().await? {
            info!(proxy = %first.proxy_version, version = %first.version, "proxy connected");
            running.clone_from(&first.version);
            // What was published before and is not the newest is not sent to
            // this one.
            let sent_before = snapshots.borrow().number.saturating_sub(1);
            self.introduce(&first);
            self.record(&first, Some(sent_before));
        }
        loop {
            tokio::select! {
                status = inbound.message() => match status? {
                    Some(status) => self.answered(&status, &mut answers),
                    None => return Ok(()),
                },
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let Publication { number, snapshot } = snapshots.borrow_and_update().clone();
                    let Some(snapshot) = snapshot else { continue };
                    // A proxy that already runs it (from disk, after the agent's
                    // restart) need not build it again.
                    if std::mem::take(&mut running) == snapshot.version {
                        self.runs(number, &snapshot.version);
                        continue;
                    }
                    answers.sent(number, &snapshot.version);
                    if self.sender.send(Ok((*snapshot).clone())).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn is_newest(&self) -> bool {
        self.control.newest.load(Ordering::SeqCst) == self.number
    }

    /// Notes what a proxy can do, which it says first.
    fn introduce(&self, first: &SnapshotStatus) {
        if self.is_newest() {
            let filters = first.features.iter().any(|one| one == FILTERS);
            let status = &self.control.status;
            status.send_modify(|status| status.filters = Some(filters));
        }
    }

    /// Takes an answer to a snapshot.
    fn answered(&self, message: &SnapshotStatus, answers: &mut Answers) {
        let number = match message.error.is_empty() {
            true => answers.accepted(&message.version),
            false => {
                answers.refused(&message.version);
                None
            }
        };
        self.record(message, number);
    }

    /// The proxy said that it runs this one before it could be sent.
    fn runs(&self, number: u64, version: &str) {
        if self.is_newest() {
            self.control.status.send_if_modified(|status| {
                let news = status.acked == version && status.answered != number;
                if news {
                    status.answered = number;
                }
                news
            });
        }
    }

    /// Notes what a proxy says, and the publication that it has answered for by
    /// that.
    fn record(&self, message: &SnapshotStatus, answered: Option<u64>) {
        if !self.is_newest() {
            return;
        }
        if !message.error.is_empty() {
            warn!(version = %message.version, error = %message.error, "proxy refused a snapshot");
        }
        self.control.status.send_modify(|status| {
            if !status.connected {
                status.acked.clear();
                status.refused = None;
            }
            status.connected = true;
            if !message.proxy_version.is_empty() {
                status.proxy_version.clone_from(&message.proxy_version);
            }
            if let Some(number) = answered {
                status.answered = number;
            }
            if message.error.is_empty() {
                status.acked.clone_from(&message.version);
                status.refused = None;
            } else {
                status.refused = Some(Refusal {
                    version: message.version.clone(),
                    error: message.error.clone(),
                });
            }
        });
    }

    fn left(&self) {
        if self.is_newest() {
            self.control.status.send_modify(|status| {
                status.connected = false;
                status.acked.clear();
            });
        }
    }
}

#[cfg(test)]
mod tests;
