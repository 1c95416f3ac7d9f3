//! Modules on this node's disk: those that came from the agent, and what was
//! compiled of them; or those that lie in a folder, for a proxy that is alone.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder, File, Metadata};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use weft_wasm_host::{Digest, MAX_MODULE};

use super::attempts::Attempts;
use super::failure::Failure;

const SUFFIX: &str = "wasm";
/// Modules that no filter has are kept as long as there are no more of them
/// than this, or they are younger than [`YOUNG`]: an older version may come
/// back, and a filter may be attached again.
const KEPT: usize = 64;
const YOUNG: Duration = Duration::from_secs(24 * 60 * 60);
/// Bytes of them, with what was compiled.
const KEPT_BYTES: u64 = 1 << 30;

/// Where modules come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// From the agent, over its Unix socket.
    Agent(PathBuf),
    /// From a folder, if one was given.
    Folder(Option<PathBuf>),
}

/// What is to be done for a module.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing: it is here.
    Here(Bytes),
    /// The agent is to be asked for it.
    Asked,
}

/// Modules on disk.
#[derive(Debug)]
pub struct Modules {
    /// Those that came from the agent.
    kept: Option<PathBuf>,
    /// What was compiled.
    compiled: Option<PathBuf>,
    /// What is being loaded.
    pub attempts: Attempts,
    folder: Option<Folder>,
}

/// Modules that lie in a folder, by their digests.
#[derive(Debug)]
struct Folder {
    path: Option<PathBuf>,
    files: HashMap<Digest, PathBuf>,
    problem: Option<String>,
}

impl Modules {
    /// Those of a proxy that keeps its state in `state`.
    #[must_use]
    pub fn new(source: &Source, state: Option<&Path>) -> Self {
        let below = |name| state.map(|state| state.join(name));
        let (kept, folder) = match source {
            Source::Agent(_) => (below("modules"), None),
            Source::Folder(path) => {
                let folder = Folder {
                    path: path.clone(),
                    files: HashMap::new(),
                    problem: None,
                };
                (None, Some(folder))
            }
        };
        Self {
            kept,
            compiled: below("compiled"),
            attempts: Attempts::new(below("compiling")),
            folder,
        }
    }

    /// Where what was compiled is kept.
    #[must_use]
    pub fn compiled(&self) -> Option<&Path> {
        self.compiled.as_deref()
    }

    /// Looks anew what lies in the folder.
    pub fn look(&mut self) {
        if let Some(folder) = &mut self.folder {
            folder.look();
        }
    }

    /// Whether modules that came from the agent are here later.
    #[must_use]
    pub const fn keeps(&self) -> bool {
        self.kept.is_some()
    }

    /// Whether a module is here, as far as one can tell without reading it.
    #[must_use]
    pub fn has(&self, digest: Digest) -> bool {
        match &self.folder {
            Some(folder) => folder.files.contains_key(&digest),
            None => self.path(digest).is_some_and(|path| path.exists()),
        }
    }

    /// A module, if it is here. Its bytes are still to be compared with the
    /// digest.
    ///
    /// # Errors
    /// It cannot be had from anywhere.
    pub fn find(&self, digest: Digest) -> Result<Found, Failure> {
        if let Some(folder) = &self.folder {
            return folder.read(digest).map(Found::Here);
        }
        let Some(path) = self.path(digest) else {
            return Ok(Found::Asked);
        };
        match read(&path) {
            Ok(module) => {
                // Used today: it is not the first to go.
                let _dated = File::open(&path).and_then(|it| it.set_modified(SystemTime::now()));
                Ok(Found::Here(module))
            }
            Err(_absent) => Ok(Found::Asked),
        }
    }

    /// Keeps a module that came from the agent.
    ///
    /// # Errors
    /// What the file system says. It has to be asked for again after a restart.
    pub fn keep(&self, digest: Digest, module: &[u8]) -> io::Result<()> {
        match (&self.kept, self.path(digest)) {
            (Some(folder), Some(path)) => write(folder, &path, module),
            _ => Ok(()),
        }
    }

    /// Throws a file away that is not what its name says.
    pub fn forget(&self, digest: Digest) {
        if let Some(path) = self.path(digest) {
            let _gone = fs::remove_file(path);
        }
    }

    fn path(&self, digest: Digest) -> Option<PathBuf> {
        let folder = self.kept.as_ref()?;
        Some(folder.join(format!("{}.{SUFFIX}", digest.hex())))
    }

    /// Removes modules, and what was compiled, that no filter has had for long.
    pub fn prune(&self, used: &HashSet<Digest>) {
        self.prune_at(used, SystemTime::now(), KEPT_BYTES);
    }

    fn prune_at(&self, used: &HashSet<Digest>, now: SystemTime, room: u64) {
        let used: HashSet<String> = used.iter().map(Digest::hex).collect();
        let mut unused: Vec<Unused> = self.unused(&used).into_values().collect();
        unused.sort_by_key(|it| std::cmp::Reverse(it.newest));
        let mut bytes = 0;
        for (rank, module) in unused.iter().enumerate() {
            bytes += module.bytes;
            let age = now.duration_since(module.newest).unwrap_or_default();
            if bytes <= room && (rank < KEPT || age < YOUNG) {
                continue;
            }
            for path in &module.files {
                if let Err(error) = fs::remove_file(path) {
                    tracing::warn!(file = %path.display(), %error, "not removed");
                }
            }
        }
    }

    /// Files of each module that is not in use.
    fn unused(&self, used: &HashSet<String>) -> HashMap<String, Unused> {
        let mut unused: HashMap<String, Unused> = HashMap::new();
        let folders = [&self.kept, &self.compiled, self.attempts.folder()];
        for folder in folders.into_iter().flatten() {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            for (path, metadata) in entries.filter_map(|it| Some((it.path(), it.metadata().ok()?)))
            {
                let Some(digest) = digest_of_name(&path) else {
                    continue;
                };
                if used.contains(digest) {
                    continue;
                }
                let module = unused.entry(digest.to_owned()).or_default();
                module.add(&path, &metadata);
            }
        }
        unused
    }
}

struct Unused {
    newest: SystemTime,
    bytes: u64,
    files: Vec<PathBuf>,
}

impl Default for Unused {
    fn default() -> Self {
        Self {
            newest: SystemTime::UNIX_EPOCH,
            bytes: 0,
            files: Vec::new(),
        }
    }
}

impl Unused {
    fn add(&mut self, path: &Path, metadata: &Metadata) {
        let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        self.newest = self.newest.max(modified);
        self.bytes += metadata.len();
        self.files.push(path.to_owned());
    }
}

impl Folder {
    fn look(&mut self) {
        self.files.clear();
        self.problem = None;
        let Some(folder) = &self.path else { return };
        match index(folder) {
            Ok(files) => self.files = files,
            Err(error) => {
                let problem = format!("--module-dir {}: {error}", folder.display());
                tracing::warn!("{problem}");
                self.problem = Some(problem);
            }
        }
    }

    fn read(&self, digest: Digest) -> Result<Bytes, Failure> {
        let Some(folder) = &self.path else {
            let text = format!("no module {digest} is here: --module-dir says where modules are");
            return Err(Failure::fetch(text));
        };
        if let Some(problem) = &self.problem {
            return Err(Failure::fetch(problem.as_str()));
        }
        let Some(path) = self.files.get(&digest) else {
            let text = format!(
                "no file in {} is the module {digest}: put it there and send SIGHUP",
                folder.display()
            );
            return Err(Failure::fetch(text));
        };
        read(path).map_err(|error| Failure::fetch(format!("{}: {error}", path.display())))
    }
}

/// All modules in a folder. What a file's name says is not believed.
fn index(folder: &Path) -> io::Result<HashMap<Digest, PathBuf>> {
    let mut files = HashMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|suffix| suffix != SUFFIX) {
            continue;
        }
        match read(&path) {
            Ok(module) => {
                files.insert(Digest::of(&module), path);
            }
            Err(error) => tracing::warn!(file = %path.display(), %error, "not a module"),
        }
    }
    Ok(files)
}

/// The digest that a file is named by: all before a dot or a dash.
fn digest_of_name(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    let digest = name.split(['.', '-']).next()?;
    let is_digest = digest.len() == 64 && digest.bytes().all(|it| it.is_ascii_hexdigit());
    is_digest.then_some(digest)
}

fn read(path: &Path) -> io::Result<Bytes> {
    let most = u64::try_from(MAX_MODULE).unwrap_or(u64::MAX);
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > most {
        let text = format!("it is no file of {most} bytes at most");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let mut module = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or_default());
    // One that grows meanwhile is not read for ever.
    Read::by_ref(&mut file)
        .take(most)
        .read_to_end(&mut module)?;
    Ok(module.into())
}

/// Whoever reads sees all of it or nothing. Two proxies may write into one
/// folder while one takes over from the other.
pub(super) fn write(folder: &Path, path: &Path, content: &[u8]) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let mut new = path.as_os_str().to_owned();
    // Both may be process 1, each of its own container.
    let random = RandomState::new().build_hasher().finish();
    new.push(format!(".{random:016x}.new"));
    let new = PathBuf::from(new);
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new);
    let written = file
        .and_then(|mut file| file.write_all(content))
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _gone = fs::remove_file(&new);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fs::{self, File};
    use std::time::{Duration, SystemTime};

    use bytes::Bytes;
    use weft_wasm_host::Digest;

    use super::{Found, KEPT, Modules, Source, YOUNG};

    fn modules(state: &tempfile::TempDir) -> Modules {
        Modules::new(&Source::Agent("/nowhere".into()), Some(state.path()))
    }

    #[test]
    fn what_was_kept_is_found() {
        let state = tempfile::tempdir().expect("a folder");
        let modules = modules(&state);
        let digest = Digest::of(b"module");
        assert_eq!(modules.find(digest), Ok(Found::Asked));
        modules.keep(digest, b"module").expect("kept");
        assert_eq!(
            modules.find(digest),
            Ok(Found::Here(Bytes::from_static(b"module")))
        );
        let left = fs::read_dir(state.path().join("modules")).expect("there");
        assert_eq!(left.count(), 1, "nothing half-written stays");
        modules.forget(digest);
        assert_eq!(modules.find(digest), Ok(Found::Asked));
        let nowhere = Modules::new(&Source::Agent("/nowhere".into()), None);
        nowhere.keep(digest, b"module").expect("not wanted");
        assert_eq!(nowhere.find(digest), Ok(Found::Asked));
    }

    #[test]
    fn a_folder_is_searched_by_content() {
        let folder = tempfile::tempdir().expect("a folder");
        let source = Source::Folder(Some(folder.path().to_owned()));
        let mut modules = Modules::new(&source, None);
        let digest = Digest::of(b"module");
        modules.look();
        let absent = modules.find(digest).expect_err("not there").text;
        assert!(absent.contains(&digest.to_string()), "{absent}");
        assert!(absent.ends_with("put it there and send SIGHUP"), "{absent}");
        fs::write(folder.path().join("any.wasm"), b"module").expect("written");
        assert!(modules.find(digest).is_err(), "nobody looked");
        modules.look();
        assert_eq!(
            modules.find(digest),
            Ok(Found::Here(Bytes::from_static(b"module")))
        );
        fs::create_dir(folder.path().join("folder.wasm")).expect("made");
        modules.look();
        assert!(modules.find(digest).is_ok());
    }

    #[test]
    fn without_a_folder_it_says_which_flag_is_needed() {
        let digest = Digest::of(b"module");
        let mut none = Modules::new(&Source::Folder(None), None);
        none.look();
        let text = none.find(digest).expect_err("nowhere").text;
        assert!(text.contains("--module-dir"), "{text}");
        let mut gone = Modules::new(&Source::Folder(Some("/no/such/folder".into())), None);
        gone.look();
        let text = gone.find(digest).expect_err("nowhere").text;
        assert!(text.starts_with("--module-dir /no/such/folder: "), "{text}");
    }

    #[test]
    fn old_modules_that_nobody_has_are_removed_with_what_was_compiled() {
        let state = tempfile::tempdir().expect("a folder");
        let modules = modules(&state);
        let now = SystemTime::now();
        let compiled = state.path().join("compiled");
        fs::create_dir(&compiled).expect("made");
        let mut digests = Vec::new();
        for number in 0..KEPT + 3 {
            let content = format!("module {number}");
            let digest = Digest::of(content.as_bytes());
            modules.keep(digest, content.as_bytes()).expect("kept");
            let artifact = compiled.join(format!("{}-0123.aot", digest.hex()));
            fs::write(&artifact, b"code").expect("written");
            let age = YOUNG * 2 + Duration::from_secs(u64::try_from(number).expect("small"));
            for path in [modules.path(digest).expect("a path"), artifact] {
                let file = File::options().write(true).open(path).expect("there");
                file.set_modified(now - age).expect("dated");
            }
            digests.push(digest);
        }
        let there = |modules: &Modules| {
            let kept = |digest: &&Digest| modules.path(**digest).expect("a path").exists();
            digests.iter().filter(kept).count()
        };
        let oldest = digests[KEPT + 2];
        modules.prune_at(&HashSet::from([oldest]), now - YOUNG * 2, u64::MAX);
        assert_eq!(there(&modules), KEPT + 3, "all of them were young then");
        modules.prune_at(&HashSet::from([oldest]), now, u64::MAX);
        assert_eq!(there(&modules), KEPT + 1);
        assert!(modules.path(oldest).expect("a path").exists(), "it is used");
        let artifacts = fs::read_dir(&compiled).expect("there").count();
        assert_eq!(artifacts, KEPT + 1);
        // Of the newest as many as there is room for.
        modules.prune_at(&HashSet::from([oldest]), now, 30);
        assert_eq!(there(&modules), 3);
    }
}
