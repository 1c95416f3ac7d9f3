//! The proxy's end: modules by their digest, and what it says of its filters.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use weft_api::node::{FilterReports, ModulePart};
use weft_core::filter::ModuleDigest;

use super::store::{ModuleFile, Store};

/// Bytes of a part of a module.
const PART: usize = 256 << 10;
/// Parts that are read ahead.
const AHEAD: usize = 2;

/// What the proxy has of filters. Clones share one state.
#[derive(Debug, Clone)]
pub struct ProxyEnd {
    store: Store,
    reports: watch::Sender<Option<FilterReports>>,
    /// Number of the newest stream of reports: while an old proxy drains beside a
    /// new one, only the new one's count.
    newest: Arc<AtomicU64>,
}

/// A module on its way.
pub type Parts = ReceiverStream<Result<ModulePart, Status>>;

impl ProxyEnd {
    /// An end, and where reports come out.
    pub(super) fn new(store: Store) -> (Self, watch::Receiver<Option<FilterReports>>) {
        let (reports, receiver) = watch::channel(None);
        let end = Self {
            store,
            reports,
            newest: Arc::default(),
        };
        (end, receiver)
    }

    /// A module, part by part.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for what is no digest, `NOT_FOUND` for a module that is
    /// not here.
    pub fn module(&self, digest: &str) -> Result<Parts, Status> {
        let parsed = ModuleDigest::parse(digest)
            .ok_or_else(|| Status::invalid_argument(format!("`{digest}` is no digest")))?;
        let file = self
            .store
            .read(parsed)
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Status::not_found(format!("no module {digest} is here")),
                _ => Status::internal(error.to_string()),
            })?;
        let (sender, receiver) = mpsc::channel(AHEAD);
        tokio::task::spawn_blocking(move || send(file, &sender));
        Ok(ReceiverStream::new(receiver))
    }

    /// A proxy begins to report.
    pub fn reporter(&self) -> Reporting {
        Reporting {
            number: self.newest.fetch_add(1, Ordering::SeqCst) + 1,
            end: self.clone(),
        }
    }
}

fn send(mut file: ModuleFile, sender: &mpsc::Sender<Result<ModulePart, Status>>) {
    loop {
        let part = match file.part(PART) {
            Ok(part) if part.is_empty() => return,
            Ok(data) => Ok(ModulePart { data }),
            Err(error) => Err(Status::data_loss(error.to_string())),
        };
        let last = part.is_err();
        if sender.blocking_send(part).is_err() || last {
            return;
        }
    }
}

/// One proxy's reports, until it is dropped.
#[derive(Debug)]
pub struct Reporting {
    number: u64,
    end: ProxyEnd,
}

impl Reporting {
    fn is_newest(&self) -> bool {
        self.end.newest.load(Ordering::SeqCst) == self.number
    }

    /// Takes a report.
    pub fn take(&self, reports: FilterReports) {
        if self.is_newest() {
            self.end.reports.send_replace(Some(reports));
        }
    }
}

impl Drop for Reporting {
    fn drop(&mut self) {
        if self.is_newest() {
            self.end.reports.send_replace(None);
        }
    }
}

#[cfg(test)]
impl ProxyEnd {
    /// An end with a store below this directory.
    pub fn testing(
        directory: &std::path::Path,
    ) -> (Self, watch::Receiver<Option<FilterReports>>, Store) {
        let store = Store::open(directory.join("modules")).expect("opened");
        let (end, reports) = Self::new(store.clone());
        (end, reports, store)
    }
}
