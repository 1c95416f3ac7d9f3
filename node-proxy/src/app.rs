//! Everything wired together: the only place that knows all parts.
//!
//! Workers have threads and runtimes of their own. Everything else - the
//! agent's streams, telemetry, exporters, the admin page - runs on the runtime
//! that [`start`] is called on, and never touches a request.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use weft_api::node::Snapshot;
use weft_core::snapshot::{Node, Parts};

use crate::accept::worker::{self, Seed, Shared};
use crate::admin;
use crate::control::client::{self, Offer};
use crate::control::config::Config;
use crate::control::publish::Publisher;
use crate::control::store::{self, Store};
use crate::settings::Settings;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::spans::{self, Otlp};
use crate::telemetry::{self, Sinks, ring};

/// Batches of records that wait for the agent.
const BATCHES: usize = 256;

/// How a proxy is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the node, for spans.
    pub node: Option<String>,
    /// Where snapshots come from.
    pub origin: Origin,
    /// Worker threads.
    pub workers: usize,
    /// Unix socket of the admin page.
    pub admin_socket: Option<PathBuf>,
    /// Loopback address of the admin page.
    pub admin_listen: Option<SocketAddr>,
    /// Where spans go.
    pub otlp: Option<Otlp>,
}

/// Where snapshots come from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A file, read again when asked to.
    File(PathBuf),
    /// The agent, and what was kept of it.
    Agent {
        /// Its Unix socket.
        socket: PathBuf,
        /// Where the last good snapshot is kept, if anywhere.
        state: Option<PathBuf>,
    },
}

/// What is known of the running configuration.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Status {
    /// Version that is in force; empty before the first.
    pub version: String,
    /// Why the last snapshot was refused, if it was.
    pub refused: Option<String>,
    /// Where each listener accepts.
    pub listeners: HashMap<String, SocketAddr>,
    /// A snapshot is in force and its listeners accept.
    pub ready: bool,
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    status: Arc<Mutex<Status>>,
    requests: mpsc::Sender<Request>,
    workers: Vec<thread::JoinHandle<()>>,
    telemetry: JoinHandle<()>,
    stop_telemetry: oneshot::Sender<()>,
    export: Option<JoinHandle<()>>,
    tasks: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
    metrics: Metrics,
}

/// What the control task is asked for.
#[derive(Debug)]
enum Request {
    Apply(Box<Snapshot>, oneshot::Sender<Result<(), String>>),
    Drain(Duration),
}

/// Starts everything. Returns as soon as the workers run; whether there is a
/// configuration yet is in [`Proxy::status`].
///
/// # Errors
/// A file of a snapshot that cannot be used, an admin address that is taken, a
/// thread that cannot be made.
pub async fn start(options: Options) -> anyhow::Result<Proxy> {
    let workers = options.workers.max(1);
    let (senders, receiver) = ring::rings(workers, ring::CAPACITY);
    let shared = Arc::new(Shared {
        config: ArcSwap::from_pointee(empty(options.otlp.is_some())?),
        connections: AtomicUsize::new(0),
        refused: AtomicUsize::new(0),
        upstream_connections: (0..workers).map(|_worker| AtomicUsize::new(0)).collect(),
        workers,
    });
    let (versions, watched) = watch::channel(0);
    let (commands, threads) = start_workers(&shared, senders, &watched)?;
    let publisher = Publisher::new(Arc::clone(&shared), commands, versions);
    let mut tasks = Vec::new();

    let metrics = Metrics::new();
    let mut sinks = Sinks {
        records: None,
        spans: None,
        metrics: metrics.clone(),
    };
    let mut export = None;
    if let Some(otlp) = &options.otlp {
        let (spans, exporting) = spans::spans(otlp, options.node.as_deref(), Arc::clone(&shared))
            .context("span exporter")?;
        sinks.spans = Some(spans);
        export = Some(tokio::spawn(exporting.run()));
    }

    let status = Arc::new(Mutex::new(Status::default()));
    let (requests, asked) = mpsc::channel(16);
    let (offering, offers) = mpsc::channel(1);
    let mut control = Control {
        publisher,
        status: Arc::clone(&status),
        store: None,
    };
    match &options.origin {
        Origin::File(path) => {
            let snapshot = store::load(path)?;
            control
                .apply(&snapshot)
                .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        }
        Origin::Agent { socket, state } => {
            let (batches, queue) = mpsc::channel(BATCHES);
            sinks.records = Some(batches);
            tasks.push(tokio::spawn(client::records(socket.clone(), queue)));
            control.store = state.clone().map(Store::new);
            control.restore();
            let status = Arc::clone(&status);
            let running = move || lock(&status).version.clone();
            tasks.push(tokio::spawn(client::snapshots(
                socket.clone(),
                running,
                offering,
            )));
        }
    }
    tasks.push(tokio::spawn(control.run(asked, offers)));
    let (stop_telemetry, stopped) = oneshot::channel();
    let telemetry = tokio::spawn(telemetry::run(receiver, sinks, stopped));
    tasks.extend(
        admin::serve(
            &options,
            admin::State {
                status: Arc::clone(&status),
                shared: Arc::clone(&shared),
                metrics: metrics.clone(),
            },
        )
        .await?,
    );
    Ok(Proxy {
        status,
        requests,
        workers: threads,
        telemetry,
        stop_telemetry,
        export,
        tasks,
        shared,
        metrics,
    })
}

type Started = (
    Vec<mpsc::UnboundedSender<worker::Command>>,
    Vec<thread::JoinHandle<()>>,
);

fn start_workers(
    shared: &Arc<Shared>,
    rings: Vec<ring::Sender>,
    versions: &watch::Receiver<u64>,
) -> io::Result<Started> {
    let mut commands = Vec::new();
    let mut threads = Vec::new();
    for (id, records) in rings.into_iter().enumerate() {
        let (sender, receiver) = mpsc::unbounded_channel();
        let seed = Seed {
            id,
            shared: Arc::clone(shared),
            records,
            commands: receiver,
            versions: versions.clone(),
        };
        let thread = thread::Builder::new()
            .name(format!("worker-{id}"))
            .spawn(move || {
                if let Err(error) = worker::run(seed) {
                    tracing::error!(worker = id, %error, "worker did not start");
                }
            })?;
        commands.push(sender);
        threads.push(thread);
    }
    Ok((commands, threads))
}

/// What the workers have before the first snapshot: no listener at all.
fn empty(spans: bool) -> anyhow::Result<Config> {
    let parts = Parts {
        version: "".into(),
        node: Node {
            name: "".into(),
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            cluster: "".into(),
        },
        listeners: Vec::new(),
        endpoints: Vec::new(),
        identities: Vec::new(),
        addresses: Vec::new(),
        policies: Vec::new(),
        clusters: Vec::new(),
        settings: Settings::default(),
    };
    Ok(Config::build(parts, None, spans)?)
}

/// The task that puts snapshots in force.
#[derive(Debug)]
struct Control {
    publisher: Publisher,
    status: Arc<Mutex<Status>>,
    store: Option<Store>,
}

impl Control {
    async fn run(mut self, mut asked: mpsc::Receiver<Request>, mut offers: mpsc::Receiver<Offer>) {
        loop {
            tokio::select! {
                request = asked.recv() => match request {
                    Some(Request::Apply(snapshot, answer)) => {
                        let _gone = answer.send(self.apply(&snapshot));
                    }
                    Some(Request::Drain(patience)) => self.publisher.drain(patience),
                    None => return,
                },
                Some(offer) = offers.recv() => self.answer(offer).await,
            }
        }
    }

    async fn answer(&mut self, offer: Offer) {
        let version = offer.snapshot.version.clone();
        let outcome = self.apply(&offer.snapshot);
        let error = outcome.clone().err().unwrap_or_default();
        let status = client::status(version, error);
        if offer.answer.send(status).await.is_err() {
            tracing::debug!("agent went away before it was answered");
        }
        if outcome.is_ok()
            && let Some(store) = &self.store
        {
            let store = store.clone();
            let saving = tokio::task::spawn_blocking(move || store.save(&offer.snapshot));
            match saving.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "snapshot was not stored"),
                Err(error) => tracing::warn!(%error, "snapshot was not stored"),
            }
        }
    }

    /// Runs from what was stored, until the agent has something newer.
    fn restore(&mut self) {
        let Some(store) = &self.store else { return };
        match store.load() {
            Ok(Some(snapshot)) => {
                let _logged = self.apply(&snapshot);
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "stored snapshot is of no use"),
        }
    }

    fn apply(&mut self, snapshot: &Snapshot) -> Result<(), String> {
        let outcome = self.publisher.apply(snapshot);
        let mut status = lock(&self.status);
        match outcome {
            Ok(()) => {
                *status = Status {
                    version: snapshot.version.clone(),
                    refused: None,
                    listeners: self.publisher.addresses(),
                    ready: true,
                };
                tracing::info!(version = %snapshot.version, "snapshot in force");
                Ok(())
            }
            Err(error) => {
                let error = error.to_string();
                tracing::warn!(version = %snapshot.version, %error, "snapshot refused");
                status.refused = Some(error.clone());
                Err(error)
            }
        }
    }
}

impl Proxy {
    /// What is known of the running configuration.
    #[must_use]
    pub fn status(&self) -> Status {
        lock(&self.status).clone()
    }

    /// Puts a snapshot in force.
    ///
    /// # Errors
    /// Why it was refused; the one before serves on.
    pub async fn apply(&self, snapshot: Snapshot) -> Result<(), String> {
        let (answer, answered) = oneshot::channel();
        let request = Request::Apply(Box::new(snapshot), answer);
        let stopping = |_error| "the proxy is stopping".to_owned();
        self.requests
            .send(request)
            .await
            .map_err(|error| stopping(error.to_string()))?;
        answered
            .await
            .map_err(|error| stopping(error.to_string()))?
    }

    /// All metrics as text.
    ///
    /// # Errors
    /// Never in practice: writing to a string does not fail.
    pub fn metrics(&self) -> Result<String, std::fmt::Error> {
        self.metrics.render(&self.shared)
    }

    /// Accepts no more, lets requests finish, at most for `patience`, and
    /// hands over the last records and spans.
    pub async fn stop(self, patience: Duration) {
        let _gone = self.requests.send(Request::Drain(patience)).await;
        let workers = self.workers;
        let joined = tokio::task::spawn_blocking(move || {
            for worker in workers {
                if worker.join().is_err() {
                    tracing::error!("a worker ended in a panic");
                }
            }
        });
        let _done = joined.await;
        let _gone = self.stop_telemetry.send(());
        let _done = self.telemetry.await;
        if let Some(export) = self.export {
            let _elapsed = tokio::time::timeout(patience, export).await;
        }
        for task in self.tasks {
            task.abort();
        }
    }
}

/// A status that a panicking task left behind is still a status.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
