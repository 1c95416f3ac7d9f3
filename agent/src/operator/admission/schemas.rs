//! The schemas that modules carry.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OnceCell, Semaphore};
use tracing::warn;
use weft_abi::section::{MODULE, config_schema};
use weft_api::k8s::filter::{Location, ModuleSource};

use crate::filter::Sources;

/// How long a module may take to come, with the wait for its turn.
pub(super) const MODULE_WITHIN: Duration = Duration::from_secs(8);
/// Modules that are read at a time: each may have 64 MiB.
const AT_ONCE: usize = 4;
/// Schemas that are kept, of at most 256 KiB each.
const MAX_KNOWN: usize = 64;

/// Why it is not known of what form a configuration has to be. Details are for the log:
/// they speak of objects that whoever asks may have no right to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unknown {
    /// The module did not come in time.
    #[error("its module did not come within {} s", MODULE_WITHIN.as_secs())]
    Slow,
    /// It cannot be had, or is none.
    #[error("its module cannot be used now")]
    Unusable,
    /// It does not say.
    #[error("its module does not carry its schema (`weft filter build` adds it)")]
    Silent,
}

/// A schema; none where every configuration is taken.
type Schema = Option<Arc<str>>;
/// What one read of a module found, for all who asked meanwhile.
type Reading = OnceCell<Result<Schema, Unknown>>;

/// Reads schemas, and keeps those that cannot change.
pub(super) struct Schemas {
    sources: Sources,
    within: Duration,
    turns: Semaphore,
    readings: Mutex<BTreeMap<ModuleSource, Weak<Reading>>>,
    known: Mutex<Known>,
}

impl Schemas {
    /// Of modules from these sources.
    pub(super) fn new(sources: Sources) -> Self {
        Self {
            sources,
            within: MODULE_WITHIN,
            turns: Semaphore::new(AT_ONCE),
            readings: Mutex::default(),
            known: Mutex::default(),
        }
    }

    /// The schema of a module's configuration; none where every configuration is
    /// taken: a module for proxy-wasm has no schema.
    ///
    /// # Errors
    /// See [`Unknown`].
    pub(super) async fn of(&self, source: &ModuleSource) -> Result<Schema, Unknown> {
        if let Some(known) = locked(&self.known).schemas.get(source) {
            return Ok(known.clone());
        }
        let reading = self.reading(source);
        let read = reading.get_or_init(|| self.read(source));
        let read = tokio::time::timeout(self.within, read).await;
        read.map_err(|_| Unknown::Slow)?.clone()
    }

    /// The read of a module that goes on, or one that begins.
    fn reading(&self, source: &ModuleSource) -> Arc<Reading> {
        let mut readings = locked(&self.readings);
        if let Some(reading) = readings.get(source).and_then(Weak::upgrade) {
            return reading;
        }
        readings.retain(|_, reading| reading.strong_count() > 0);
        let reading = Arc::new(Reading::new());
        readings.insert(source.clone(), Arc::downgrade(&reading));
        reading
    }

    async fn read(&self, source: &ModuleSource) -> Result<Schema, Unknown> {
        let _turn = self.turns.acquire().await.map_err(|_| Unknown::Slow)?;
        let unusable = |error: &dyn std::error::Error| {
            let source = source.location.told();
            warn!(%source, %error, "a configuration is not checked: its module cannot be used");
            Unknown::Unusable
        };
        let module = self.sources.fetch(source).await;
        let module = module.map_err(|error| unusable(&error))?;
        let schema = match config_schema(&module) {
            // Nodes look at a component's alone.
            _ if module.starts_with(&MODULE) => None,
            Ok(Some(schema)) => Some(schema.into()),
            Ok(None) => return Err(Unknown::Silent),
            Err(error) => return Err(unusable(&error)),
        };
        if is_pinned(source) {
            locked(&self.known).insert(source.clone(), schema.clone());
        }
        Ok(schema)
    }
}

/// Schemas that cannot change.
#[derive(Default)]
struct Known {
    schemas: BTreeMap<ModuleSource, Schema>,
    /// The oldest first.
    order: VecDeque<ModuleSource>,
}

impl Known {
    fn insert(&mut self, source: ModuleSource, schema: Schema) {
        if self.schemas.insert(source.clone(), schema).is_some() {
            return;
        }
        self.order.push_back(source);
        if self.order.len() > MAX_KNOWN
            && let Some(oldest) = self.order.pop_front()
        {
            self.schemas.remove(&oldest);
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    use std::pin::pin;

    use futures_util::FutureExt as _;
    use weft_abi::section::{COMPONENT, with_config_schema};
    use weft_api::k8s::filter::Refresh;

    use super::*;
    use crate::filter::digest_of;
    use crate::filter::testing::Site;

    const SCHEMA: &str = r#"{"type": "object"}"#;

    fn file(name: &str, module: Option<&[u8]>) -> ModuleSource {
        ModuleSource {
            location: Location::File(name.to_owned()),
            sha256: module.map(digest_of),
            pull_secret: None,
            refresh: Refresh::Never,
        }
    }

    fn write(site: &Site, name: &str, module: &[u8]) {
        let path = site.dir.path().join("files").join(name);
        std::fs::write(path, module).expect("written");
    }

    #[tokio::test]
    async fn who_comes_while_others_are_read_waits_for_a_turn() {
        let site = Site::new();
        let schemas = Schemas::new(site.sources(&[]));
        let module = with_config_schema(COMPONENT.to_vec(), SCHEMA);
        write(&site, "a.wasm", &module);
        let taken = schemas.turns.try_acquire_many(4).expect("all turns");
        assert_eq!(schemas.turns.available_permits(), 0);
        let source = file("a.wasm", None);
        let mut waiting = pin!(schemas.of(&source));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(taken);
        assert_eq!(waiting.await, Ok(Some(SCHEMA.into())));
    }

    #[tokio::test]
    async fn the_wait_has_an_end() {
        let site = Site::new();
        let mut schemas = Schemas::new(site.sources(&[]));
        schemas.within = Duration::from_millis(10);
        let _taken = schemas.turns.try_acquire_many(4).expect("all turns");
        let read = schemas.of(&file("a.wasm", None)).await;
        assert_eq!(read, Err(Unknown::Slow));
    }

    #[tokio::test]
    async fn who_asks_while_a_module_is_read_has_the_same_of_it() {
        let site = Site::new();
        let schemas = Schemas::new(site.sources(&[]));
        let module = with_config_schema(COMPONENT.to_vec(), SCHEMA);
        write(&site, "a.wasm", &module);
        let source = file("a.wasm", None);
        let taken = schemas.turns.try_acquire_many(4).expect("all turns");
        let mut first = pin!(schemas.of(&source));
        let mut second = pin!(schemas.of(&source));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        drop(taken);
        assert_eq!(first.await, Ok(Some(SCHEMA.into())));
        // It is not read again: it could not be.
        std::fs::remove_file(site.dir.path().join("files/a.wasm")).expect("removed");
        assert_eq!(second.await, Ok(Some(SCHEMA.into())));
        assert_eq!(schemas.of(&source).await, Err(Unknown::Unusable));
    }

    #[tokio::test]
    async fn of_what_is_kept_the_oldest_goes_first() {
        let site = Site::new();
        let schemas = Schemas::new(site.sources(&[]));
        // By name the last one inserted would be the first one.
        let names: Vec<_> = (0..=MAX_KNOWN)
            .map(|number| format!("{:03}.wasm", MAX_KNOWN - number))
            .collect();
        for name in &names {
            write(&site, name, &MODULE);
            let source = file(name, Some(&MODULE));
            assert_eq!(schemas.of(&source).await, Ok(None));
        }
        let known = locked(&schemas.known);
        assert_eq!(known.schemas.len(), MAX_KNOWN);
        assert_eq!(known.order.len(), MAX_KNOWN);
        let kept = |name: &str| known.schemas.contains_key(&file(name, Some(&MODULE)));
        assert!(!kept(&names[0]) && kept(&names[1]));
        assert!(kept(names.last().expect("the last one")));
    }
}
