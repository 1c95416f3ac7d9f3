//! Everything wired together: the only place that knows all parts.
//!
//! Workers have threads and runtimes of their own. Everything else - the
//! agent's streams, telemetry, exporters, the admin page - runs on the runtime
//! that [`start`] is called on, and never touches a request.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use weft_api::node::Snapshot;
use weft_core::snapshot::{Node, Parts};
use weft_wasm_host::Compiler;
use weft_wasm_host::budget::BudgetLimits;

use crate::accept::worker::{self, Seed, Shared, TurnedAway};
use crate::admin;
use crate::control::apply::{Control, Request, SharedStatus, Status};
use crate::control::client::{self, Ask};
use crate::control::config::Config;
use crate::control::publish::Publisher;
use crate::control::store::{self, Store};
use crate::filter::Registry;
use crate::filter::manager::{Manager, Setup};
use crate::filter::modules::Source;
use crate::filter::report;
use crate::memory::Purses;
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
    /// What the filters of one namespace may use of each worker.
    pub filters: BudgetLimits,
    /// What compiles their modules.
    pub compiler: Compiler,
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
    File {
        /// The file.
        snapshot: PathBuf,
        /// Where the modules of its filters are, if anywhere.
        modules: Option<PathBuf>,
        /// Where what was compiled of them is kept, if anywhere.
        state: Option<PathBuf>,
    },
    /// The agent, and what was kept of it.
    Agent {
        /// Its Unix socket.
        socket: PathBuf,
        /// Where the last good snapshot and the modules of its filters are
        /// kept, if anywhere.
        state: Option<PathBuf>,
    },
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    status: SharedStatus,
    requests: mpsc::Sender<Request>,
    workers: Vec<thread::JoinHandle<()>>,
    telemetry: JoinHandle<()>,
    stop_telemetry: oneshot::Sender<()>,
    export: Option<JoinHandle<()>>,
    tasks: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
    metrics: Metrics,
}

/// Starts everything. Returns as soon as the workers run; whether there is a
/// configuration yet is in [`Proxy::status`].
///
/// # Errors
/// A file of a snapshot that cannot be used, an admin address that is taken, a
/// thread that cannot be made.
pub async fn start(options: Options) -> anyhow::Result<Proxy> {
    let workers = options.workers.max(1);
    let (rings, receiver) = ring::rings(workers, ring::CAPACITY);
    let shared = shared(workers, options.otlp.is_some())?;
    let (versions, watched) = watch::channel(0);
    let (commands, threads) = start_workers(&shared, rings, &watched)?;

    let metrics = Metrics::new();
    let mut sinks = Sinks {
        records: None,
        spans: None,
        metrics: metrics.clone(),
    };
    let export = start_export(&options, &shared, &mut sinks)?;

    let manager = Manager::new(manager_setup(&options));
    let filters = manager.listings();
    let registry = Registry::new(options.filters, workers);
    let publisher = Publisher::new(Arc::clone(&shared), commands, versions, manager, registry);
    let (requests, asked) = mpsc::channel(16);
    let (control, agent, mut tasks) = open_origin(&options.origin, publisher, &mut sinks)?;
    let status = control.status();
    tasks.push(tokio::spawn(control.run(asked, agent)));
    if let Origin::Agent { socket, .. } = &options.origin {
        tasks.push(tokio::spawn(report::reports(
            socket.clone(),
            filters.clone(),
        )));
    }

    let (stop_telemetry, stopped) = oneshot::channel();
    let telemetry = tokio::spawn(telemetry::run(receiver, sinks, stopped));
    let page = admin::State {
        status: status.clone(),
        shared: Arc::clone(&shared),
        metrics: metrics.clone(),
        filters,
    };
    tasks.extend(admin::serve(&options, page).await?);
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

fn manager_setup(options: &Options) -> Setup {
    let (source, state) = match &options.origin {
        Origin::File { modules, state, .. } => (Source::Folder(modules.clone()), state),
        Origin::Agent { socket, state } => (Source::Agent(socket.clone()), state),
    };
    Setup {
        source,
        state: state.clone(),
        node: options.node.clone(),
        compiler: options.compiler.clone(),
        workers: options.workers.max(1),
        control: Handle::current(),
    }
}

fn shared(workers: usize, spans: bool) -> anyhow::Result<Arc<Shared>> {
    Ok(Arc::new(Shared {
        config: Arc::new(ArcSwap::from_pointee(empty(spans)?)),
        connections: AtomicUsize::new(0),
        purses: Purses::new(Settings::default().max_memory_per_source),
        turned_away: TurnedAway::default(),
        upstream_connections: (0..workers).map(|_worker| AtomicUsize::new(0)).collect(),
        filter_contexts: (0..workers).map(|_worker| AtomicUsize::new(0)).collect(),
        workers,
    }))
}

/// Connects telemetry with the exporter of spans, if one is wanted.
fn start_export(
    options: &Options,
    shared: &Arc<Shared>,
    sinks: &mut Sinks,
) -> anyhow::Result<Option<JoinHandle<()>>> {
    let Some(otlp) = &options.otlp else {
        return Ok(None);
    };
    let (node, metrics) = (options.node.as_deref(), sinks.metrics.clone());
    let (spans, export) =
        spans::spans(otlp, node, Arc::clone(shared), metrics).context("span exporter")?;
    sinks.spans = Some(spans);
    Ok(Some(tokio::spawn(export.run())))
}

type Opened = (Control, mpsc::Receiver<Ask>, Vec<JoinHandle<()>>);

/// Puts in force what is there already, and connects what brings more.
fn open_origin(origin: &Origin, publisher: Publisher, sinks: &mut Sinks) -> anyhow::Result<Opened> {
    let (asking, asked) = mpsc::channel(1);
    match origin {
        Origin::File { snapshot: path, .. } => {
            let snapshot = store::load(path)?;
            let mut control = Control::new(publisher.alone(), None);
            control
                .apply(&snapshot)
                .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
            Ok((control, asked, Vec::new()))
        }
        Origin::Agent { socket, state } => {
            let (batches, queue) = mpsc::channel(BATCHES);
            sinks.records = Some(batches);
            let mut control = Control::new(publisher, state.clone().map(Store::new));
            control.restore();
            let tasks = vec![
                tokio::spawn(client::records(socket.clone(), queue)),
                tokio::spawn(client::snapshots(socket.clone(), asking)),
            ];
            Ok((control, asked, tasks))
        }
    }
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
            private_ports: Box::default(),
        },
        listeners: Vec::new(),
        endpoints: Vec::new(),
        identities: Vec::new(),
        addresses: Vec::new(),
        policies: Vec::new(),
        clusters: Vec::new(),
        filters: Vec::new(),
        chains: Vec::new(),
        callouts: Vec::new(),
        settings: Settings::default(),
    };
    Ok(Config::build(parts, None, spans)?)
}

impl Proxy {
    /// What is known of the running configuration.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.get()
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
