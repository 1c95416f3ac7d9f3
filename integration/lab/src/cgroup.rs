//! cgroups of pods and processes: who is in one dies with it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the kernel gets to reap what was killed.
const REAP_DEADLINE: Duration = Duration::from_secs(10);

/// A cgroup that the lab made.
#[derive(Debug, Clone)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes it, with those above it. An existing one is fine.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn create(path: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&path)?;
        Ok(Self { path })
    }

    /// One that may exist.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A cgroup inside this one.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn child(&self, name: &str) -> io::Result<Self> {
        Self::create(self.path.join(name))
    }

    /// Moves the calling process into it.
    ///
    /// # Errors
    /// When the cgroup is gone.
    pub fn join(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.procs"), "0")
    }

    /// Kills every process in it and below, and waits until they are gone; then
    /// removes it and those below. Blocks; a missing cgroup is fine.
    ///
    /// # Errors
    /// When something in it does not die within ten seconds.
    pub fn destroy(&self) -> io::Result<()> {
        if !self.path.exists() {
            return Ok(());
        }
        fs::write(self.path.join("cgroup.kill"), "1")?;
        self.wait_empty()?;
        remove_tree(&self.path)
    }

    /// Waits for `populated 0` in cgroup.events, which the kernel announces.
    fn wait_empty(&self) -> io::Result<()> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let deadline = Instant::now() + REAP_DEADLINE;
        loop {
            let mut events = fs::File::open(self.path.join("cgroup.events"))?;
            let text = io::read_to_string(&mut events)?;
            if text.lines().any(|line| line == "populated 0") {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let path = self.path.display();
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("processes of {path} do not die"),
                ));
            }
            let timeout = Timespec {
                tv_sec: 0,
                tv_nsec: left.min(Duration::from_millis(200)).subsec_nanos().into(),
            };
            // A signal is as good as news: look again.
            match poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// cgroup directories hold files that cannot be unlinked: directories only,
/// deepest first.
fn remove_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}
