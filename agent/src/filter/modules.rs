//! What each source stands for, and when to look again: plain state, which is
//! told the time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use weft_api::k8s::filter::{Location, ModuleSource, Refresh};
use weft_core::filter::ModuleDigest;

use super::fetch::{Found, Stamp};
use super::store::Store;

/// Files are looked at this often: a look is a few system calls.
const FILES: Duration = Duration::from_secs(2);
/// First and longest wait after a failure.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_LAST: Duration = Duration::from_secs(300);
/// How many sources are looked at at once.
const AT_ONCE: usize = 4;

/// The sources that filters name.
pub struct Modules {
    store: Store,
    /// Between two looks at what may stand for something else later.
    refresh: Duration,
    entries: BTreeMap<ModuleSource, Entry>,
}

#[derive(Debug, Default)]
struct Entry {
    /// Something on this node is to have it.
    needed: bool,
    digest: Option<ModuleDigest>,
    error: Option<String>,
    /// In a row.
    failures: u32,
    /// When to look; not while it is looked at.
    due: Option<Instant>,
    running: bool,
    /// It was to be looked at while it was.
    again: bool,
    stamp: Option<Stamp>,
}

impl Modules {
    /// No sources yet.
    pub fn new(store: Store, refresh: Duration) -> Self {
        Self {
            store,
            refresh,
            entries: BTreeMap::new(),
        }
    }

    /// These are the sources from now on, and those that are needed on this node
    /// are looked at. What others stood for last is known all the same.
    pub fn want(&mut self, wanted: &BTreeMap<ModuleSource, bool>, now: Instant) {
        self.entries.retain(|source, _| wanted.contains_key(source));
        for (source, needed) in wanted {
            let store = &self.store;
            let entry = self.entries.entry(source.clone()).or_insert_with(|| Entry {
                digest: store.last_of(&key_of(source)),
                ..Entry::default()
            });
            let settled = entry.digest.is_some() && is_fixed(source);
            if *needed && !entry.needed && !settled {
                entry.look(now);
            }
            if !*needed {
                entry.due = None;
                entry.error = None;
            }
            entry.needed = *needed;
        }
        self.retain(now);
    }

    fn retain(&self, now: Instant) {
        let sources: BTreeSet<_> = self.entries.keys().map(key_of).collect();
        let in_use: BTreeSet<_> = self.entries.values().filter_map(|one| one.digest).collect();
        self.store.retain(&sources, &in_use, now);
    }

    /// A ConfigMap changed.
    pub fn map_changed(&mut self, namespace: &str, name: &str, now: Instant) {
        let is = |source: &ModuleSource| match &source.location {
            Location::ConfigMap {
                namespace: of,
                name: map,
                ..
            } => of == namespace && map == name,
            _ => false,
        };
        let of_map = self.entries.iter_mut().filter(|(source, _)| is(source));
        for (_, entry) in of_map.filter(|(_, entry)| entry.needed) {
            entry.look(now);
        }
    }

    /// The store has lost a module: sources are looked at anew.
    pub fn lost(&mut self, now: Instant) {
        for entry in self.entries.values_mut() {
            if entry.digest.is_some_and(|digest| !self.store.has(digest)) {
                entry.digest = None;
                entry.stamp = None;
                if entry.needed {
                    entry.look(now);
                }
            }
        }
    }

    /// The ConfigMaps that are named: namespaces and names.
    pub fn maps(&self) -> BTreeSet<(String, String)> {
        let maps = self
            .entries
            .keys()
            .filter_map(|source| match &source.location {
                Location::ConfigMap {
                    namespace, name, ..
                } => Some((namespace.clone(), name.clone())),
                _ => None,
            });
        maps.collect()
    }

    /// When something is due next.
    pub fn due(&self) -> Option<Instant> {
        let running = self.entries.values().filter(|entry| entry.running).count();
        let dues = self.entries.values().filter_map(|entry| entry.due);
        dues.min().filter(|_| running < AT_ONCE)
    }

    /// Starts what is due.
    pub fn start(&mut self, now: Instant) -> Vec<(ModuleSource, Option<Stamp>)> {
        let running = self.entries.values().filter(|entry| entry.running).count();
        let is_due = |entry: &Entry| entry.due.is_some_and(|due| due <= now);
        let due = self.entries.iter_mut().filter(|(_, entry)| is_due(entry));
        let started = due.take(AT_ONCE.saturating_sub(running));
        let started = started.map(|(source, entry)| {
            entry.due = None;
            entry.running = true;
            (source.clone(), entry.stamp)
        });
        started.collect()
    }

    /// A look has ended.
    pub fn ended(&mut self, source: &ModuleSource, found: Result<Found, String>, now: Instant) {
        let Some(entry) = self.entries.get_mut(source) else {
            return;
        };
        entry.running = false;
        match found {
            Ok(found) => {
                entry.failures = 0;
                entry.error = None;
                if let Found::Module(digest, stamp) = found {
                    entry.digest = Some(digest);
                    entry.stamp = stamp;
                    self.store.note(&key_of(source), digest);
                }
                entry.due = match (&source.location, source.refresh) {
                    (Location::File(_), _) => Some(now + FILES),
                    (Location::ConfigMap { .. }, _) | (_, Refresh::Never) => None,
                    (_, Refresh::Periodic) => Some(now + self.refresh),
                };
            }
            Err(error) => {
                entry.error = Some(format!("{}: {error}", source.location));
                let longest = match &source.location {
                    Location::File(_) => FILES,
                    _ => BACKOFF_LAST,
                };
                let wait = BACKOFF_FIRST.saturating_mul(1 << entry.failures.min(16));
                entry.failures += 1;
                entry.due = Some(now + wait.min(longest));
            }
        }
        if std::mem::take(&mut entry.again) {
            entry.due = Some(now);
        }
        if !entry.needed {
            entry.due = None;
        }
        self.retain(now);
    }

    /// What a source stands for on this node, and what is wrong with it.
    pub fn state(&self, source: &ModuleSource) -> (Option<ModuleDigest>, Option<&str>) {
        self.entries
            .get(source)
            .map_or((None, None), |entry| (entry.digest, entry.error.as_deref()))
    }
}

impl Entry {
    fn look(&mut self, now: Instant) {
        match self.running {
            true => self.again = true,
            false => self.due = Some(now),
        }
    }
}

/// Whether it stands for the same for ever.
fn is_fixed(source: &ModuleSource) -> bool {
    match &source.location {
        Location::File(_) | Location::ConfigMap { .. } => false,
        Location::Https(_) | Location::Oci(_) => source.refresh == Refresh::Never,
    }
}

/// What a source is called on disk. What a login opened is not known to those
/// who do not have it.
fn key_of(source: &ModuleSource) -> String {
    let mut key = source.location.to_string();
    if let Some((namespace, name)) = &source.pull_secret {
        key.push_str(&format!(" secret={namespace}/{name}"));
    }
    if let Some(digest) = source.sha256 {
        key.push_str(&format!(" sha256={digest}"));
    }
    key
}

#[cfg(test)]
mod tests {
    use weft_api::k8s::filter::OciReference;

    use super::*;

    struct Rig {
        modules: Modules,
        store: Store,
        now: Instant,
        _dir: tempfile::TempDir,
    }

    impl Rig {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let store = Store::open(dir.path().join("modules")).expect("opened");
            Self {
                modules: Modules::new(store.clone(), Duration::from_secs(600)),
                store,
                now: Instant::now(),
                _dir: dir,
            }
        }

        fn want(&mut self, sources: &[&ModuleSource]) {
            let wanted = sources.iter().map(|source| ((*source).clone(), true));
            self.modules.want(&wanted.collect(), self.now);
        }

        /// How long until the next look; none when nothing is due.
        fn wait(&self) -> Option<Duration> {
            let due = self.modules.due()?;
            Some(due.saturating_duration_since(self.now))
        }

        fn start(&mut self) -> Vec<ModuleSource> {
            self.now += self.wait().unwrap_or_default();
            let started = self.modules.start(self.now);
            started.into_iter().map(|(source, _)| source).collect()
        }

        /// This is looked at now, and nothing else.
        fn starts(&mut self, source: &ModuleSource) {
            let started = self.start();
            assert!(
                matches!(&started[..], [only] if only == source),
                "{started:?}"
            );
        }

        fn find(&mut self, source: &ModuleSource, content: &[u8]) -> ModuleDigest {
            let digest = self.store.put(content).expect("kept");
            let found = Ok(Found::Module(digest, None));
            self.modules.ended(source, found, self.now);
            digest
        }

        fn fail(&mut self, source: &ModuleSource) {
            let failed = Err("gone".to_owned());
            self.modules.ended(source, failed, self.now);
        }
    }

    fn source(location: Location, refresh: Refresh) -> ModuleSource {
        ModuleSource {
            location,
            sha256: None,
            pull_secret: None,
            refresh,
        }
    }

    fn image(tag: &str, refresh: Refresh) -> ModuleSource {
        let reference = OciReference {
            registry: "registry.example".into(),
            repository: "jwt".into(),
            tag: Some(tag.into()),
            digest: None,
        };
        source(Location::Oci(reference), refresh)
    }

    #[test]
    fn failures_are_tried_again_ever_later_and_leave_what_there_was() {
        let mut rig = Rig::new();
        let image = image("latest", Refresh::Periodic);
        rig.want(&[&image]);
        let mut waits = Vec::new();
        for _ in 0..12 {
            rig.starts(&image);
            assert_eq!(rig.wait(), None, "it runs");
            rig.fail(&image);
            waits.push(rig.wait().expect("again").as_secs());
        }
        assert_eq!(waits[..4], [1, 2, 4, 8]);
        assert_eq!(waits[11], 300);
        let (none, told) = rig.modules.state(&image);
        assert_eq!(none, None);
        assert_eq!(told, Some("oci://registry.example/jwt:latest: gone"));

        rig.start();
        let digest = rig.find(&image, b"one");
        assert_eq!(rig.modules.state(&image), (Some(digest), None));
        assert_eq!(rig.wait(), Some(Duration::from_secs(600)));
        rig.start();
        rig.fail(&image);
        let (still, told) = rig.modules.state(&image);
        assert_eq!(still, Some(digest));
        assert!(told.is_some());
        assert_eq!(rig.wait(), Some(Duration::from_secs(1)), "it begins anew");
    }

    #[test]
    fn what_cannot_change_is_looked_at_once() {
        let mut rig = Rig::new();
        let fixed = image("1", Refresh::Never);
        rig.want(&[&fixed]);
        rig.start();
        let digest = rig.find(&fixed, b"one");
        assert_eq!(rig.wait(), None);
        // After a restart it is there at once.
        rig.modules = Modules::new(rig.store.clone(), Duration::from_secs(600));
        rig.want(&[&fixed]);
        assert_eq!(rig.modules.state(&fixed), (Some(digest), None));
        assert_eq!(rig.wait(), None);
        rig.store.put(b"other").expect("kept");
        rig.want(&[]);
        rig.want(&[&fixed]);
        assert_eq!(
            rig.modules.state(&fixed),
            (None, None),
            "forgotten with its filter"
        );
    }

    #[test]
    fn files_and_maps_are_watched() {
        let mut rig = Rig::new();
        let file = source(Location::File("a.wasm".into()), Refresh::Never);
        let map = Location::ConfigMap {
            namespace: "shop".into(),
            name: "filters".into(),
            key: "a.wasm".into(),
        };
        let map = source(map, Refresh::Never);
        rig.want(&[&file, &map]);
        assert_eq!(rig.start().len(), 2);
        let both = [("shop".to_owned(), "filters".to_owned())];
        assert_eq!(rig.modules.maps(), BTreeSet::from(both));
        // It changes while it is read: it is read again.
        rig.modules.map_changed("shop", "filters", rig.now);
        rig.find(&map, b"map");
        assert_eq!(rig.wait(), Some(Duration::ZERO));
        rig.starts(&map);
        rig.find(&map, b"map");
        assert_eq!(rig.wait(), None);
        rig.modules.map_changed("bank", "filters", rig.now);
        assert_eq!(rig.wait(), None);
        rig.modules.map_changed("shop", "filters", rig.now);
        rig.starts(&map);
        rig.find(&map, b"map");

        let digest = rig.find(&file, b"file");
        assert_eq!(rig.wait(), Some(FILES));
        rig.starts(&file);
        rig.modules.ended(&file, Ok(Found::Same), rig.now);
        assert_eq!(rig.modules.state(&file), (Some(digest), None));
        for _ in 0..9 {
            rig.start();
            rig.fail(&file);
        }
        assert_eq!(rig.wait(), Some(FILES), "a file that is missing may come");
    }

    #[test]
    fn only_what_the_node_needs_is_looked_at_and_not_everything_at_once() {
        let mut rig = Rig::new();
        let images: Vec<_> = (0..6)
            .map(|tag| image(&tag.to_string(), Refresh::Never))
            .collect();
        let needed = images
            .iter()
            .map(|image| (image.clone(), *image != images[0]));
        rig.modules.want(&needed.collect(), rig.now);
        let first = rig.start();
        assert_eq!(first, images[1..5]);
        assert_eq!((rig.start(), rig.wait()), (vec![], None));
        rig.fail(&images[1]);
        assert_eq!(rig.start(), [images[5].clone()]);
        let none = images.iter().map(|image| (image.clone(), false));
        rig.modules.want(&none.collect(), rig.now);
        for image in &images[2..] {
            rig.find(image, b"late");
        }
        assert_eq!(rig.wait(), None);
    }

    #[test]
    fn what_the_disk_lost_is_fetched_again() {
        let mut rig = Rig::new();
        let fixed = image("1", Refresh::Never);
        rig.want(&[&fixed]);
        rig.start();
        let digest = rig.find(&fixed, b"one");
        rig.modules.lost(rig.now);
        assert_eq!(rig.wait(), None, "it is there");
        let path = rig._dir.path().join("modules").join(digest.to_string());
        std::fs::write(path, "two").expect("written");
        let mut file = rig.store.read(digest).expect("opened");
        while file.part(1).is_ok() {}
        rig.modules.lost(rig.now);
        assert_eq!(rig.modules.state(&fixed), (None, None));
        assert_eq!(rig.start(), [fixed]);
    }
}
