//! The task that puts snapshots in force, whoever they come from.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use weft_api::node::{Snapshot, SnapshotStatus};

use super::client::{self, Ask, Offer};
use super::publish::Publisher;
use super::store::Store;

/// Wait before the next attempt to store a snapshot.
const STORE_AGAIN: Duration = Duration::from_millis(500);

/// What is known of the running configuration.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Status {
    /// Version that is in force; empty before the first.
    pub version: String,
    /// Version that is stored, and was in force when it was: what a restart
    /// begins with. Empty before the first.
    pub confirmed: String,
    /// Why the last snapshot was refused, if it was.
    pub refused: Option<String>,
    /// Where each listener accepts.
    pub listeners: HashMap<String, SocketAddr>,
    /// A snapshot is in force and its listeners accept.
    pub ready: bool,
}

impl Status {
    /// What an agent may take for granted: the version that is in force and
    /// stored. While those are two, none: an agent whose newest snapshot is
    /// the stored one must send it again, and not believe that it is in force.
    #[must_use]
    pub fn reliable(&self) -> String {
        if self.version == self.confirmed {
            self.confirmed.clone()
        } else {
            String::new()
        }
    }
}

/// The status as the task keeps it and others read it.
#[derive(Debug, Clone, Default)]
pub struct SharedStatus(Arc<Mutex<Status>>);

impl SharedStatus {
    /// The status now.
    #[must_use]
    pub fn get(&self) -> Status {
        self.lock().clone()
    }

    /// A status that a panicking task left behind is still a status.
    fn lock(&self) -> MutexGuard<'_, Status> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the control task is asked for.
#[derive(Debug)]
pub enum Request {
    /// Put this snapshot in force, and say why not.
    Apply(Box<Snapshot>, oneshot::Sender<Result<(), String>>),
    /// Let the workers finish, at the latest after this long.
    Drain(Duration),
}

/// The task that puts snapshots in force.
#[derive(Debug)]
pub struct Control {
    publisher: Publisher,
    status: SharedStatus,
    store: Option<Store>,
    unstored: Option<Unstored>,
}

/// A snapshot that is in force and could not be stored, and who is to know
/// when it is.
#[derive(Debug)]
struct Unstored {
    snapshot: Arc<Snapshot>,
    answer: mpsc::Sender<SnapshotStatus>,
}

impl Control {
    /// Publishes through this publisher, and keeps what was good in `store`.
    #[must_use]
    pub fn new(publisher: Publisher, store: Option<Store>) -> Self {
        Self {
            publisher,
            status: SharedStatus::default(),
            store,
            unstored: None,
        }
    }

    /// What is known of the running configuration, from now on.
    #[must_use]
    pub fn status(&self) -> SharedStatus {
        self.status.clone()
    }

    /// Answers requests and the agent's stream until nobody can ask any more.
    pub async fn run(mut self, mut asked: mpsc::Receiver<Request>, mut agent: mpsc::Receiver<Ask>) {
        loop {
            tokio::select! {
                request = asked.recv() => match request {
                    Some(Request::Apply(snapshot, answer)) => {
                        let _gone = answer.send(self.apply(&snapshot));
                    }
                    Some(Request::Drain(patience)) => self.publisher.drain(patience),
                    None => return,
                },
                Some(ask) = agent.recv() => match ask {
                    Ask::Offer(offer) => self.answer(*offer).await,
                    Ask::Running(answer) => {
                        let _gone = answer.send(self.status.get().reliable());
                    }
                },
                () = tokio::time::sleep(STORE_AGAIN), if self.unstored.is_some() => {
                    self.store_again().await;
                }
            }
        }
    }

    async fn answer(&mut self, offer: Offer) {
        let Offer { snapshot, answer } = offer;
        let version = snapshot.version.clone();
        // Sent again because the stream was new, it runs already.
        let runs = {
            let status = self.status.lock();
            status.ready && !version.is_empty() && status.version == version
        };
        let outcome = match runs {
            true => Ok(()),
            false => self.apply(&snapshot),
        };
        let outcome = match outcome {
            Ok(()) => {
                self.unstored = None;
                self.keep(snapshot, answer.clone()).await
            }
            // What is in force stays so, and is still to be stored.
            Err(refused) => Err(refused),
        };
        let status = client::status(version, outcome.err().unwrap_or_default());
        if answer.send(status).await.is_err() {
            tracing::debug!("agent went away before it was answered");
        }
    }

    /// Stores what is in force. Only then may the agent rely on it: a proxy
    /// that came back with older rules would let pass unjudged what was
    /// redirected for the newer ones.
    ///
    /// # Errors
    /// Why it cannot be stored. It stays in force - it may revoke something -
    /// and is stored when that can be done.
    async fn keep(
        &mut self,
        snapshot: Snapshot,
        answer: mpsc::Sender<SnapshotStatus>,
    ) -> Result<(), String> {
        let version = snapshot.version.clone();
        if self.status.lock().confirmed == version && !version.is_empty() {
            return Ok(());
        }
        let snapshot = Arc::new(snapshot);
        let Err(error) = self.save(&snapshot).await else {
            self.status.lock().confirmed = version;
            return Ok(());
        };
        let error = format!("in force, but cannot be stored: {error}");
        tracing::warn!(%version, %error, "snapshot not stored");
        self.status.lock().refused = Some(error.clone());
        self.unstored = Some(Unstored { snapshot, answer });
        Err(error)
    }

    async fn save(&self, snapshot: &Arc<Snapshot>) -> Result<(), String> {
        let Some(store) = self.store.clone() else {
            return Ok(());
        };
        let snapshot = Arc::clone(snapshot);
        let saving = tokio::task::spawn_blocking(move || store.save(&snapshot));
        match saving.await {
            Ok(saved) => saved.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Tries again to store what is in force, and tells the agent when that
    /// has worked.
    async fn store_again(&mut self) {
        let Some(Unstored { snapshot, answer }) = self.unstored.take() else {
            return;
        };
        if self.save(&snapshot).await.is_err() {
            self.unstored = Some(Unstored { snapshot, answer });
            return;
        }
        let version = snapshot.version.clone();
        tracing::info!(%version, "snapshot stored after all");
        {
            let mut status = self.status.lock();
            status.confirmed.clone_from(&version);
            status.refused = None;
        }
        let _gone = answer.send(client::status(version, String::new())).await;
    }

    /// Runs from what was stored, until the agent has something newer.
    pub fn restore(&mut self) {
        let Some(store) = &self.store else { return };
        match store.load() {
            Ok(Some(snapshot)) => {
                if self.apply(&snapshot).is_ok() {
                    self.status.lock().confirmed = snapshot.version;
                }
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "stored snapshot is of no use"),
        }
    }

    /// Puts a snapshot in force.
    ///
    /// # Errors
    /// Why it was refused; the one before stays in force.
    pub fn apply(&mut self, snapshot: &Snapshot) -> Result<(), String> {
        let outcome = self.publisher.apply(snapshot);
        let mut status = self.status.lock();
        match outcome {
            Ok(()) => {
                *status = Status {
                    version: snapshot.version.clone(),
                    confirmed: std::mem::take(&mut status.confirmed),
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
