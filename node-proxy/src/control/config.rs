//! What the data plane runs from: a snapshot and what is derived from it once.

use std::sync::Arc;

use http::HeaderValue;
use weft_core::snapshot::{Node, Parts, Snapshot, SnapshotError};

pub use weft_core::snapshot::{Cluster, Listener, ListenerMode};

use crate::settings::{self, Settings};

/// One version of the configuration; replaced as a whole.
#[derive(Debug)]
pub struct Config {
    /// The compiled snapshot.
    pub snapshot: Snapshot,
    /// Its settings.
    pub settings: Arc<Settings>,
    /// `server` header of responses; `None` leaves the upstream's.
    pub server: Option<HeaderValue>,
    /// Some listener is transparent: upstream sockets carry the proxy's mark
    /// and bind foreign addresses.
    pub privileged: bool,
    /// Spans are exported, so that traces are started and continued here.
    pub spans: bool,
}

impl Config {
    /// Compiles a snapshot; what did not change since `previous` is reused.
    ///
    /// # Errors
    /// Names the field that is wrong.
    pub fn build(
        parts: Parts,
        previous: Option<&Self>,
        spans: bool,
    ) -> Result<Self, SnapshotError> {
        let snapshot = Snapshot::build(parts, previous.map(|config| &config.snapshot))?;
        let settings = Arc::clone(snapshot.settings());
        let server = settings::server_name(&settings).map_err(|error| SnapshotError {
            field: format!("settings.{}", error.field),
            reason: error.reason.to_owned(),
        })?;
        let privileged = snapshot
            .listeners()
            .iter()
            .any(|listener| listener.mode == ListenerMode::Transparent);
        Ok(Self {
            snapshot,
            settings,
            server,
            privileged,
            spans,
        })
    }

    /// The node that is served.
    #[must_use]
    pub fn node(&self) -> &Node {
        self.snapshot.node()
    }
}
