//! Modules on this node's disk, by their content, and what each source stood for
//! when it was looked at last: a restart needs nobody to have them again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use tracing::warn;
use weft_core::filter::ModuleDigest;

use crate::private;

/// Most bytes of one module.
pub const MAX_MODULE: usize = 64 << 20;
/// Most bytes of all modules that are kept.
const MAX_STORE: u64 = 1 << 30;
/// How long a module is kept that nothing names any more: a proxy may still ask
/// for it, and what is taken back is there at once.
const KEPT_UNUSED: Duration = Duration::from_secs(24 * 3600);
/// The file beside the modules.
const INDEX: &str = "sources.json";

/// Digest of these bytes.
pub fn digest_of(bytes: &[u8]) -> ModuleDigest {
    ModuleDigest(Sha256::digest(bytes).into())
}

/// Why a module cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// All the room is taken by modules in use.
    #[error("no room for {size} bytes beside the {used} bytes of modules in use, of {MAX_STORE}")]
    Full {
        /// Of the new one.
        size: u64,
        /// Of the others.
        used: u64,
    },
    /// The disk.
    #[error("cannot be kept on the node's disk: {0}")]
    Disk(#[from] io::Error),
}

/// The modules of a node. Clones are the same store.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
    kept: Arc<Mutex<Kept>>,
    lost: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Kept {
    sizes: BTreeMap<ModuleDigest, u64>,
    /// What nothing names, and since when.
    unused: BTreeMap<ModuleDigest, Instant>,
    /// What sources stood for.
    index: BTreeMap<String, ModuleDigest>,
}

impl Store {
    /// Opens the directory, which is made if it is not there.
    ///
    /// # Errors
    /// When it cannot be made or listed.
    pub fn open(directory: PathBuf) -> io::Result<Self> {
        private::directory(&directory)?;
        let mut kept = Kept::default();
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let digest = name.to_str().and_then(ModuleDigest::parse);
            match digest {
                Some(digest) => {
                    kept.sizes.insert(digest, entry.metadata()?.len());
                    kept.unused.insert(digest, Instant::now());
                }
                // What a crash left half-written.
                None if name != INDEX => fs::remove_file(entry.path())?,
                None => {}
            }
        }
        kept.index = read_index(&directory.join(INDEX));
        let known = &kept.sizes;
        kept.index.retain(|_, digest| known.contains_key(digest));
        Ok(Self {
            directory,
            kept: Arc::new(Mutex::new(kept)),
            lost: Arc::default(),
        })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, digest: ModuleDigest) -> PathBuf {
        self.directory.join(digest.to_string())
    }

    /// Whether a module is there.
    pub fn has(&self, digest: ModuleDigest) -> bool {
        self.kept().sizes.contains_key(&digest)
    }

    /// What a source stood for last, if that is still there.
    pub fn last_of(&self, source: &str) -> Option<ModuleDigest> {
        self.kept().index.get(source).copied()
    }

    /// Keeps a module. What is not in use gives way to it.
    ///
    /// # Errors
    /// When there is no room, or it cannot be written.
    pub fn put(&self, bytes: &[u8]) -> Result<ModuleDigest, StoreError> {
        let digest = digest_of(bytes);
        let mut kept = self.kept();
        if kept.sizes.contains_key(&digest) {
            return Ok(digest);
        }
        let size = bytes.len() as u64;
        self.make_room(&mut kept, size)?;
        private::replace(&self.path(digest), bytes)?;
        kept.sizes.insert(digest, size);
        kept.unused.insert(digest, Instant::now());
        Ok(digest)
    }

    fn make_room(&self, kept: &mut Kept, size: u64) -> Result<(), StoreError> {
        loop {
            let all: u64 = kept.sizes.values().sum();
            if all + size <= MAX_STORE {
                return Ok(());
            }
            let idlest = kept.unused.iter().min_by_key(|(_, since)| **since);
            let Some(idlest) = idlest.map(|(digest, _)| *digest) else {
                return Err(StoreError::Full { size, used: all });
            };
            self.remove(kept, idlest);
        }
    }

    /// Notes what a source stands for now.
    pub fn note(&self, source: &str, digest: ModuleDigest) {
        let mut kept = self.kept();
        if kept.index.insert(source.to_owned(), digest) != Some(digest) {
            self.write_index(&kept);
        }
    }

    /// Forgets what nothing names: these sources are the only ones, and these
    /// modules the only ones in use.
    pub fn retain(
        &self,
        sources: &BTreeSet<String>,
        in_use: &BTreeSet<ModuleDigest>,
        now: Instant,
    ) {
        let mut kept = self.kept();
        let known = kept.index.len();
        kept.index.retain(|source, _| sources.contains(source));
        if kept.index.len() != known {
            self.write_index(&kept);
        }
        let Kept { sizes, unused, .. } = &mut *kept;
        unused.retain(|digest, _| !in_use.contains(digest));
        for digest in sizes.keys().filter(|digest| !in_use.contains(digest)) {
            unused.entry(*digest).or_insert(now);
        }
        let old: Vec<_> = unused
            .iter()
            .filter(|(_, since)| now.saturating_duration_since(**since) > KEPT_UNUSED)
            .map(|(digest, _)| *digest)
            .collect();
        for digest in old {
            self.remove(&mut kept, digest);
        }
    }

    fn remove(&self, kept: &mut Kept, digest: ModuleDigest) {
        match fs::remove_file(self.path(digest)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn!(%digest, %error, "a module cannot be removed from the disk");
            }
            _ => {}
        }
        kept.sizes.remove(&digest);
        kept.unused.remove(&digest);
        kept.index.retain(|_, known| *known != digest);
        self.write_index(kept);
    }

    fn write_index(&self, kept: &Kept) {
        let texts: BTreeMap<&String, String> = kept
            .index
            .iter()
            .map(|(source, digest)| (source, digest.to_string()))
            .collect();
        let written = serde_json::to_vec(&texts)
            .map_err(io::Error::from)
            .and_then(|bytes| private::replace(&self.directory.join(INDEX), &bytes));
        if let Err(error) = written {
            warn!(%error, "what modules stand for is not kept on disk");
        }
    }

    /// Waits until the disk has lost a module that was in use.
    pub async fn lost(&self) {
        self.lost.notified().await;
    }

    /// Opens a module, to be read part by part.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when it is not there.
    pub fn read(&self, digest: ModuleDigest) -> io::Result<ModuleFile> {
        if !self.has(digest) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(ModuleFile {
            file: File::open(self.path(digest))?,
            hash: Sha256::new(),
            digest,
            store: self.clone(),
        })
    }
}

/// A module that is being read.
#[derive(Debug)]
pub struct ModuleFile {
    file: File,
    hash: Sha256,
    digest: ModuleDigest,
    store: Store,
}

impl ModuleFile {
    /// The next part, of at most so many bytes; empty at the end.
    ///
    /// # Errors
    /// When the disk does not give back what was written to it: the module is
    /// forgotten then, and fetched anew.
    pub fn part(&mut self, most: usize) -> io::Result<Vec<u8>> {
        let mut part = vec![0; most];
        let length = self.file.read(&mut part)?;
        part.truncate(length);
        self.hash.update(&part);
        let hash = self.hash.clone();
        if part.is_empty() && ModuleDigest(hash.finalize().into()) != self.digest {
            let store = &self.store;
            store.remove(&mut store.kept(), self.digest);
            store.lost.notify_one();
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the module was changed on the disk",
            ));
        }
        Ok(part)
    }
}

/// What cannot be read is no loss: sources are looked at again.
fn read_index(path: &Path) -> BTreeMap<String, ModuleDigest> {
    let texts = fs::read(path)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let texts: BTreeMap<String, String> = texts.unwrap_or_default();
    texts
        .into_iter()
        .filter_map(|(source, digest)| Some((source, ModuleDigest::parse(&digest)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn opened(dir: &tempfile::TempDir) -> Store {
        Store::open(dir.path().join("modules")).expect("opened")
    }

    fn whole(store: &Store, digest: ModuleDigest) -> io::Result<Vec<u8>> {
        let mut file = store.read(digest)?;
        let mut all = Vec::new();
        loop {
            match file.part(4)? {
                part if part.is_empty() => return Ok(all),
                part => all.extend(part),
            }
        }
    }

    #[test]
    fn what_was_kept_is_there_after_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = opened(&dir);
        let digest = store.put(b"a module").expect("kept");
        store.note("file://a", digest);
        store.note("file://b", ModuleDigest([7; 32]));
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&dir.path().join("modules")), 0o700);
        assert_eq!(mode(&store.path(digest)), 0o600);
        fs::write(dir.path().join("modules/half.new"), "x").expect("written");

        let store = opened(&dir);
        assert_eq!(store.last_of("file://a"), Some(digest));
        assert_eq!(store.last_of("file://b"), None, "its module is not there");
        assert_eq!(whole(&store, digest).expect("read"), b"a module");
        assert!(!dir.path().join("modules/half.new").exists());
    }

    #[test]
    fn what_nothing_names_goes_in_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = opened(&dir);
        let used = store.put(b"used").expect("kept");
        let idle = store.put(b"idle").expect("kept");
        store.note("file://used", used);
        store.note("file://idle", idle);
        let sources = BTreeSet::from(["file://used".to_owned()]);
        let now = Instant::now();
        store.retain(&sources, &BTreeSet::from([used]), now);
        assert!(store.has(idle), "a proxy may still ask for it");
        assert_eq!(store.last_of("file://idle"), None);
        let later = now + KEPT_UNUSED + Duration::from_secs(60);
        store.retain(&sources, &BTreeSet::from([used]), later);
        assert!(!store.has(idle) && store.has(used));
        assert!(!store.path(idle).exists());
        assert_eq!(store.last_of("file://used"), Some(used));
    }

    #[test]
    fn what_is_in_use_keeps_its_room() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = opened(&dir);
        let used = store.put(b"used").expect("kept");
        let idle = store.put(b"idle").expect("kept");
        let now = Instant::now();
        store.retain(&BTreeSet::new(), &BTreeSet::from([used]), now);
        // As if it were that large.
        store.kept().sizes.insert(idle, MAX_STORE - 8);
        let new = store.put(b"another").expect("the idle one gives way");
        assert!(!store.has(idle) && store.has(used) && store.has(new));
        store.retain(&BTreeSet::new(), &BTreeSet::from([used, new]), now);
        store.kept().sizes.insert(used, MAX_STORE - 8);
        let full = store.put(b"one more").expect_err("no room");
        assert!(matches!(full, StoreError::Full { .. }), "{full}");
    }

    #[test]
    fn a_module_that_changed_on_disk_is_never_handed_on_as_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = opened(&dir);
        let digest = store.put(b"a module").expect("kept");
        store.note("file://a", digest);
        fs::write(store.path(digest), b"a nodule").expect("written");
        let error = whole(&store, digest).expect_err("noticed");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(!store.has(digest));
        assert_eq!(store.last_of("file://a"), None);
        let none = store.read(digest).expect_err("gone");
        assert_eq!(none.kind(), io::ErrorKind::NotFound);
    }
}
