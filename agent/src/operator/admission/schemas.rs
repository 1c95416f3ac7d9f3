//! The schemas that modules carry.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tracing::warn;
use weft_abi::section::{MODULE, Malformed, config_schema};
use weft_api::k8s::filter::{Location, ModuleSource};

use crate::filter::{Sources, Turn};

/// How long a module is waited for, with the wait for its turn. One that takes longer is
/// read to its end nevertheless: who asks later finds it.
pub(super) const MODULE_WITHIN: Duration = Duration::from_secs(8);
/// Modules that are read at a time. Each may have 128 MiB: a layer of 64 MiB, and a module
/// of as many that is unpacked of it. docs/CONFIGURATION.md states what that comes to.
const AT_ONCE: usize = 2;
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
    #[error(
        "its module does not carry its schema (`weft filter build` adds it, or says why it cannot)"
    )]
    Silent,
    /// What it says can never be read.
    #[error("the schema of its module cannot be read: {0}")]
    Unreadable(Malformed),
}

/// A schema; none where every configuration is taken.
type Schema = Option<Arc<str>>;
/// What a read of a module found; nothing before it has ended.
type Found = Option<Result<Schema, Unknown>>;
/// One read of a module, for all who ask meanwhile.
type Reading = watch::Sender<Found>;
type Readings = BTreeMap<ModuleSource, Weak<Reading>>;

/// Reads schemas, and keeps those that cannot change.
pub(super) struct Schemas {
    reader: Arc<Reader>,
    within: Duration,
}

impl Schemas {
    /// Of modules from these sources.
    pub(super) fn new(sources: Sources) -> Self {
        let reader = Reader {
            sources,
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            readings: Mutex::default(),
            known: Mutex::default(),
        };
        Self {
            reader: Arc::new(reader),
            within: MODULE_WITHIN,
        }
    }

    /// The schema of a module's configuration; none where every configuration is
    /// taken: a module for proxy-wasm has no schema.
    ///
    /// # Errors
    /// See [`Unknown`].
    pub(super) async fn of(&self, source: &ModuleSource) -> Result<Schema, Unknown> {
        let mut reading = {
            // One that ends is known before it is gone from here.
            let mut readings = locked(&self.reader.readings);
            if let Some(known) = locked(&self.reader.known).schemas.get(source) {
                return Ok(known.clone());
            }
            Reader::reading(&self.reader, &mut readings, source)
        };
        let read = tokio::time::timeout(self.within, reading.wait_for(Option::is_some)).await;
        // One that ended without a word did so with the runtime.
        let found = read.ok().and_then(Result::ok);
        let found = found.and_then(|found| found.clone());
        found.unwrap_or(Err(Unknown::Slow))
    }
}

/// Reads modules, whether somebody waits for them or not.
struct Reader {
    sources: Sources,
    turns: Arc<Semaphore>,
    readings: Mutex<Readings>,
    known: Mutex<Known>,
}

impl Reader {
    /// The read of a module that goes on, or one that begins.
    fn reading(
        reader: &Arc<Self>,
        readings: &mut Readings,
        source: &ModuleSource,
    ) -> watch::Receiver<Found> {
        if let Some(reading) = readings.get(source).and_then(Weak::upgrade) {
            return reading.subscribe();
        }
        let (reading, receiver) = watch::channel(None);
        let reading = Arc::new(reading);
        readings.insert(source.clone(), Arc::downgrade(&reading));
        let (reader, source) = (Arc::clone(reader), source.clone());
        tokio::spawn(async move { reader.read(&source, &reading).await });
        receiver
    }

    /// Reads a module, unless nobody waits for it any more when its turn comes: those who
    /// ask for many that are slow would otherwise have all others wait behind them.
    async fn read(&self, source: &ModuleSource, reading: &Reading) {
        let Some(turn) = self.turn(source, reading).await else {
            return;
        };
        let read = self.schema(source, turn).await;
        let mut readings = locked(&self.readings);
        if let Ok(schema) = &read
            && is_pinned(source)
        {
            locked(&self.known).insert(source.clone(), schema.clone());
        }
        // Whoever comes now reads what is there now.
        readings.remove(source);
        reading.send_replace(Some(read));
    }

    async fn turn(&self, source: &ModuleSource, reading: &Reading) -> Option<OwnedSemaphorePermit> {
        let turn = Arc::clone(&self.turns).acquire_owned();
        tokio::pin!(turn);
        loop {
            tokio::select! {
                turn = &mut turn => return turn.ok(),
                () = reading.closed() => {
                    let mut readings = locked(&self.readings);
                    // Somebody may have come just now.
                    if reading.receiver_count() == 0 {
                        readings.remove(source);
                        return None;
                    }
                }
            }
        }
    }

    async fn schema(
        &self,
        source: &ModuleSource,
        turn: OwnedSemaphorePermit,
    ) -> Result<Schema, Unknown> {
        let unusable = |error: &dyn std::error::Error| {
            let source = source.location.told();
            warn!(%source, %error, "a configuration is not checked: its module cannot be used");
            Unknown::Unusable
        };
        let turn = Turn::from(turn);
        let module = self.sources.fetch_in_turn(source, turn.clone()).await;
        let module = module.map_err(|error| unusable(&error))?;
        match config_schema(&module) {
            // Nodes look at a component's alone.
            _ if module.starts_with(&MODULE) => Ok(None),
            Ok(Some(schema)) => Ok(Some(schema.into())),
            Ok(None) => Err(Unknown::Silent),
            Err(error @ (Malformed::NoModule | Malformed::Sections)) => Err(unusable(&error)),
            Err(error @ (Malformed::Twice | Malformed::TooLong | Malformed::NoText)) => {
                Err(Unknown::Unreadable(error))
            }
        }
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
pub(super) fn is_pinned(source: &ModuleSource) -> bool {
    let image = match &source.location {
        Location::Oci(reference) => reference.digest.is_some(),
        Location::File(_) | Location::ConfigMap { .. } | Location::Https(_) => false,
    };
    image || source.sha256.is_some()
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use axum::routing::get;
    use futures_util::FutureExt as _;
    use weft_abi::section::{COMPONENT, with_config_schema};
    use weft_api::k8s::filter::Refresh;

    use super::*;
    use crate::filter::digest_of;
    use crate::filter::testing::Site;

    /// Nothing here takes longer unless it is broken.
    const DEADLINE: Duration = Duration::from_secs(20);
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
        let taken = schemas.reader.turns.try_acquire_many(2).expect("all turns");
        assert_eq!(schemas.reader.turns.available_permits(), 0);
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
        let taken = schemas.reader.turns.try_acquire_many(2).expect("all turns");
        let read = schemas.of(&file("a.wasm", None)).await;
        assert_eq!(read, Err(Unknown::Slow));
        // Nobody waits for it: it does not wait for a turn either.
        let gone = async {
            while !locked(&schemas.reader.readings).is_empty() {
                tokio::task::yield_now().await;
            }
        };
        let gone = tokio::time::timeout(DEADLINE, gone).await;
        gone.expect("in time");
        drop(taken);
        assert_eq!(schemas.reader.turns.available_permits(), 2);
    }

    #[tokio::test]
    async fn what_takes_longer_is_read_to_its_end_and_once() {
        let site = Site::new();
        let module = with_config_schema(COMPONENT.to_vec(), SCHEMA);
        let (open, asked) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let answer = {
            let (module, open, asked) = (module.clone(), Arc::clone(&open), Arc::clone(&asked));
            move || async move {
                asked.fetch_add(1, Ordering::Relaxed);
                let _open = open.acquire().await.expect("it opens");
                module
            }
        };
        let at = site
            .serve(Router::new().route("/a.wasm", get(answer)))
            .await;
        let source = ModuleSource {
            location: Location::Https(format!("https://{at}/a.wasm")),
            ..file("", Some(&module))
        };
        let mut schemas = Schemas::new(site.sources(&[]));
        schemas.within = Duration::from_millis(10);
        assert_eq!(schemas.of(&source).await, Err(Unknown::Slow));
        assert_eq!(schemas.reader.turns.available_permits(), AT_ONCE - 1);
        open.add_permits(1);
        schemas.within = DEADLINE;
        for _ in 0..2 {
            assert_eq!(schemas.of(&source).await, Ok(Some(SCHEMA.into())));
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert_eq!(schemas.reader.turns.available_permits(), AT_ONCE);
    }

    #[tokio::test]
    async fn who_asks_while_a_module_is_read_has_the_same_of_it() {
        let site = Site::new();
        let schemas = Schemas::new(site.sources(&[]));
        let module = with_config_schema(COMPONENT.to_vec(), SCHEMA);
        write(&site, "a.wasm", &module);
        let source = file("a.wasm", None);
        let taken = schemas.reader.turns.try_acquire_many(2).expect("all turns");
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
        let known = locked(&schemas.reader.known);
        assert_eq!(known.schemas.len(), MAX_KNOWN);
        assert_eq!(known.order.len(), MAX_KNOWN);
        let kept = |name: &str| known.schemas.contains_key(&file(name, Some(&MODULE)));
        assert!(!kept(&names[0]) && kept(&names[1]));
        assert!(kept(names.last().expect("the last one")));
    }
}
