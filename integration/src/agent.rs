//! A stand-in for the agent: gives one proxy its snapshot and takes its
//! records, through the real protocol.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use weft_api::node::node_control_server::{NodeControl, NodeControlServer};
use weft_api::node::{
    FilterReports, FilterReportsReceived, ModulePart, ModuleRequest, RecordBatch, RecordsReceived,
    Snapshot, SnapshotStatus,
};

/// What a proxy has sent.
#[derive(Debug, Default)]
pub struct Received {
    records: AtomicU64,
    lost: AtomicU64,
}

impl Received {
    /// Records that arrived.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    /// Records that the proxy had to drop.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// A running stand-in; gone when dropped.
#[derive(Debug)]
pub struct Agent {
    socket: PathBuf,
    received: Arc<Received>,
    task: JoinHandle<()>,
}

impl Agent {
    /// Serves `snapshot` on a socket in `directory`. Must be called within a
    /// runtime.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn start(directory: &Path, snapshot: Snapshot) -> anyhow::Result<Self> {
        let socket = directory.join("control.sock");
        let listener = UnixListener::bind(&socket)?;
        let received = Arc::new(Received::default());
        let service = Service {
            snapshot,
            received: Arc::clone(&received),
        };
        let serving = tonic::transport::Server::builder()
            .add_service(NodeControlServer::new(service))
            .serve_with_incoming(UnixListenerStream::new(listener));
        let task = tokio::spawn(async move {
            // Ends with the task.
            let _ended = serving.await;
        });
        Ok(Self {
            socket,
            received,
            task,
        })
    }

    /// Where the proxy finds it.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What the proxy has sent.
    #[must_use]
    pub fn received(&self) -> &Received {
        &self.received
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Service {
    snapshot: Snapshot,
    received: Arc<Received>,
}

#[tonic::async_trait]
impl NodeControl for Service {
    type SnapshotsStream = Pin<Box<dyn Stream<Item = Result<Snapshot, Status>> + Send>>;

    async fn snapshots(
        &self,
        request: Request<Streaming<SnapshotStatus>>,
    ) -> Result<Response<Self::SnapshotsStream>, Status> {
        let mut statuses = request.into_inner();
        tokio::spawn(async move { while let Ok(Some(_status)) = statuses.message().await {} });
        // One snapshot, and a stream that stays open.
        let only = tokio_stream::once(Ok(self.snapshot.clone()));
        let snapshots = only.chain(tokio_stream::pending());
        Ok(Response::new(Box::pin(snapshots)))
    }

    async fn records(
        &self,
        request: Request<Streaming<RecordBatch>>,
    ) -> Result<Response<RecordsReceived>, Status> {
        let mut batches = request.into_inner();
        while let Some(batch) = batches.message().await? {
            let count = batch.records.len() as u64;
            self.received.records.fetch_add(count, Ordering::Relaxed);
            self.received.lost.fetch_add(batch.lost, Ordering::Relaxed);
        }
        Ok(Response::new(RecordsReceived {
            records: self.received.records(),
        }))
    }

    type ModulesStream = Pin<Box<dyn Stream<Item = Result<ModulePart, Status>> + Send>>;

    async fn modules(
        &self,
        request: Request<ModuleRequest>,
    ) -> Result<Response<Self::ModulesStream>, Status> {
        let digest = request.into_inner().sha256;
        Err(Status::not_found(format!("no module {digest} is here")))
    }

    async fn filters(
        &self,
        request: Request<Streaming<FilterReports>>,
    ) -> Result<Response<FilterReportsReceived>, Status> {
        let mut reports = request.into_inner();
        while reports.message().await?.is_some() {}
        Ok(Response::new(FilterReportsReceived {}))
    }
}
