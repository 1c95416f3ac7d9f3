//! Making a pod's namespaces and holding them open.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use tokio::signal::unix::{SignalKind, signal};

use super::{PID_LINE, READY_LINE};
use crate::cgroup::Cgroup;
use crate::net::ns::NETNS_DIR;

/// What a sandbox is made of.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct SandboxSpec {
    /// The network namespace to join; the machine's own when absent.
    pub netns: Option<PathBuf>,
    /// cgroup of the holding processes.
    pub cgroup: PathBuf,
    /// Host name inside.
    pub hostname: String,
    /// Files of the machine that the pod sees as others: (source, target).
    pub binds: Vec<(PathBuf, PathBuf)>,
}

/// Makes the namespaces and waits until the pause process ends.
///
/// # Errors
/// When the kernel refuses one of the steps.
pub fn sandbox(spec: &Path) -> anyhow::Result<ExitCode> {
    let text = std::fs::read_to_string(spec).with_context(|| spec.display().to_string())?;
    let spec: SandboxSpec = serde_json::from_str(&text)?;
    Cgroup::at(spec.cgroup.clone())
        .join()
        .context("join the pod's cgroup")?;
    if let Some(netns) = &spec.netns {
        let file = File::open(netns).with_context(|| netns.display().to_string())?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .context("join the network namespace")?;
    }
    #[expect(
        deprecated,
        reason = "unsafe only with FILES, and this process has one thread"
    )]
    rustix::thread::unshare(
        UnshareFlags::NEWNS | UnshareFlags::NEWUTS | UnshareFlags::NEWIPC | UnshareFlags::NEWPID,
    )
    .context("make the pod's namespaces")?;
    arrange_mounts(&spec)?;
    rustix::system::sethostname(spec.hostname.as_bytes()).context("set the host name")?;

    // NEWPID concerns children only: the next one is the first of its namespace.
    let mut child = Command::new(std::env::current_exe()?)
        .arg("pause")
        .spawn()
        .context("start the pause process")?;
    println!("{PID_LINE}{}", child.id());
    std::io::stdout().flush()?;
    child.wait()?;
    Ok(ExitCode::SUCCESS)
}

fn arrange_mounts(spec: &SandboxSpec) -> anyhow::Result<()> {
    // Slave, not private: what the machine unmounts must go here too, or a pod
    // would keep the namespaces of deleted pods alive.
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", slave).context("detach mount propagation")?;
    match rustix::mount::unmount(NETNS_DIR, UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(e).context("hide the other namespaces' names"),
    }
    // What is left are files without a meaning, at which `ip` stumbles.
    rustix::mount::mount("tmpfs", NETNS_DIR, "tmpfs", MountFlags::RDONLY, None)
        .context("hide the other namespaces' names")?;
    for (source, target) in &spec.binds {
        rustix::mount::mount_bind(source, target)
            .with_context(|| format!("bind {} to {}", source.display(), target.display()))?;
    }
    Ok(())
}

/// The first process of a pod.
///
/// # Errors
/// When /proc cannot be mounted.
pub fn pause() -> anyhow::Result<ExitCode> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("proc", "/proc", "proc", flags, None).context("mount /proc")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut children = signal(SignalKind::child())?;
        let mut stop = signal(SignalKind::terminate())?;
        println!("{READY_LINE}");
        std::io::stdout().flush()?;
        loop {
            tokio::select! {
                _ = children.recv() => reap(),
                _ = stop.recv() => return Ok(ExitCode::SUCCESS),
            }
        }
    })
}

/// Collects every orphan that has ended.
fn reap() {
    use rustix::process::{WaitOptions, wait};
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}
