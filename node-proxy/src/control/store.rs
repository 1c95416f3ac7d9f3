//! The last good snapshot on disk: what the proxy starts from while the agent
//! is away.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use weft_api::node::Snapshot;

const NAME: &str = "snapshot.json";

/// Why a file is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It is not JSON of a snapshot.
    #[error("{}: {error}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why not.
        error: serde_json::Error,
    },
}

/// Where the last good snapshot is kept.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
}

impl Store {
    /// Keeps it in this directory, which is made when it is first needed.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Replaces the stored snapshot. A process that dies leaves the old one or
    /// the new one, never a part of either.
    ///
    /// Nothing waits for the disk: what the snapshot protects is in the
    /// kernel's maps, which no machine that goes down keeps, and the agent
    /// closes ports while it waits for this. What a crash of the machine may
    /// leave of a file is no JSON, and is not used.
    ///
    /// # Errors
    /// What the file system says; the old one stays then.
    pub fn save(&self, snapshot: &Snapshot) -> io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)?;
        let path = self.directory.join(NAME);
        let temporary = self.directory.join(format!("{NAME}.new"));
        // Rules may hold secrets: the values that headers are to have.
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        let mut file = io::BufWriter::new(file);
        serde_json::to_writer(&mut file, snapshot)?;
        file.flush()?;
        fs::rename(&temporary, &path)
    }

    /// The stored snapshot, or `None` when none was stored yet.
    ///
    /// # Errors
    /// A file that is there but cannot be used.
    pub fn load(&self) -> Result<Option<Snapshot>, LoadError> {
        let path = self.directory.join(NAME);
        if !path.exists() {
            return Ok(None);
        }
        load(&path).map(Some)
    }
}

/// Reads a snapshot in proto3 JSON.
///
/// # Errors
/// A file that cannot be read or is no snapshot; says where.
pub fn load(path: &Path) -> Result<Snapshot, LoadError> {
    let text = fs::read(path).map_err(|error| LoadError::Read {
        path: path.to_owned(),
        error,
    })?;
    serde_json::from_slice(&text).map_err(|error| LoadError::Parse {
        path: path.to_owned(),
        error,
    })
}

#[cfg(test)]
mod tests {
    use weft_api::node::Snapshot;

    use super::{LoadError, NAME, Store};

    #[test]
    fn what_was_saved_is_loaded() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let store = Store::new(directory.path().join("state"));
        assert!(store.load().expect("empty").is_none());
        for version in ["1", "2"] {
            let snapshot = Snapshot {
                version: version.into(),
                ..Default::default()
            };
            store.save(&snapshot).expect("saved");
            assert_eq!(store.load().expect("stored"), Some(snapshot));
        }
    }

    #[test]
    fn a_damaged_file_is_an_error_and_not_an_empty_snapshot() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let store = Store::new(directory.path().to_owned());
        std::fs::write(directory.path().join(NAME), "{\"version\": ").expect("written");
        assert!(matches!(store.load(), Err(LoadError::Parse { .. })));
    }
}
