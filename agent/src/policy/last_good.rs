//! The last good version of each object of some kinds, on disk, so that a restart
//! of the agent does not drop a policy whose newest version is broken, or a filter.
//! For root only: header matches and configurations may hold secrets.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tracing::warn;
use weft_core::policy::PolicyKind;

use crate::private;
use crate::state::ObjectKey;

/// Kinds of objects that are kept.
pub trait KeptKind: Copy + Ord + fmt::Debug {
    /// As manifests write it.
    fn name(self) -> &'static str;

    /// The kind that manifests write so.
    fn from_name(name: &str) -> Option<Self>;
}

impl KeptKind for PolicyKind {
    fn name(self) -> &'static str {
        self.as_str()
    }

    fn from_name(name: &str) -> Option<Self> {
        let kinds = [
            Self::CiliumNetworkPolicy,
            Self::CiliumClusterwideNetworkPolicy,
        ];
        kinds.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// A change of what is kept on disk.
#[derive(Debug, Clone, PartialEq)]
pub enum Keep<K = PolicyKind> {
    /// The object's newest good version.
    Save((K, ObjectKey), Saved),
    /// The object is gone.
    Forget((K, ObjectKey)),
}

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("last good versions in {path}: {source}")]
pub struct LastGoodError {
    path: PathBuf,
    source: io::Error,
}

/// A good version of an object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// Uid of the object.
    pub uid: String,
    /// The object.
    pub object: Value,
}

#[derive(Serialize, Deserialize)]
struct File {
    kind: String,
    namespace: String,
    name: String,
    #[serde(flatten)]
    saved: Saved,
}

/// The directory in which good versions are kept, one file each.
#[derive(Debug, Clone)]
pub struct LastGood<K = PolicyKind> {
    directory: PathBuf,
    kinds: PhantomData<K>,
}

/// What was kept.
pub type Kept<K> = BTreeMap<(K, ObjectKey), Saved>;

impl<K: KeptKind> LastGood<K> {
    /// Opens the directory, made if it does not exist, and reads it. A file
    /// that cannot be read is left out: the object may well be valid now.
    ///
    /// # Errors
    /// When the directory itself cannot be made or listed.
    pub fn open(directory: PathBuf) -> Result<(Self, Kept<K>), LastGoodError> {
        let failed = |source| LastGoodError {
            path: directory.clone(),
            source,
        };
        private::directory(&directory).map_err(failed)?;
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            match read(&path) {
                Ok((kind, file)) => {
                    let key = ObjectKey::new(file.namespace, file.name);
                    found.insert((kind, key), file.saved);
                }
                Err(error) => warn!(path = %path.display(), %error, "last good version unreadable"),
            }
        }
        let kinds = PhantomData;
        Ok((Self { directory, kinds }, found))
    }

    /// Writes a change.
    ///
    /// # Errors
    /// When the file cannot be written; the one before it is intact then.
    pub fn keep(&self, change: &Keep<K>) -> io::Result<()> {
        match change {
            Keep::Save(id, saved) => {
                let file = File {
                    kind: id.0.name().to_owned(),
                    namespace: id.1.namespace.clone(),
                    name: id.1.name.clone(),
                    saved: saved.clone(),
                };
                private::replace(&self.path(id), &serde_json::to_vec(&file)?)
            }
            Keep::Forget(id) => match fs::remove_file(self.path(id)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        }
    }

    /// Kubernetes names hold no `_`, so the parts cannot run into each other.
    fn path(&self, (kind, key): &(K, ObjectKey)) -> PathBuf {
        let mut name = format!("{}_{}_{}", kind.name(), key.namespace, key.name);
        if name.len() > LONGEST {
            let digest = Sha256::digest(&name);
            name.truncate(LONGEST);
            for byte in digest {
                // Into memory, which never fails.
                let _written = write!(name, "{byte:02x}");
            }
        }
        self.directory.join(format!("{name}.json"))
    }
}

/// Bytes of a file's name, which may have 255 with what is put behind: what is longer goes on as a
/// digest.
const LONGEST: usize = 150;

fn read<K: KeptKind>(path: &Path) -> io::Result<(K, File)> {
    let file: File = serde_json::from_slice(&fs::read(path)?)?;
    let kind = K::from_name(&file.kind);
    let kind = kind.ok_or_else(|| io::Error::other(format!("kind {}", file.kind)))?;
    Ok((kind, file))
}
