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

use crate::plan::room::{Claim, give_way};
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
    /// All the room is taken by modules in use, and nobody takes more of it.
    #[error(
        "no room for {size} bytes beside the {used} bytes of modules in use, of {MAX_STORE}: {own} \
         of them are those of the same namespace, and no other one takes more"
    )]
    Full {
        /// Of the new one.
        size: u64,
        /// Of the others.
        used: u64,
        /// Of those of the same namespace.
        own: u64,
    },
    /// The disk.
    #[error("cannot be kept on the node's disk: {0}")]
    Disk(#[from] io::Error),
}

impl Kept {
    /// The modules in use, the namespace on whose account each one is, and its
    /// size. What several have is on account of the one that has least else: to
    /// name what another one needs must not make it give way.
    fn accounts(&self) -> BTreeMap<ModuleDigest, (&str, u64)> {
        let mut accounts = BTreeMap::new();
        let mut takes: BTreeMap<&str, u64> = BTreeMap::new();
        let used = self.in_use.iter();
        let used = used.filter_map(|(digest, of)| Some((digest, of, *self.sizes.get(digest)?)));
        let (own, shared): (Vec<_>, Vec<_>) = used.partition(|(_, of, _)| of.len() <= 1);
        for (digest, of, size) in own.into_iter().chain(shared) {
            let tenants = of.iter().map(|tenant| &**tenant);
            let least = tenants.min_by_key(|one| (takes.get(one).copied(), *one));
            let tenant = least.unwrap_or_default();
            *takes.entry(tenant).or_default() += size;
            accounts.insert(*digest, (tenant, size));
        }
        accounts
    }
}

fn room_of(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
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
    /// The namespaces whose filters name a module.
    in_use: BTreeMap<ModuleDigest, BTreeSet<Box<str>>>,
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

    /// Keeps a module, on account of a namespace. What is not in use gives way to
    /// it, and then what the namespace has that takes most.
    ///
    /// # Errors
    /// When there is no room, or it cannot be written.
    pub fn put(&self, bytes: &[u8], tenant: &str) -> Result<ModuleDigest, StoreError> {
        let digest = digest_of(bytes);
        let mut kept = self.kept();
        let path = self.path(digest);
        if kept.sizes.contains_key(&digest) && path.is_file() {
            return Ok(digest);
        }
        let size = bytes.len() as u64;
        self.make_room(&mut kept, size, tenant)?;
        private::replace(&path, bytes)?;
        kept.sizes.insert(digest, size);
        if !kept.in_use.contains_key(&digest) {
            kept.unused.insert(digest, Instant::now());
        }
        Ok(digest)
    }

    fn make_room(&self, kept: &mut Kept, size: u64, tenant: &str) -> Result<(), StoreError> {
        let accounts = kept.accounts();
        let mut claims: Vec<_> = accounts
            .iter()
            .map(|(digest, (tenant, size))| Claim {
                of: Some(*digest),
                tenant,
                size: room_of(*size),
                new: false,
            })
            .collect();
        claims.push(Claim {
            of: None,
            tenant,
            size: room_of(size),
            new: true,
        });
        let leaving = give_way(&claims, room_of(MAX_STORE));
        if leaving.contains(&None) {
            let of = |own: &dyn Fn(&str) -> bool| {
                let accounts = accounts.values().filter(|(tenant, _)| own(tenant));
                accounts.map(|(_, size)| size).sum()
            };
            return Err(StoreError::Full {
                size,
                used: of(&|_| true),
                own: of(&|one| one == tenant),
            });
        }
        let leaving: Vec<_> = leaving.into_iter().flatten().collect();
        for digest in leaving {
            warn!(%digest, "a module gives way to one of a namespace that has fewer");
            self.remove(kept, digest);
            self.lost.notify_one();
        }
        while kept.sizes.values().sum::<u64>() + size > MAX_STORE {
            let idlest = kept.unused.iter().min_by_key(|(_, since)| **since);
            let Some(idlest) = idlest.map(|(digest, _)| *digest) else {
                break;
            };
            self.remove(kept, idlest);
        }
        Ok(())
    }

    /// Notes what a source stands for now.
    pub fn note(&self, source: &str, digest: ModuleDigest) {
        let mut kept = self.kept();
        if kept.index.insert(source.to_owned(), digest) != Some(digest) {
            self.write_index(&kept);
        }
    }

    /// Forgets what nothing names: these sources are the only ones, and these
    /// modules the only ones in use, by these namespaces.
    pub fn retain(
        &self,
        sources: &BTreeSet<String>,
        in_use: BTreeMap<ModuleDigest, BTreeSet<Box<str>>>,
        now: Instant,
    ) {
        let mut kept = self.kept();
        let known = kept.index.len();
        kept.index.retain(|source, _| sources.contains(source));
        if kept.index.len() != known {
            self.write_index(&kept);
        }
        let Kept { sizes, unused, .. } = &mut *kept;
        unused.retain(|digest, _| !in_use.contains_key(digest));
        for digest in sizes.keys().filter(|digest| !in_use.contains_key(digest)) {
            unused.entry(*digest).or_insert(now);
        }
        let old: Vec<_> = unused
            .iter()
            .filter(|(_, since)| now.saturating_duration_since(**since) > KEPT_UNUSED)
            .map(|(digest, _)| *digest)
            .collect();
        kept.in_use = in_use;
        for digest in old {
            self.remove(&mut kept, digest);
        }
    }

    /// The disk has lost a module: its sources are to be looked at anew.
    fn forget(&self, digest: ModuleDigest) {
        self.remove(&mut self.kept(), digest);
        self.lost.notify_one();
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
        kept.in_use.remove(&digest);
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

    /// Waits until a module that may be in use is gone.
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
        let file = File::open(self.path(digest)).inspect_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                self.forget(digest);
            }
        })?;
        Ok(ModuleFile {
            file,
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
            self.store.forget(self.digest);
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
mod tests;
