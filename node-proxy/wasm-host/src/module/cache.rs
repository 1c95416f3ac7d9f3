//! Compiled modules on disk.
//!
//! What is in the cache runs as native code, so only what this very node wrote is ever read: folder
//! and files belong to this user and to nobody else, links are not followed, and every file says
//! the digest of what is in it, so that one that was cut short or has rotted is compiled anew.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::OFlags;

use super::digest::Digest;
use crate::random;

const MAGIC: &[u8; 8] = b"weftaot1";
const HEAD: usize = MAGIC.len() + 32;
/// Files that are kept; the oldest go first.
const MAX_FILES: usize = 256;
/// Bytes of one file: a module of the largest size, compiled.
pub(super) const MAX_FILE: u64 = 1 << 30;
const SUFFIX: &str = "aot";
/// Of files that are being written.
const UNFINISHED: &str = "new";

/// Why a folder is no cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// It cannot be made or read.
    #[error("the cache {}: {error}", .folder.display())]
    Io {
        /// Where.
        folder: PathBuf,
        /// What.
        error: io::Error,
    },
    /// Somebody else could have written what is in it.
    #[error("the cache {} must be a folder of user {user} with mode 0700: what is in it is run", .folder.display())]
    NotPrivate {
        /// Where.
        folder: PathBuf,
        /// Whose it must be.
        user: u32,
    },
}

/// Compiled code that this node wrote.
#[derive(Debug)]
pub(super) struct Artifact {
    bytes: Vec<u8>,
    from: usize,
}

impl Artifact {
    /// What an engine of this process, or of one that it started for that, has just compiled.
    pub(super) const fn compiled(bytes: Vec<u8>) -> Self {
        Self { bytes, from: 0 }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.from..]
    }
}

#[derive(Debug)]
pub(super) struct Cache {
    folder: PathBuf,
    user: u32,
    max_files: usize,
}

impl Cache {
    pub(super) fn open(folder: PathBuf) -> Result<Self, CacheError> {
        let user = rustix::process::geteuid().as_raw();
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder);
        let metadata = made.and_then(|()| fs::symlink_metadata(&folder));
        let metadata = match metadata {
            Ok(metadata) => metadata,
            Err(error) => return Err(CacheError::Io { folder, error }),
        };
        if !metadata.is_dir() || !is_private(&metadata, user) {
            return Err(CacheError::NotPrivate { folder, user });
        }
        let cache = Self {
            folder,
            user,
            max_files: MAX_FILES,
        };
        cache.clean();
        Ok(cache)
    }

    /// Removes what writers left that did not live to finish. Who is writing, in this process or
    /// in another, holds a lock.
    fn clean(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let unfinished = path.extension().is_some_and(|suffix| suffix == UNFINISHED);
            if unfinished && is_left(&path) {
                // What is gone already is as good.
                let _gone = fs::remove_file(&path);
            }
        }
    }

    /// What is kept below this name, if it can be trusted.
    pub(super) fn get(&self, key: &str) -> Option<Artifact> {
        let read = self.read(&self.path(key));
        match read {
            Ok(Some(artifact)) => Some(artifact),
            Ok(None) => {
                self.forget(key);
                None
            }
            Err(_absent) => None,
        }
    }

    /// Whether something is kept below this name, trusted or not.
    pub(super) fn has(&self, key: &str) -> bool {
        self.path(key).exists()
    }

    pub(super) fn forget(&self, key: &str) {
        // What is gone already is as good.
        let _gone = fs::remove_file(self.path(key));
    }

    /// Keeps it. Whoever reads sees all of it or nothing.
    pub(super) fn put(&self, key: &str, artifact: &[u8]) -> io::Result<()> {
        // No two writers meet, whatever the numbers of their processes.
        let mut unique = [0; 8];
        random::fill(&mut unique);
        let name = format!("{key}.{:016x}.{UNFINISHED}", u64::from_ne_bytes(unique));
        let path = self.folder.join(name);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        let written = write(&mut file, artifact).and_then(|()| fs::rename(&path, self.path(key)));
        if written.is_err() {
            let _gone = fs::remove_file(&path);
        }
        written?;
        self.prune()
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.{SUFFIX}"))
    }

    /// None if it is not to be trusted.
    fn read(&self, path: &Path) -> io::Result<Option<Artifact>> {
        let flags = (OFlags::NOFOLLOW | OFlags::CLOEXEC).bits();
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(i32::try_from(flags).unwrap_or_default())
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() || !is_private(&metadata, self.user) || metadata.len() > MAX_FILE {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
        Read::by_ref(&mut file)
            .take(MAX_FILE)
            .read_to_end(&mut bytes)?;
        let whole = bytes.len() >= HEAD
            && bytes[..MAGIC.len()] == *MAGIC
            && bytes[MAGIC.len()..HEAD] == *Digest::of(&bytes[HEAD..]).bytes();
        let from = HEAD;
        Ok(whole.then_some(Artifact { bytes, from }))
    }

    fn prune(&self) -> io::Result<()> {
        let mut files: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let path = entry.path();
            if path.extension().is_some_and(|suffix| suffix == SUFFIX) {
                files.push((entry.metadata()?.modified()?, path));
            }
        }
        files.sort();
        let over = files.len().saturating_sub(self.max_files);
        for (_when, path) in &files[..over] {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

/// Whether nobody is writing it any more.
fn is_left(path: &Path) -> bool {
    let flags = (OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK).bits();
    OpenOptions::new()
        .write(true)
        .custom_flags(i32::try_from(flags).unwrap_or_default())
        .open(path)
        .is_ok_and(|file| file.try_lock().is_ok())
}

fn write(file: &mut File, artifact: &[u8]) -> io::Result<()> {
    file.lock()?;
    file.write_all(MAGIC)?;
    file.write_all(Digest::of(artifact).bytes())?;
    file.write_all(artifact)?;
    file.sync_all()
}

fn is_private(metadata: &Metadata, user: u32) -> bool {
    metadata.uid() == user && metadata.mode() & 0o077 == 0
}

/// A number for what wasmtime says of its version and settings.
pub(super) fn hash(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::{Cache, CacheError, HEAD};

    fn cache() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = Cache::open(folder.path().join("aot")).expect("private");
        (folder, cache)
    }

    fn read(cache: &Cache, key: &str) -> Option<Vec<u8>> {
        cache.get(key).map(|artifact| artifact.bytes().to_vec())
    }

    #[test]
    fn what_was_written_is_read() {
        let (_folder, cache) = cache();
        assert_eq!(read(&cache, "a"), None);
        cache.put("a", b"code").expect("written");
        assert_eq!(read(&cache, "a"), Some(b"code".to_vec()));
        cache.put("a", b"").expect("written");
        assert_eq!(read(&cache, "a"), Some(Vec::new()));
        cache.forget("a");
        assert_eq!(read(&cache, "a"), None);
        let left = fs::read_dir(&cache.folder).expect("there").count();
        assert_eq!(left, 0, "nothing half-written stays");
    }

    #[test]
    fn what_was_changed_or_cut_short_is_thrown_away() {
        let (_folder, cache) = cache();
        for change in [
            |bytes: &mut Vec<u8>| bytes[HEAD] ^= 1,
            |bytes: &mut Vec<u8>| bytes[9] ^= 1,
            |bytes: &mut Vec<u8>| bytes[0] ^= 1,
            |bytes: &mut Vec<u8>| bytes.truncate(HEAD + 1),
            |bytes: &mut Vec<u8>| bytes.truncate(HEAD - 1),
            |bytes: &mut Vec<u8>| bytes.push(0),
        ] {
            cache.put("a", b"code").expect("written");
            let path = cache.path("a");
            let mut bytes = fs::read(&path).expect("there");
            change(&mut bytes);
            fs::write(&path, bytes).expect("written");
            assert_eq!(read(&cache, "a"), None);
            assert!(!path.exists());
        }
    }

    #[test]
    fn what_others_could_have_written_is_not_read() {
        let (folder, cache) = cache();
        cache.put("a", b"code").expect("written");
        fs::set_permissions(cache.path("a"), Permissions::from_mode(0o620)).expect("changed");
        assert_eq!(read(&cache, "a"), None);
        cache.put("b", b"code").expect("written");
        fs::rename(cache.path("b"), folder.path().join("elsewhere")).expect("moved");
        symlink(folder.path().join("elsewhere"), cache.path("b")).expect("linked");
        assert_eq!(read(&cache, "b"), None);
    }

    #[test]
    fn a_folder_that_others_can_write_is_no_cache() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("open");
        fs::create_dir(&path).expect("made");
        fs::set_permissions(&path, Permissions::from_mode(0o770)).expect("changed");
        let opened = Cache::open(path);
        assert!(matches!(opened, Err(CacheError::NotPrivate { .. })));
        let path = folder.path().join("link");
        symlink(folder.path(), &path).expect("linked");
        let opened = Cache::open(path);
        assert!(matches!(opened, Err(CacheError::NotPrivate { .. })));
    }

    #[test]
    fn what_a_crash_left_is_removed() {
        let (folder, cache) = cache();
        cache.put("a", b"code").expect("written");
        let left = cache.folder.join("b.0123.new");
        fs::write(&left, b"half").expect("written");
        let busy = cache.folder.join("c.0123.new");
        let writer = fs::File::create(&busy).expect("made");
        writer.lock().expect("nobody else writes it");
        symlink(folder.path().join("elsewhere"), cache.folder.join("d.new")).expect("linked");
        let again = Cache::open(cache.folder.clone()).expect("private");
        assert!(!left.exists());
        assert!(busy.exists(), "somebody is writing it");
        assert_eq!(read(&again, "a"), Some(b"code".to_vec()));
        assert!(!folder.path().join("elsewhere").exists());
        drop(writer);
        Cache::open(cache.folder.clone()).expect("private");
        assert!(!busy.exists());
    }

    #[test]
    fn the_oldest_go() {
        let (_folder, mut cache) = cache();
        cache.max_files = 3;
        for number in 0..5 {
            cache.put(&format!("{number:04}"), b"").expect("written");
        }
        let left = fs::read_dir(&cache.folder).expect("there").count();
        assert_eq!(left, 3);
        assert!(cache.get("0000").is_none());
    }
}
