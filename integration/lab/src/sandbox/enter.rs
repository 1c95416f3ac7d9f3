//! Running a command inside a sandbox.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};

use anyhow::{Context, bail};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::apps;
use crate::cgroup::Cgroup;
use crate::process::ProcessId;

/// Exit code when the command is not there, as shells have it.
const NOT_FOUND: u8 = 127;
/// Exit code when the command cannot be run, as shells have it.
const NOT_RUNNABLE: u8 = 126;

/// Where and what to run.
#[derive(Debug, clap::Args)]
pub struct EnterArgs {
    /// The pause process of the sandbox, by the machine's number.
    #[arg(long)]
    pub pid: i32,
    /// Its start time, so that a reused number is not taken for it.
    #[arg(long)]
    pub start_time: u64,
    /// cgroup to join.
    #[arg(long)]
    pub cgroup: PathBuf,
    /// Make the standard input the controlling terminal.
    #[arg(long)]
    pub tty: bool,
    /// The command with its arguments.
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

/// Joins the sandbox and runs the command to its end.
///
/// # Errors
/// When the sandbox is gone or cannot be joined.
pub fn enter(args: &EnterArgs) -> anyhow::Result<ExitCode> {
    Cgroup::at(args.cgroup.clone())
        .join()
        .context("the pod is gone (no cgroup)")?;
    let target = ProcessId {
        pid: args.pid,
        start_time: args.start_time,
    };
    let Some(pid) = Pid::from_raw(args.pid) else {
        bail!("no process has number {}", args.pid);
    };
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("the pod is gone")?;
    if !target.is_alive() {
        bail!("the pod is gone (its process number is another's now)");
    }
    // While /proc is the machine's: inside, this process has no entry in it.
    let argv = apps::resolve(&args.command)?;
    move_into_thread_name_spaces(
        pidfd.as_fd(),
        ThreadNameSpaceType::NETWORK
            | ThreadNameSpaceType::MOUNT
            | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
            | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
            | ThreadNameSpaceType::PROCESS_ID,
    )
    .context("join the pod's namespaces")?;
    if args.tty {
        rustix::process::setsid().context("start a session")?;
        rustix::process::ioctl_tiocsctty(std::io::stdin()).context("take the terminal")?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(&argv))
}

/// Runs the command as a child: joining a PID namespace concerns children only.
async fn run(argv: &[OsString]) -> anyhow::Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    // The terminal sends these to the command as well; it decides what they do.
    let mut _interrupt = signal(SignalKind::interrupt())?;
    let mut _quit = signal(SignalKind::quit())?;

    let Some((program, arguments)) = argv.split_first() else {
        bail!("no command");
    };
    let mut child = match Command::new(program).args(arguments).spawn() {
        Ok(child) => child,
        Err(e) => {
            eprintln!("exec: {:?}: {e}", program.to_string_lossy());
            return Ok(ExitCode::from(match e.kind() {
                std::io::ErrorKind::NotFound => NOT_FOUND,
                _ => NOT_RUNNABLE,
            }));
        }
    };
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let forward = |which| {
        if let Some(pid) = pid {
            // Gone already: its exit status is about to arrive.
            let _ = kill_process(pid, which);
        }
    };
    loop {
        tokio::select! {
            status = child.wait() => return Ok(ExitCode::from(exit_code(status?))),
            _ = terminate.recv() => forward(Signal::TERM),
            _ = hang_up.recv() => forward(Signal::HUP),
        }
    }
}

/// Exit code as shells and Kubernetes count it: 128 and the signal for a kill.
pub(crate) fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(255);
    u8::try_from(code & 0xff).unwrap_or(255)
}
