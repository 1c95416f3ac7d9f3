//! The last valid version of each policy object, on disk, so that a restart of
//! the agent does not drop a policy whose newest version is broken. For root
//! only: header matches may hold secrets.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::warn;
use weft_core::policy::PolicyKind;

use super::{Keep, PolicyId};
use crate::private;
use crate::state::ObjectKey;

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("last good policies in {path}: {source}")]
pub struct LastGoodError {
    path: PathBuf,
    source: io::Error,
}

/// A valid version of a policy object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// Uid of the object.
    pub uid: String,
    /// The object.
    pub object: Value,
}

#[derive(Serialize, Deserialize)]
struct File {
    kind: PolicyKind,
    namespace: String,
    name: String,
    #[serde(flatten)]
    saved: Saved,
}

/// The directory in which valid versions are kept, one file each.
#[derive(Debug, Clone)]
pub struct LastGood {
    directory: PathBuf,
}

impl LastGood {
    /// Opens the directory, made if it does not exist, and reads it. A file
    /// that cannot be read is left out: the object may well be valid now.
    ///
    /// # Errors
    /// When the directory itself cannot be made or listed.
    pub fn open(directory: PathBuf) -> Result<(Self, BTreeMap<PolicyId, Saved>), LastGoodError> {
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
                Ok(file) => {
                    let key = ObjectKey::new(file.namespace, file.name);
                    found.insert((file.kind, key), file.saved);
                }
                Err(error) => warn!(path = %path.display(), %error, "last good policy unreadable"),
            }
        }
        Ok((Self { directory }, found))
    }

    /// Writes a change.
    ///
    /// # Errors
    /// When the file cannot be written; the one before it is intact then.
    pub fn keep(&self, change: &Keep) -> io::Result<()> {
        match change {
            Keep::Save(id, saved) => {
                let file = File {
                    kind: id.0,
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
    fn path(&self, (kind, key): &PolicyId) -> PathBuf {
        let name = format!("{kind}_{}_{}.json", key.namespace, key.name);
        self.directory.join(name)
    }
}

fn read(path: &Path) -> io::Result<File> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}
