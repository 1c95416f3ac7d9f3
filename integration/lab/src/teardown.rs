//! Removing a lab: one way, whether its daemon ended well, was killed, or never
//! came up.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use rustix::fs::FlockOperation;
use rustix::process::Signal;

use crate::cgroup::Cgroup;
use crate::host::{self, PIN_ROOT, RUN_DIR};
use crate::net::ns;
use crate::process::{self, ProcessId};
use crate::state::StateDir;

/// cgroup under the machine's cgroup2 root that holds all labs.
const CGROUPS: &str = "weft-lab";

/// Root of a lab's cgroups.
///
/// # Errors
/// When the machine has no cgroup2 and none can be mounted.
pub fn cgroup_of(lab: &str) -> io::Result<std::path::PathBuf> {
    Ok(host::cgroup2_root()?.join(CGROUPS).join(lab))
}

/// Holds off other commands that make or remove labs while it lives.
pub struct Lock {
    _directory: fs::File,
}

impl Lock {
    /// Waits for its turn. Blocks.
    ///
    /// # Errors
    /// When the directory of all labs cannot be made or locked.
    pub fn take() -> anyhow::Result<Self> {
        loop {
            fs::create_dir_all(RUN_DIR).with_context(|| format!("make {RUN_DIR}"))?;
            let Ok(directory) = fs::File::open(RUN_DIR) else {
                continue;
            };
            rustix::fs::flock(&directory, FlockOperation::LockExclusive)?;
            // Whoever removed the last lab removed the directory as well.
            let current = fs::metadata(RUN_DIR).ok();
            let same = |meta: fs::Metadata| {
                use std::os::unix::fs::MetadataExt;
                directory
                    .metadata()
                    .is_ok_and(|ours| ours.ino() == meta.ino())
            };
            if current.is_some_and(same) {
                return Ok(Self {
                    _directory: directory,
                });
            }
        }
    }
}

/// Removes everything of a lab. A lab that is not there is fine. The lock shows
/// that no other command works on labs meanwhile.
///
/// # Errors
/// With everything that could not be removed; the rest is.
pub fn remove(lab: &str, _lock: &Lock) -> anyhow::Result<()> {
    let state = StateDir::of(lab);
    let mut steps = vec![
        stop_daemon(&state).context("daemon"),
        kill_processes(lab).context("processes"),
    ];
    let namespaces = state.netns_names();
    steps.extend(namespaces.iter().map(|name| Ok(ns::delete(name)?)));
    steps.push(remove_pins(lab).context("pins"));
    if steps.iter().all(Result::is_ok) {
        // Last: it says what there is to remove.
        steps.push(state.remove().context("state"));
        steps.push(host::release_mounts().context("mounts"));
    }
    let problems: Vec<_> = steps.into_iter().filter_map(Result::err).collect();
    if problems.is_empty() {
        return Ok(());
    }
    let problems: Vec<_> = problems.iter().map(|error| format!("{error:#}")).collect();
    anyhow::bail!(
        "not everything of lab {lab} could be removed:\n  {}",
        problems.join("\n  ")
    )
}

/// Ends the daemon first, or it would start again what is being killed.
fn stop_daemon(state: &StateDir) -> anyhow::Result<()> {
    let Some(daemon) = process::read(&state.daemon())? else {
        return Ok(());
    };
    if daemon == ProcessId::current()? {
        return Ok(());
    }
    daemon.signal(Signal::KILL);
    if !daemon.wait_gone(Duration::from_secs(10)) {
        anyhow::bail!("process {} does not die", daemon.pid);
    }
    Ok(())
}

fn kill_processes(lab: &str) -> anyhow::Result<()> {
    let path = cgroup_of(lab)?;
    // The daemon is inside when it cleans up after itself.
    let inside = fs::read_to_string("/proc/self/cgroup")?.contains(&format!("/{CGROUPS}/{lab}/"));
    if inside {
        Cgroup::at(host::cgroup2_root()?).join()?;
    }
    Cgroup::at(path.clone()).destroy()?;
    if let Some(all) = path.parent() {
        // Other labs may be in it.
        let _ = fs::remove_dir(all);
    }
    Ok(())
}

fn remove_pins(lab: &str) -> anyhow::Result<()> {
    let entries = match fs::read_dir(PIN_ROOT) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    for entry in entries {
        let entry = entry?;
        if entry
            .file_name()
            .to_str()
            .is_some_and(|name| is_node_of(lab, name))
        {
            fs::remove_dir_all(entry.path())?;
        }
    }
    // Other labs, or an agent of this machine, may have theirs there.
    let _ = fs::remove_dir(Path::new(PIN_ROOT));
    Ok(())
}

/// Whether a pin directory is a node's of this lab: `<lab>-kind-worker<n>`.
fn is_node_of(lab: &str, name: &str) -> bool {
    name.strip_prefix(lab)
        .and_then(|rest| rest.strip_prefix("-kind-worker"))
        .is_some_and(|number| number.chars().all(|c| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_labs_own_pins_are_removed() {
        assert!(is_node_of("weft", "weft-kind-worker"));
        assert!(is_node_of("weft", "weft-kind-worker12"));
        assert!(!is_node_of("weft", "weft-two-kind-worker"));
        assert!(!is_node_of("weft", "weft-kind-worker2-old"));
    }
}
