//! Puts a snapshot in force: listeners first, then the configuration, at once
//! in all workers.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use weft_api::node as wire;
use weft_core::snapshot::SnapshotError;

use super::config::{Config, Listener, ListenerMode};
use super::convert;
use crate::accept::socket::{self, ListenMode};
use crate::accept::worker::{Command, Shared};
use crate::filter::Registry;
use crate::filter::manager::{Manager, Wish, Wishes};

/// The only writer of the configuration.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    workers: Vec<mpsc::UnboundedSender<Command>>,
    versions: watch::Sender<u64>,
    listening: HashMap<String, Listening>,
    filters: Registry,
    manager: Manager,
    /// Nobody else is to listen on its addresses.
    alone: bool,
}

#[derive(Debug)]
struct Listening {
    wanted: SocketAddr,
    bound: SocketAddr,
    mode: ListenerMode,
}

/// A listener's sockets, one for each worker, not yet handed out.
struct Bound {
    name: String,
    sockets: Vec<TcpListener>,
    listening: Listening,
}

impl Publisher {
    /// Publishes to these workers.
    #[must_use]
    pub fn new(
        shared: Arc<Shared>,
        workers: Vec<mpsc::UnboundedSender<Command>>,
        versions: watch::Sender<u64>,
        manager: Manager,
        filters: Registry,
    ) -> Self {
        Self {
            shared,
            workers,
            versions,
            listening: HashMap::new(),
            filters,
            manager,
            alone: false,
        }
    }

    /// Refuses addresses on which another process listens. Of two proxies of a
    /// node the new one takes over beside the old one, by way of the same
    /// address; a proxy without an agent takes over from nobody.
    #[must_use]
    pub fn alone(self) -> Self {
        let alone = true;
        Self { alone, ..self }
    }

    /// Puts a snapshot in force. When this returns, every request that starts
    /// is judged by it, and workers were told to cut what it no longer allows.
    /// Its filters are where they belong; the versions of them that it wants
    /// may come into force later.
    ///
    /// # Errors
    /// The field that is wrong, or the listener that cannot be bound. Then
    /// nothing has changed.
    pub fn apply(&mut self, wire: &wire::Snapshot) -> Result<(), SnapshotError> {
        let parts = convert::parts(wire)?;
        let current = self.shared.config.load_full();
        let mut config = Config::build(parts, Some(&current), current.spans)?;
        let bound = self.bind(config.snapshot.listeners())?;
        let gone: Vec<String> = self
            .listening
            .keys()
            .filter(|name| {
                let mut kept = config.snapshot.listeners().iter();
                !kept.any(|listener| *listener.name == ***name)
            })
            .cloned()
            .collect();

        let filters = config.snapshot.filters().len();
        self.manager
            .prepare(filters)
            .map_err(|error| SnapshotError {
                field: "filters".to_owned(),
                reason: format!("need a thread that cannot be started: {error}"),
            })?;
        config.filters = self.filters.resolve(config.snapshot.filters());
        let wishes = wishes(wire, &config);
        let memory = config.settings.max_memory_per_source;
        self.shared.purses.set_limit(memory);
        self.shared.config.store(Arc::new(config));
        self.versions.send_modify(|version| *version += 1);
        self.manager.wish(wishes);
        for listener in bound {
            self.hand_out(listener);
        }
        for name in gone {
            self.listening.remove(&name);
            self.tell(|| Command::Unlisten(name.clone()));
        }
        Ok(())
    }

    /// Addresses that are listened on, by the listener's name. Differs from
    /// the snapshot where that asked for port 0.
    #[must_use]
    pub fn addresses(&self) -> HashMap<String, SocketAddr> {
        self.listening
            .iter()
            .map(|(name, listening)| (name.clone(), listening.bound))
            .collect()
    }

    /// Tells the workers to finish, at the latest after `patience`.
    pub fn drain(&self, patience: Duration) {
        self.manager.drain();
        self.tell(|| Command::Drain(patience));
    }

    /// Binds what is new or has changed, for all workers.
    fn bind(&self, listeners: &[Listener]) -> Result<Vec<Bound>, SnapshotError> {
        let mut new = Vec::new();
        for (index, listener) in listeners.iter().enumerate() {
            let unchanged = self
                .listening
                .get(&*listener.name)
                .is_some_and(|old| old.wanted == listener.address && old.mode == listener.mode);
            if !unchanged {
                let bound = self.bind_one(listener).map_err(|error| SnapshotError {
                    field: format!("listeners[{index}].address"),
                    reason: format!("{} of `{}`: {error}", listener.address, listener.name),
                })?;
                new.push(bound);
            }
        }
        Ok(new)
    }

    fn bind_one(&self, listener: &Listener) -> std::io::Result<Bound> {
        let mode = match listener.mode {
            ListenerMode::Transparent { mark } => ListenMode::Transparent { mark },
            ListenerMode::Cluster(_) => ListenMode::Plain,
        };
        let mut address = listener.address;
        let mut known = self.listening.values();
        let ours = known.any(|known| known.bound.port() == address.port());
        if self.alone && !ours {
            socket::free(address, mode)?;
        }
        let mut sockets = Vec::with_capacity(self.workers.len());
        for _worker in &self.workers {
            let socket = socket::listen(address, mode)?;
            // The first bind chooses the port where none was given.
            address = socket.local_addr()?;
            sockets.push(socket);
        }
        Ok(Bound {
            name: listener.name.to_string(),
            sockets,
            listening: Listening {
                wanted: listener.address,
                bound: address,
                mode: listener.mode.clone(),
            },
        })
    }

    fn hand_out(&mut self, bound: Bound) {
        for (worker, socket) in self.workers.iter().zip(bound.sockets) {
            let _gone = worker.send(Command::Listen {
                name: bound.name.clone(),
                socket,
                mode: bound.listening.mode.clone(),
            });
        }
        tracing::info!(listener = %bound.name, address = %bound.listening.bound, "listening");
        self.listening.insert(bound.name, bound.listening);
    }

    fn tell(&self, command: impl Fn() -> Command) {
        for worker in &self.workers {
            // A worker that is gone has nothing left to do.
            let _gone = worker.send(command());
        }
    }
}

/// The filters that a snapshot wants, beside those that are versions of them.
fn wishes(wire: &wire::Snapshot, config: &Config) -> Wishes {
    let node = config.node();
    let specs = config.snapshot.filters().iter();
    let wires = wire.filters.iter();
    let filters = wires.zip(specs).zip(&config.filters);
    Wishes {
        version: wire.version.clone(),
        node: node.name.to_string(),
        cluster: node.cluster.to_string(),
        filters: filters
            .map(|((wire, spec), filter)| Wish {
                wire: Arc::new(wire.clone()),
                spec: Arc::clone(spec),
                filter: Arc::clone(filter),
            })
            .collect(),
    }
}
