//! The filter that is in force, and whether the last attempt to replace it succeeded.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;

use crate::fault::FaultKind;
use crate::filter::{ConfigureError, Filter};
use crate::module::LoadError;

/// Why a new version is not in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReloadError {
    /// The module could not be had.
    #[error("the module cannot be fetched: {0}")]
    Fetch(String),
    /// The module could not be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It did not take its configuration.
    #[error(transparent)]
    Configure(#[from] ConfigureError),
}

impl ReloadError {
    /// Which policy holds while nothing is in force.
    #[must_use]
    pub const fn kind(&self) -> FaultKind {
        match self {
            Self::Fetch(_) | Self::Load(_) => FaultKind::Load,
            Self::Configure(_) => FaultKind::Config,
        }
    }
}

/// What status can be told of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Condition {
    /// Versions that came into force.
    pub generation: u64,
    /// Why the last one did not.
    pub error: Option<ReloadError>,
}

/// One filter, as all workers see it. Replaced as a whole; read without a lock.
#[derive(Debug, Default)]
pub struct Published {
    current: ArcSwapOption<Filter>,
    condition: Mutex<Condition>,
}

impl Published {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The filter that is in force.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Filter>> {
        self.current.load_full()
    }

    /// Whether `filter` is the one in force; costs no reference.
    pub(crate) fn is_current(&self, filter: &Arc<Filter>) -> bool {
        let current = self.current.load();
        current
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, filter))
    }

    /// A new version, or why there is none: then the last good one stays.
    pub fn publish(&self, next: Result<Arc<Filter>, ReloadError>) {
        let mut condition = self.lock();
        match next {
            Ok(filter) => {
                self.current.store(Some(filter));
                condition.generation += 1;
                condition.error = None;
            }
            Err(error) => condition.error = Some(error),
        }
    }

    /// What became of the last attempt.
    #[must_use]
    pub fn condition(&self) -> Condition {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Condition> {
        self.condition
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
