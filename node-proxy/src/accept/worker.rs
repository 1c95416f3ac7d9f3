//! A worker: one thread, one runtime, its own listeners and upstream pools.
//!
//! Nothing on a request's way is shared with another worker but the snapshot
//! and a few counters, so there is nothing to lock or to wait for.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;

use super::addr::Source;
use super::clock::{Clock, TICK, ticks};
use super::connection::{Close, Connection};
use super::listener;
use super::sources::Sources;
use crate::control::config::{Config, ListenerMode};
use crate::failure::Failure;
use crate::filter::hub::Hub;
use crate::memory::{Account, Purses};
use crate::pipeline::inflight::RequestLimits;
use crate::settings::{self, Settings};
use crate::telemetry::ring;
use crate::upstream::{self, Upstream};

/// How often unused upstream connections are looked at.
const POOL_SWEEP: Duration = Duration::from_secs(1);

/// What control tells a worker.
#[derive(Debug)]
pub enum Command {
    /// Accept on this socket.
    Listen {
        /// Name of the listener; one of that name is replaced.
        name: String,
        /// Bound and listening, non-blocking.
        socket: std::net::TcpListener,
        /// What its connections are.
        mode: ListenerMode,
    },
    /// Accept no more on the listener of this name.
    Unlisten(String),
    /// Accept no more at all, let requests finish, and end after the longest
    /// wait at the latest.
    Drain(Duration),
}

/// What all workers share.
#[derive(Debug)]
pub struct Shared {
    /// The newest snapshot.
    pub config: Arc<ArcSwap<Config>>,
    /// Downstream connections of the whole proxy.
    pub connections: AtomicUsize,
    /// Memory of every source.
    pub purses: Arc<Purses>,
    /// Connections that were turned away.
    pub turned_away: TurnedAway,
    /// Upstream connections, idle ones included, of the whole proxy.
    pub upstream_connections: Vec<AtomicUsize>,
    /// Requests in filters, of each worker.
    pub filter_contexts: Vec<AtomicUsize>,
    /// Number of workers.
    pub workers: usize,
}

/// Connections that were turned away, by the limit that was reached.
#[derive(Debug, Default)]
pub struct TurnedAway {
    /// That of all connections together.
    pub total: AtomicUsize,
    /// That of one source.
    pub source: AtomicUsize,
    /// The memory of one source.
    pub memory: AtomicUsize,
}

/// The sweeper's deadlines, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Of requests.
    pub request: RequestLimits,
    /// From the first byte of a head to its last.
    pub header: u64,
    /// Of unused connections.
    pub idle: u64,
    /// Of requests whose client has closed its half.
    pub half_closed: u64,
    /// Of requests that were cut.
    pub lingering: u64,
}

impl Deadlines {
    fn new(settings: &Settings) -> Self {
        Self {
            request: RequestLimits {
                request: ticks(settings.request_timeout),
                body_idle: ticks(settings::BODY_IDLE_TIMEOUT),
            },
            header: ticks(settings.header_timeout),
            idle: ticks(settings.idle_timeout),
            lingering: ticks(settings::LINGERING),
            half_closed: ticks(settings.idle_timeout.min(settings::HALF_CLOSED_TIMEOUT)),
        }
    }
}

/// The state of one worker.
#[derive(Debug)]
pub struct Worker {
    /// From 0.
    pub id: usize,
    /// Moved on by the sweeper.
    pub clock: Clock,
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// Where records go.
    pub records: ring::Sender,
    /// Instances of filters.
    pub filters: Hub,
    upstream: RefCell<Upstream>,
    config: RefCell<Cache<Arc<ArcSwap<Config>>, Arc<Config>>>,
    /// What deadlines and pools were made from.
    adopted: RefCell<Arc<Config>>,
    deadlines: Cell<Deadlines>,
    connections: RefCell<HashMap<u64, Rc<Connection>>>,
    sources: Sources,
    next_connection: Cell<u64>,
    draining: Cell<bool>,
    /// Wakes the sweeper for the first connection.
    busy: Notify,
    turn: Cell<usize>,
}

/// What a worker is made from; crosses to its thread.
#[derive(Debug)]
pub struct Seed {
    /// From 0.
    pub id: usize,
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// Where records go.
    pub records: ring::Sender,
    /// What control tells it.
    pub commands: mpsc::UnboundedReceiver<Command>,
    /// Changes with each snapshot.
    pub versions: watch::Receiver<u64>,
}

/// Runs a worker on the current thread until it is drained.
///
/// # Errors
/// When the runtime cannot be made.
pub fn run(seed: Seed) -> io::Result<()> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())?;
    runtime.block_on(drive(seed));
    Ok(())
}

async fn drive(seed: Seed) {
    let config = seed.shared.config.load_full();
    let worker = Rc::new(Worker {
        id: seed.id,
        clock: Clock::new(),
        upstream: RefCell::new(upstream_of(&config, seed.shared.workers)),
        deadlines: Cell::new(Deadlines::new(&config.settings)),
        config: RefCell::new(Cache::new(Arc::clone(&seed.shared.config))),
        adopted: RefCell::new(config),
        shared: seed.shared,
        records: seed.records,
        filters: Hub::default(),
        connections: RefCell::default(),
        sources: Sources::default(),
        next_connection: Cell::new(0),
        draining: Cell::new(false),
        busy: Notify::new(),
        turn: Cell::new(seed.id),
    });
    let sweeper = tokio::task::spawn_local(sweep(Rc::clone(&worker)));
    let follower = tokio::task::spawn_local(follow(Rc::clone(&worker), seed.versions));
    let mut commands = seed.commands;
    let mut listeners: HashMap<String, AbortHandle> = HashMap::new();
    let patience = loop {
        match commands.recv().await {
            Some(Command::Listen { name, socket, mode }) => {
                // The listener belongs to a snapshot whose news may still be
                // on its way here.
                worker.adopt();
                match listener::start(&worker, socket, mode) {
                    Ok(handle) => {
                        if let Some(old) = listeners.insert(name, handle) {
                            old.abort();
                        }
                    }
                    Err(error) => tracing::error!(%name, %error, "listener did not start"),
                }
            }
            Some(Command::Unlisten(name)) => {
                if let Some(handle) = listeners.remove(&name) {
                    handle.abort();
                }
            }
            Some(Command::Drain(patience)) => break patience,
            None => break Duration::ZERO,
        }
    };
    for handle in listeners.into_values() {
        handle.abort();
    }
    worker.drain(patience).await;
    sweeper.abort();
    follower.abort();
}

/// Moves the clock on and ends what is overdue.
async fn sweep(worker: Rc<Worker>) {
    let mut swept = Instant::now();
    loop {
        if worker.connections.borrow().is_empty() {
            // Nothing but pools to look after until someone connects.
            let _connected = tokio::time::timeout(POOL_SWEEP, worker.busy.notified()).await;
        } else {
            tokio::time::sleep(TICK).await;
        }
        let now = worker.clock.advance();
        let deadlines = worker.deadlines.get();
        for connection in worker.snapshot_of_connections() {
            connection.sweep(now, &deadlines);
        }
        Hub::tick(&worker, &worker.config());
        if let Some(gauge) = worker.shared.filter_contexts.get(worker.id) {
            gauge.store(worker.filters.contexts(), Ordering::Relaxed);
        }
        let instant = Instant::now();
        if instant.duration_since(swept) >= POOL_SWEEP {
            swept = instant;
            let upstream = worker.upstream();
            upstream.sweep(instant);
            if let Some(gauge) = worker.shared.upstream_connections.get(worker.id) {
                gauge.store(upstream.open(), Ordering::Relaxed);
            }
        }
    }
}

/// Takes over each new snapshot and cuts what it no longer allows.
async fn follow(worker: Rc<Worker>, mut versions: watch::Receiver<u64>) {
    while versions.changed().await.is_ok() {
        let config = worker.adopt();
        Hub::adopt(&worker, &config);
        for connection in worker.snapshot_of_connections() {
            connection.rejudge(&config);
        }
    }
}

fn upstream_of(config: &Config, workers: usize) -> Upstream {
    Upstream::new(upstream::Options {
        connect: upstream::connect::Options { mark: config.mark },
        idle_timeout: config.settings.idle_timeout,
        max_per_source: share(config.settings.max_upstream_per_source, workers),
        max_head_bytes: config.settings.max_header_bytes as usize,
        max_headers: config.settings.max_headers as usize,
        http2: upstream::h2::Limits {
            stream_window: config.settings.stream_window,
            connection_window: config.settings.connection_window,
            send_buffer: config.settings.send_buffer as usize,
        },
    })
}

/// A worker's part of a limit. The kernel spreads connections evenly, so that
/// the parts are nearly the whole and nobody has to ask the others.
fn share(limit: u32, workers: usize) -> usize {
    (limit as usize).div_ceil(workers.max(1))
}

impl Worker {
    /// The newest snapshot. A request asks once and keeps it to its end.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(self.config.borrow_mut().load())
    }

    /// Makes deadlines and pools anew if the newest snapshot asks for others.
    fn adopt(&self) -> Arc<Config> {
        let config = self.config();
        let old = self.adopted.replace(Arc::clone(&config));
        if old.settings != config.settings || old.mark != config.mark {
            self.deadlines.set(Deadlines::new(&config.settings));
            self.upstream
                .replace(upstream_of(&config, self.shared.workers));
        }
        config
    }

    /// The upstream pools.
    #[must_use]
    pub fn upstream(&self) -> Upstream {
        self.upstream.borrow().clone()
    }

    /// Counts requests, to take the endpoints of a cluster in turns.
    #[must_use]
    pub fn next_turn(&self) -> usize {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        turn
    }

    /// Whether the worker takes no more requests.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.draining.get()
    }

    /// The memory of a source. All its connections here share an account.
    #[must_use]
    pub fn account(&self, source: Source) -> Arc<Account> {
        let known = self.sources.account(source.ip());
        known.unwrap_or_else(|| self.shared.purses.open(source.ip()))
    }

    /// Registers a connection with the sweeper.
    ///
    /// # Errors
    /// [`Failure::Overloaded`] when the proxy, or the connection's source, has
    /// as many as it may.
    pub fn register(self: &Rc<Self>, connection: Rc<Connection>) -> Result<Registered, Failure> {
        let config = self.config();
        let settings = &config.settings;
        let limit = settings.max_connections as usize;
        if self.shared.connections.fetch_add(1, Ordering::Relaxed) >= limit {
            self.turn_away(&self.shared.turned_away.total);
            return Err(Failure::Overloaded("connections"));
        }
        let source = connection.source.ip();
        let part = share(settings.max_connections_per_source, self.shared.workers);
        if connection.account().is_full() {
            self.turn_away(&self.shared.turned_away.memory);
            return Err(Failure::MEMORY);
        }
        if !self.sources.enter(source, connection.account(), part) {
            self.turn_away(&self.shared.turned_away.source);
            return Err(Failure::Overloaded("connections of one source"));
        }
        if self.connections.borrow().is_empty() {
            self.busy.notify_one();
        }
        let key = self.next_connection.get();
        self.next_connection.set(key + 1);
        self.connections.borrow_mut().insert(key, connection);
        Ok(Registered {
            worker: Rc::clone(self),
            key,
            source,
        })
    }

    /// Counts a connection that does not stay.
    fn turn_away(&self, counter: &AtomicUsize) {
        self.shared.connections.fetch_sub(1, Ordering::Relaxed);
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn snapshot_of_connections(&self) -> Vec<Rc<Connection>> {
        self.connections.borrow().values().map(Rc::clone).collect()
    }

    async fn drain(&self, patience: Duration) {
        self.draining.set(true);
        for connection in self.snapshot_of_connections() {
            connection.close(Close::Graceful);
        }
        let empty = async {
            while !self.connections.borrow().is_empty() {
                tokio::time::sleep(TICK).await;
            }
        };
        if tokio::time::timeout(patience, empty).await.is_err() {
            let left = self.connections.borrow().len();
            tracing::warn!(connections = left, "drain deadline passed");
        }
    }
}

/// A registered connection; unregistered when dropped.
#[derive(Debug)]
pub struct Registered {
    worker: Rc<Worker>,
    key: u64,
    source: IpAddr,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.worker.connections.borrow_mut().remove(&self.key);
        self.worker.sources.leave(self.source);
        self.worker
            .shared
            .connections
            .fetch_sub(1, Ordering::Relaxed);
    }
}
