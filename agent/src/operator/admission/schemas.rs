//! The schemas that modules carry.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use weft_abi::section::{COMPONENT, Malformed, config_schema};
use weft_api::k8s::filter::{Location, ModuleSource};

use crate::filter::{FetchError, Sources};

/// How long a module may take to come.
pub(super) const LONGEST: Duration = Duration::from_secs(8);
/// Modules that are read at a time: each may have 64 MiB.
const AT_ONCE: usize = 4;
/// Schemas that are kept, of at most 256 KiB each.
const MAX_KNOWN: usize = 64;

/// Why it is not known of what form a configuration has to be.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unknown {
    /// Too many are asked for.
    #[error("too many filters are applied at once")]
    Busy,
    /// The module did not come in time.
    #[error("its module did not come within {} s", LONGEST.as_secs())]
    Slow,
    /// It cannot be had. Why is not for whoever asks: it speaks of objects that they
    /// may have no right to see.
    #[error("its module cannot be read now")]
    Unread(#[source] FetchError),
    /// It is no module.
    #[error("its module cannot be used: {0}")]
    Malformed(#[from] Malformed),
    /// It does not say.
    #[error("its module does not carry its schema (`weft filter build` adds it)")]
    Silent,
}

/// Reads schemas, and keeps those that cannot change.
pub(super) struct Schemas {
    sources: Sources,
    turns: Semaphore,
    known: Mutex<BTreeMap<ModuleSource, Option<Arc<str>>>>,
}

impl Schemas {
    /// Of modules from these sources.
    pub(super) fn new(sources: Sources) -> Self {
        Self {
            sources,
            turns: Semaphore::new(AT_ONCE),
            known: Mutex::default(),
        }
    }

    /// The schema of a module's configuration; none where every configuration is
    /// taken: a module for proxy-wasm has no schema.
    ///
    /// # Errors
    /// See [`Unknown`].
    pub(super) async fn of(&self, source: &ModuleSource) -> Result<Option<Arc<str>>, Unknown> {
        if let Some(known) = self.known().get(source) {
            return Ok(known.clone());
        }
        let _turn = self.turns.try_acquire().map_err(|_| Unknown::Busy)?;
        let module = tokio::time::timeout(LONGEST, self.sources.fetch(source)).await;
        let module = module.map_err(|_| Unknown::Slow)?.map_err(Unknown::Unread)?;
        let schema = carried(&module)?;
        if is_pinned(source) {
            let mut known = self.known();
            if known.len() >= MAX_KNOWN {
                known.pop_first();
            }
            known.insert(source.clone(), schema.clone());
        }
        Ok(schema)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<ModuleSource, Option<Arc<str>>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The schema that a module carries.
fn carried(module: &[u8]) -> Result<Option<Arc<str>>, Unknown> {
    match config_schema(module)? {
        Some(schema) => Ok(Some(schema.into())),
        None if module.starts_with(&COMPONENT) => Err(Unknown::Silent),
        None => Ok(None),
    }
}

/// Whether a source always stands for the same module.
fn is_pinned(source: &ModuleSource) -> bool {
    let image = match &source.location {
        Location::Oci(reference) => reference.digest.is_some(),
        Location::File(_) | Location::ConfigMap { .. } | Location::Https(_) => false,
    };
    image || source.sha256.is_some()
}

#[cfg(test)]
mod tests {
    use weft_api::k8s::filter::Refresh;

    use super::*;
    use crate::filter::testing::Site;

    #[tokio::test]
    async fn so_many_modules_are_read_at_a_time_and_no_more() {
        let site = Site::new();
        let schemas = Schemas::new(site.sources(&[]));
        let source = ModuleSource {
            location: Location::File("a.wasm".to_owned()),
            sha256: None,
            pull_secret: None,
            refresh: Refresh::Never,
        };
        let taken: Vec<_> = (0..AT_ONCE).map(|_| schemas.turns.try_acquire()).collect();
        assert!(taken.iter().all(Result::is_ok));
        assert!(matches!(schemas.of(&source).await, Err(Unknown::Busy)));
        drop(taken);
        assert!(matches!(schemas.of(&source).await, Err(Unknown::Unread(_))));
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded() {
        let site = Site::new();
        let schemas = Schemas::new(site.sources(&[]));
        let module = b"\0asm\x01\0\0\0";
        for number in 0..=MAX_KNOWN {
            let name = format!("{number}.wasm");
            std::fs::write(site.dir.path().join("files").join(&name), module).expect("written");
            let source = ModuleSource {
                location: Location::File(name),
                sha256: Some(crate::filter::digest_of(module)),
                pull_secret: None,
                refresh: Refresh::Never,
            };
            assert!(matches!(schemas.of(&source).await, Ok(None)));
        }
        assert_eq!(schemas.known().len(), MAX_KNOWN);
    }
}
