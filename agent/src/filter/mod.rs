//! Users' filters: the objects in force, and the modules that they name.
//!
//! One task owns it all, beside the reconciler, which must not wait for a
//! registry. Objects and looks at sources go in; out come the filters in force,
//! with the digests of the modules that this node has, and what the node says of
//! them. The proxy fetches the modules themselves by their digest.

mod archive;
mod client;
mod credentials;
mod dial;
mod fetch;
mod modules;
mod objects;
mod oci;
mod report;
mod revisions;
mod serve;
mod store;
#[cfg(test)]
pub(crate) mod testing;
mod turn;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::Client;
use tokio::sync::{mpsc, watch as channel};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use weft_api::k8s::filter::{FilterReport, ModuleSource};
use weft_api::node::FilterReports;
use weft_core::filter::{FilterKey, FilterSpec};

pub use client::ClientError;
pub use serve::{Parts, ProxyEnd, Reporting};
pub use weft_api::k8s::filter::{Attachment, Subject};

use client::Http;
use dial::Dialer;
pub use fetch::{FetchError, Sources};
use fetch::{Fetcher, Found};
use modules::Modules;
use objects::{InForce, Objects};
use report::Reporter;
use revisions::Revisions;
pub use store::Store;
#[cfg(test)]
pub(crate) use store::digest_of;
pub use turn::Turn;
use watch::{Maps, Seen};

use crate::policy::{LastGood, LastGoodError};

/// A filter in force, for the proxy of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedFilter {
    /// What it is. Its module is there once this node has it, and only then;
    /// why it is not stands beside it.
    pub spec: Arc<FilterSpec>,
    /// Whose requests meet it, and when.
    pub attachments: Arc<[Attachment]>,
    /// Its newest version, while that is not in force.
    pub awaited: Option<Awaited>,
    /// Number of what it is: another one whenever that changes.
    pub revision: u64,
}

/// Which filters a snapshot has: what the proxy says of that version is said of
/// these.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Published {
    /// Of the snapshot.
    pub version: String,
    /// Of its filters.
    pub revisions: BTreeMap<FilterKey, u64>,
}

/// A version that comes in force once its module is on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Awaited {
    /// Stands for it: a filter without a module, under a name of its own. Requests
    /// that meet nothing of the version in force meet this, as they would one that
    /// was made a moment ago.
    pub spec: Arc<FilterSpec>,
    /// Whose requests are to meet it, and when.
    pub attachments: Arc<[Attachment]>,
}

/// The filters in force; none before they are known.
pub type Resolved = Option<Arc<[ResolvedFilter]>>;
/// The filters that something on this node meets; none before that is known.
pub type Needed = Option<Arc<BTreeSet<FilterKey>>>;

/// Where modules may come from.
#[derive(Debug, Clone)]
pub struct Origins {
    /// Where `file://` modules are.
    pub directory: PathBuf,
    /// They may come from private networks.
    pub allow_private: bool,
    /// A file of further authorities for TLS.
    pub authorities: Option<PathBuf>,
}

impl Origins {
    /// Makes the clients for what is elsewhere.
    ///
    /// # Errors
    /// When the file of authorities cannot be used.
    pub fn open(&self, api: Client) -> Result<Sources, ClientError> {
        let dialer = Dialer {
            private: self.allow_private,
        };
        Ok(Sources {
            http: Http::new(dialer, self.authorities.as_deref())?,
            api,
            directory: self.directory.clone(),
            turn: Turn::default(),
        })
    }
}

/// Where modules come from and go to.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of this node.
    pub node: String,
    /// Where the agent keeps things.
    pub state_dir: PathBuf,
    /// Where modules come from.
    pub origins: Origins,
    /// Between two looks at what may stand for something else later.
    pub refresh: Duration,
}

/// Why filters cannot be had on this node.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Its disk.
    #[error("modules of filters: {0}")]
    Store(#[from] std::io::Error),
    /// Last good versions.
    #[error(transparent)]
    LastGood(#[from] LastGoodError),
    /// The client for what is elsewhere.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// What the rest of the agent has of filters.
#[derive(Debug)]
pub struct Ends {
    /// The filters in force.
    pub resolved: channel::Receiver<Resolved>,
    /// Takes the filters that something on this node meets.
    pub needed: channel::Sender<Needed>,
    /// Takes what snapshots have of them.
    pub published: channel::Sender<Published>,
    /// For the proxy.
    pub proxy: ProxyEnd,
}

/// What a look found; nothing when it was broken off.
type Looked = (ModuleSource, Option<Result<Found, String>>);

/// Owns all of it.
pub struct Filters {
    settings: Settings,
    client: Client,
    objects: Objects,
    modules: Modules,
    fetcher: Fetcher,
    revisions: Revisions,
    reporter: Reporter,
    resolved: channel::Sender<Resolved>,
    needed: channel::Receiver<Needed>,
    published: channel::Receiver<Published>,
    reports: channel::Receiver<Option<FilterReports>>,
    looks: JoinSet<Looked>,
}

impl Filters {
    /// Opens what a former run left on disk.
    ///
    /// # Errors
    /// See [`SetupError`].
    pub fn open(settings: Settings, client: Client) -> Result<(Self, Ends), SetupError> {
        let store = Store::open(settings.state_dir.join("modules"))?;
        let (last_good, saved) = LastGood::open(settings.state_dir.join("filters"))?;
        let fetcher = Fetcher {
            sources: settings.origins.open(client.clone())?,
            store: store.clone(),
            tenant: Box::default(),
        };
        let (resolved, resolved_end) = channel::channel(None);
        let (needed_end, needed) = channel::channel(None);
        let (published_end, published) = channel::channel(Published::default());
        let (proxy, reports) = ProxyEnd::new(store.clone());
        let filters = Self {
            objects: Objects::new(last_good, saved),
            modules: Modules::new(store, settings.refresh),
            fetcher,
            revisions: Revisions::default(),
            reporter: Reporter::default(),
            resolved,
            needed,
            published,
            reports,
            looks: JoinSet::new(),
            settings,
            client,
        };
        let ends = Ends {
            resolved: resolved_end,
            needed: needed_end,
            published: published_end,
            proxy,
        };
        Ok((filters, ends))
    }

    /// Runs until `stop` is cancelled.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        let (sender, mut seen) = mpsc::channel(watch::CHANNEL);
        let kept = self.objects.kept();
        watch::objects(&self.client, &kept, &sender, &stop, &mut tasks);
        let mut maps = Maps::new(self.client.clone(), sender);
        let (report, reports) = channel::channel(None);
        let node = self.settings.node.clone();
        let write = report::write(self.client.clone(), node, reports, stop.clone());
        tasks.spawn(write);
        let store = self.fetcher.store.clone();
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(seen) = seen.recv() => self.see(seen),
                Ok(()) = self.needed.changed() => {}
                Ok(()) = self.published.changed() => {
                    let published = self.published.borrow_and_update().clone();
                    self.reporter.published(published);
                }
                Ok(()) = self.reports.changed() => {
                    let reports = self.reports.borrow_and_update();
                    self.reporter.hear(reports.as_ref());
                }
                Some(looked) = self.looks.join_next() => self.looked(looked),
                () = until(self.modules.due()) => {}
                () = store.lost() => self.modules.lost(Instant::now()),
            }
            // What is there at once is taken in at once.
            while let Ok(more) = seen.try_recv() {
                self.see(more);
            }
            if self.objects.complete() {
                self.settle(&mut maps, &report);
            }
        }
    }

    fn see(&mut self, seen: Seen) {
        match seen {
            Seen::Object(kind, delta) => self.objects.apply(kind, delta),
            Seen::Map(key) => {
                let now = Instant::now();
                self.modules.map_changed(&key.namespace, &key.name, now);
            }
        }
    }

    fn looked(&mut self, looked: Result<Looked, tokio::task::JoinError>) {
        match looked {
            Ok((source, found)) => {
                if let Some(Ok(Found::Module(digest, _))) = &found {
                    info!(source = %source.location.told(), %digest, "a module is here");
                }
                let before = self.modules.state(&source).1.map(str::to_owned);
                self.modules.ended(&source, found, Instant::now());
                let (_, error) = self.modules.state(&source);
                // Not each time: a file that is missing is looked for for ever.
                if error != before.as_deref() {
                    match error {
                        Some(error) => warn!(error, "no module, trying again"),
                        None => info!(source = %source.location.told(), "found again"),
                    }
                }
            }
            Err(error) => warn!(%error, "a look at a module was lost"),
        }
    }

    /// Starts what is due and tells what has changed.
    fn settle(&mut self, maps: &mut Maps, report: &channel::Sender<Option<FilterReport>>) {
        let now = Instant::now();
        let needed = self.needed.borrow().clone().unwrap_or_default();
        self.modules.want(&self.objects.sources(&needed), now);
        maps.follow(&self.modules.maps());
        for look in self.modules.start(now) {
            let fetcher = Fetcher {
                tenant: look.tenant,
                ..self.fetcher.clone()
            };
            self.looks.spawn(async move {
                let found = fetcher.look(&look.source, look.stamp);
                let found = look.stop.run_until_cancelled(found).await;
                let found = found.map(|found| found.map_err(|error| error.to_string()));
                (look.source, found)
            });
        }
        let modules = &self.modules;
        let mut in_force = self.objects.in_force(|source| modules.state(source));
        self.revisions.number(&mut in_force);
        let filters = in_force.iter().map(|one| one.filter.clone());
        let filters: Arc<[ResolvedFilter]> = filters.collect();
        self.resolved.send_if_modified(|known| {
            let news = known.as_ref() != Some(&filters);
            if news {
                *known = Some(filters);
            }
            news
        });
        let met = |one: &&InForce| needed.contains(&one.key);
        let said = self.reporter.state(in_force.iter().filter(met));
        report.send_if_modified(|known| {
            let news = known.as_ref() != Some(&said);
            if news {
                *known = Some(said);
            }
            news
        });
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
