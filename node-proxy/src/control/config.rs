//! What the data plane runs from: a snapshot and what is derived from it once.

use std::sync::Arc;

use http::HeaderValue;
use weft_core::filter::{FilterSpec, Step};
use weft_core::snapshot::{Node, Parts, Snapshot, SnapshotError};

pub use weft_core::snapshot::{Cluster, Listener, ListenerMode};

use crate::filter::NodeFilter;
use crate::settings::Settings;

/// One version of the configuration; replaced as a whole.
#[derive(Debug)]
pub struct Config {
    /// The compiled snapshot.
    pub snapshot: Snapshot,
    /// Its settings.
    pub settings: Arc<Settings>,
    /// `server` header of responses; `None` leaves the upstream's.
    pub server: Option<HeaderValue>,
    /// Some listener is transparent: upstream sockets carry this mark and bind
    /// foreign addresses.
    pub mark: Option<u32>,
    /// Spans are exported, so that traces are started and continued here.
    pub spans: bool,
    /// The filters of the snapshot, at the same positions.
    pub filters: Box<[Arc<NodeFilter>]>,
}

impl Config {
    /// Compiles a snapshot; what did not change since `previous` is reused.
    /// Its filters are found when it is sure to come into force.
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
        let server = settings.server_header().map_err(|error| SnapshotError {
            field: format!("settings.{}", error.field),
            reason: error.reason,
        })?;
        let mark = mark(snapshot.listeners())?;
        Ok(Self {
            snapshot,
            settings,
            server,
            mark,
            spans,
            filters: Box::default(),
        })
    }

    /// The filter that a step of a chain names. Snapshots that lack one are
    /// refused.
    #[must_use]
    pub fn filter(&self, step: &Step) -> Option<(&Arc<NodeFilter>, &Arc<FilterSpec>)> {
        let at = step.filter as usize;
        self.filters.get(at).zip(self.snapshot.filters().get(at))
    }

    /// The node that is served.
    #[must_use]
    pub fn node(&self) -> &Node {
        self.snapshot.node()
    }
}

/// The mark of the transparent listeners: connections towards upstreams are
/// pooled across listeners, so there is one.
fn mark(listeners: &[Listener]) -> Result<Option<u32>, SnapshotError> {
    let mut found = None;
    for (index, listener) in listeners.iter().enumerate() {
        let ListenerMode::Transparent { mark } = listener.mode else {
            continue;
        };
        if *found.get_or_insert(mark) != mark {
            return Err(SnapshotError {
                field: format!("listeners[{index}].transparent.mark"),
                reason: "differs from that of another listener".into(),
            });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{Listener, ListenerMode, mark};

    #[test]
    fn there_is_one_mark() {
        let listener = |mode| Listener {
            name: "x".into(),
            address: ([127, 0, 0, 1], 15001).into(),
            mode,
        };
        let transparent = |mark| listener(ListenerMode::Transparent { mark });
        let plain = listener(ListenerMode::Cluster("a".into()));
        assert_eq!(mark(std::slice::from_ref(&plain)), Ok(None));
        let one = [plain, transparent(1), transparent(1)];
        assert_eq!(mark(&one), Ok(Some(1)));
        let refused = mark(&[transparent(1), transparent(2)]).expect_err("two marks");
        assert_eq!(refused.field, "listeners[1].transparent.mark");
    }
}
