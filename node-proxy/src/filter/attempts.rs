//! Modules that are being loaded, on disk: one that ends the whole process, be it
//! for lack of memory, is loaded again when that comes back. That has an end.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use weft_wasm_host::{Digest, LoadError};

use super::modules::write;

/// A module that the process ended over so many times is let alone, for so long:
/// something else may have been to blame.
const ATTEMPTS: u32 = 3;
const LET_ALONE: Duration = Duration::from_secs(60 * 60);

/// A file for each of them, with the number of times.
#[derive(Debug)]
pub struct Attempts {
    folder: Option<PathBuf>,
}

impl Attempts {
    /// In this folder, if they are noted anywhere.
    #[must_use]
    pub const fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    pub(super) const fn folder(&self) -> &Option<PathBuf> {
        &self.folder
    }

    /// A module is going to be loaded.
    ///
    /// # Errors
    /// It is let alone.
    pub fn begin(&self, digest: Digest) -> Result<(), LoadError> {
        self.begin_at(digest, SystemTime::now())
    }

    fn begin_at(&self, digest: Digest, now: SystemTime) -> Result<(), LoadError> {
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        let path = folder.join(digest.hex());
        let before = before(&path, now);
        if before >= ATTEMPTS {
            return Err(LoadError::Compile(format!(
                "the proxy ended {before} times while it was loaded, and lets it alone for an hour; to try again remove {}",
                path.display()
            )));
        }
        if let Err(error) = write(folder, &path, (before + 1).to_string().as_bytes()) {
            tracing::debug!(%error, "not noted that a module is loaded");
        }
        Ok(())
    }

    /// It was loaded, or refused.
    pub fn end(&self, digest: Digest) {
        if let Some(folder) = &self.folder {
            let _gone = fs::remove_file(folder.join(digest.hex()));
        }
    }
}

/// How often the process ended over it, if the last time was not long ago.
fn before(path: &Path, now: SystemTime) -> u32 {
    let modified = fs::metadata(path).and_then(|it| it.modified());
    let age = modified.map(|it| now.duration_since(it).unwrap_or_default());
    if age.is_ok_and(|age| age > LET_ALONE) {
        return 0;
    }
    let before = fs::read_to_string(path).ok();
    before.and_then(|it| it.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use weft_wasm_host::Digest;

    use super::{Attempts, LET_ALONE};

    #[test]
    fn a_module_that_ends_the_process_is_let_alone_for_a_while() {
        let state = tempfile::tempdir().expect("a folder");
        let attempts = || Attempts::new(Some(state.path().join("compiling")));
        let digest = Digest::of(b"module");
        for _start in 0..3 {
            assert_eq!(attempts().begin(digest), Ok(()));
        }
        let refused = attempts().begin(digest).expect_err("enough");
        let text = refused.to_string();
        assert!(text.contains("ended 3 times"), "{text}");
        assert_eq!(attempts().begin(Digest::of(b"another")), Ok(()));
        attempts().end(digest);
        assert_eq!(attempts().begin(digest), Ok(()));
        for _start in 0..2 {
            assert_eq!(attempts().begin(digest), Ok(()));
        }
        let later = SystemTime::now() + 2 * LET_ALONE;
        assert_eq!(attempts().begin_at(digest, later), Ok(()));
    }
}
