//! An agent that serves one proxy the real protocol.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use tokio::net::UnixListener;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use weft_api::node::node_control_server::{NodeControl, NodeControlServer};
use weft_api::node::{
    FilterReports, FilterReportsReceived, ModulePart, ModuleRequest, Record, RecordBatch,
    RecordsReceived, Snapshot, SnapshotStatus,
};

use super::within;

/// A running agent; gone when dropped.
pub struct Agent {
    pub socket: PathBuf,
    snapshots: watch::Sender<Option<Snapshot>>,
    statuses: mpsc::UnboundedReceiver<SnapshotStatus>,
    records: Mutex<mpsc::UnboundedReceiver<Record>>,
    modules: Modules,
    reports: watch::Receiver<Option<FilterReports>>,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Service {
    snapshots: watch::Receiver<Option<Snapshot>>,
    statuses: mpsc::UnboundedSender<SnapshotStatus>,
    records: mpsc::UnboundedSender<Record>,
    modules: Modules,
    reports: watch::Sender<Option<FilterReports>>,
}

/// Modules of filters by their digests.
type Modules = Arc<std::sync::Mutex<HashMap<String, Vec<u8>>>>;

#[tonic::async_trait]
impl NodeControl for Service {
    type SnapshotsStream = Pin<Box<dyn Stream<Item = Result<Snapshot, Status>> + Send>>;

    async fn snapshots(
        &self,
        request: Request<Streaming<SnapshotStatus>>,
    ) -> Result<Response<Self::SnapshotsStream>, Status> {
        let mut incoming = request.into_inner();
        let statuses = self.statuses.clone();
        tokio::spawn(async move {
            while let Ok(Some(status)) = incoming.message().await {
                let _gone = statuses.send(status);
            }
        });
        let snapshots = WatchStream::new(self.snapshots.clone());
        Ok(Response::new(Box::pin(
            snapshots.filter_map(|snapshot| snapshot.map(Ok)),
        )))
    }

    async fn records(
        &self,
        request: Request<Streaming<RecordBatch>>,
    ) -> Result<Response<RecordsReceived>, Status> {
        let mut incoming = request.into_inner();
        let mut received = 0;
        while let Some(batch) = incoming.message().await? {
            assert_eq!(batch.lost, 0, "records were lost");
            for record in batch.records {
                received += 1;
                let _gone = self.records.send(record);
            }
        }
        Ok(Response::new(RecordsReceived { records: received }))
    }

    type ModulesStream = Pin<Box<dyn Stream<Item = Result<ModulePart, Status>> + Send>>;

    async fn modules(
        &self,
        request: Request<ModuleRequest>,
    ) -> Result<Response<Self::ModulesStream>, Status> {
        let digest = request.into_inner().sha256;
        let modules = self.modules.lock().expect("no panic");
        let Some(module) = modules.get(&digest) else {
            return Err(Status::not_found(format!("no module {digest} is here")));
        };
        // Several parts, as a large one has.
        let half = module.len() / 2;
        let parts = [&module[..half], &module[half..]].map(|part| {
            Ok(ModulePart {
                data: part.to_vec(),
            })
        });
        Ok(Response::new(Box::pin(tokio_stream::iter(parts))))
    }

    async fn filters(
        &self,
        request: Request<Streaming<FilterReports>>,
    ) -> Result<Response<FilterReportsReceived>, Status> {
        let mut incoming = request.into_inner();
        let mut snapshots = self.snapshots.clone();
        let listen = async {
            while let Some(reports) = incoming.message().await? {
                self.reports.send_replace(Some(reports));
            }
            Ok(Response::new(FilterReportsReceived {}))
        };
        // Its connections outlive the server's task.
        tokio::select! {
            ended = listen => ended,
            _gone = snapshots.wait_for(|_snapshot| false) => {
                Err(Status::unavailable("the agent ends"))
            }
        }
    }
}

impl Agent {
    pub fn start(directory: &Path, snapshot: Option<Snapshot>) -> Self {
        let socket = directory.join("control.sock");
        let _absent = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).expect("agent socket");
        let (snapshots, watched) = watch::channel(snapshot);
        let (status_sender, statuses) = mpsc::unbounded_channel();
        let (record_sender, records) = mpsc::unbounded_channel();
        let modules = Modules::default();
        let (report_sender, reports) = watch::channel(None);
        let service = Service {
            snapshots: watched,
            statuses: status_sender,
            records: record_sender,
            modules: Arc::clone(&modules),
            reports: report_sender,
        };
        let server = tonic::transport::Server::builder()
            .add_service(NodeControlServer::new(service))
            .serve_with_incoming(UnixListenerStream::new(listener));
        let task = tokio::spawn(async move {
            let _ended = server.await;
        });
        Self {
            socket,
            snapshots,
            statuses,
            records: Mutex::new(records),
            modules,
            reports,
            task,
        }
    }

    /// Has a module from now on.
    pub fn offer_module(&self, digest: &str, module: Vec<u8>) {
        let mut modules = self.modules.lock().expect("no panic");
        modules.insert(digest.to_owned(), module);
    }

    /// The first reports on filters that are so.
    pub async fn reports(&mut self, so: impl Fn(&FilterReports) -> bool) -> FilterReports {
        let found = self
            .reports
            .wait_for(|reports| reports.as_ref().is_some_and(&so));
        within(found)
            .await
            .expect("an agent")
            .clone()
            .expect("some")
    }

    pub fn send(&self, snapshot: Snapshot) {
        self.snapshots.send_replace(Some(snapshot));
    }

    /// The next status.
    pub async fn status(&mut self) -> SnapshotStatus {
        within(self.statuses.recv()).await.expect("a status")
    }

    /// The answer to the snapshot of this version.
    pub async fn answer(&mut self, version: &str) -> SnapshotStatus {
        loop {
            let status = self.status().await;
            // The first message of a stream is no answer.
            if status.version == version {
                return status;
            }
        }
    }

    /// The next record.
    pub async fn record(&self) -> Record {
        let mut records = self.records.lock().await;
        within(records.recv()).await.expect("a record")
    }

    /// The next so many records.
    pub async fn records(&self, count: usize) -> Vec<Record> {
        let mut records = Vec::new();
        for _ in 0..count {
            records.push(self.record().await);
        }
        records
    }

    /// Asserts that no record is waiting.
    pub async fn assert_no_record(&self) {
        let waiting = self.records.lock().await.try_recv();
        assert!(waiting.is_err(), "unexpected record: {waiting:?}");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}
