//! The task that puts snapshots in force, whoever they come from.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use weft_api::node::Snapshot;

use super::client::{self, Offer};
use super::publish::Publisher;
use super::store::Store;

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
}

impl Control {
    /// Publishes through this publisher, and keeps what was good in `store`.
    #[must_use]
    pub fn new(publisher: Publisher, store: Option<Store>) -> Self {
        Self {
            publisher,
            status: SharedStatus::default(),
            store,
        }
    }

    /// What is known of the running configuration, from now on.
    #[must_use]
    pub fn status(&self) -> SharedStatus {
        self.status.clone()
    }

    /// Answers requests and offers until nobody can ask any more.
    pub async fn run(
        mut self,
        mut asked: mpsc::Receiver<Request>,
        mut offers: mpsc::Receiver<Offer>,
    ) {
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
        let known = {
            let status = self.status.lock();
            status.ready && !version.is_empty() && status.version == version
        };
        if known {
            // Sent again because the stream was new.
            let status = client::status(version, String::new());
            let _gone = offer.answer.send(status).await;
            return;
        }
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
    pub fn restore(&mut self) {
        let Some(store) = &self.store else { return };
        match store.load() {
            Ok(Some(snapshot)) => {
                let _logged = self.apply(&snapshot);
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
