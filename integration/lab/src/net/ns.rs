//! Named network namespaces, kept as iproute2 keeps them: bind-mounted under
//! `/run/netns`, so `ip netns`, `ip -n` and `nsenter --net=` work on them.
//!
//! `setns` concerns one thread. Whatever needs to be inside runs on a thread of
//! its own that ends there: a thread of the runtime's pool must never come back
//! in another namespace. Only the network namespace is joined; `ip netns exec`
//! would remount /sys as well and hide bpffs.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// Where namespaces get their names.
pub const NETNS_DIR: &str = "/run/netns";

/// An operation on a namespace failed.
#[derive(Debug, thiserror::Error)]
#[error("network namespace {name}: cannot {action}: {source}")]
pub struct NsError {
    name: String,
    action: &'static str,
    #[source]
    source: io::Error,
}

/// An open network namespace. Holding it keeps the namespace alive.
#[derive(Debug)]
pub struct NetNs {
    name: String,
    file: File,
}

impl NetNs {
    /// Makes a namespace with its loopback down, and gives it its name.
    ///
    /// # Errors
    /// When the name is taken or the kernel refuses.
    pub fn create(name: &str) -> Result<Self, NsError> {
        let at = |action| move |source: io::Error| error(name, action, source);
        prepare_dir().map_err(at("prepare /run/netns"))?;
        let path = path_of(name);
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(at("take the name"))?;
        let made = on_own_thread(|| -> io::Result<()> {
            #[expect(
                deprecated,
                reason = "unsafe only with FILES: descriptors stay shared here"
            )]
            rustix::thread::unshare(UnshareFlags::NEWNET)?;
            // The calling thread's namespace, not that of the process.
            rustix::mount::mount_bind("/proc/thread-self/ns/net", &path)?;
            Ok(())
        });
        if let Err(source) = made {
            // The name is ours; a leftover would block the next attempt.
            let _ = std::fs::remove_file(&path);
            return Err(error(name, "create it", source));
        }
        Self::open(name)
    }

    /// Opens the namespace of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(name: &str) -> Result<Self, NsError> {
        let file = File::open(path_of(name)).map_err(|e| error(name, "open it", e))?;
        Ok(Self {
            name: name.to_owned(),
            file,
        })
    }

    /// The name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `f` inside the namespace, on a thread of its own, and waits.
    ///
    /// # Errors
    /// When the namespace cannot be joined.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T, NsError> {
        on_own_thread(|| {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(f())
        })
        .map_err(|source| error(&self.name, "join it", source))
    }
}

/// Where a namespace of that name is mounted.
pub fn path_of(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

/// Removes the name; the namespace goes with its last process and descriptor.
/// A missing name is fine.
///
/// # Errors
/// When it cannot be unmounted or unlinked.
pub fn delete(name: &str) -> Result<(), NsError> {
    let path = path_of(name);
    if !path.exists() {
        return Ok(());
    }
    match rustix::mount::unmount(&path, UnmountFlags::DETACH) {
        // EINVAL: not a mount point, a name whose making was interrupted.
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(e) => return Err(error(name, "unmount it", e.into())),
    }
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(error(name, "unlink it", e)),
        _ => Ok(()),
    }
}

fn error(name: &str, action: &'static str, source: io::Error) -> NsError {
    NsError {
        name: name.to_owned(),
        action,
        source,
    }
}

/// Makes /run/netns a shared mount, as iproute2 does: an unmount here must
/// reach the pods' mount namespaces too, or they would keep namespaces alive.
fn prepare_dir() -> io::Result<()> {
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    std::fs::create_dir_all(NETNS_DIR)?;
    match rustix::mount::mount_change(NETNS_DIR, shared) {
        // Not a mount point yet.
        Err(rustix::io::Errno::INVAL) => {
            rustix::mount::mount_bind_recursive(NETNS_DIR, NETNS_DIR)?;
            crate::host::remember_mount(NETNS_DIR)?;
            rustix::mount::mount_change(NETNS_DIR, shared)?;
            Ok(())
        }
        other => Ok(other?),
    }
}

fn on_own_thread<T: Send>(f: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, f)?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
