//! Programs that a bench starts, and ends with it.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::usage;

/// How long a program may take to listen, and to end when it is told to.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks at something that takes its time.
const NAP: Duration = Duration::from_millis(10);

/// A running program; ended when dropped, its children with it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` through `spawn`; what it says goes to a file in
    /// `directory`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(
        name: &str,
        command: &mut Command,
        directory: &Path,
        spawn: impl FnOnce(&mut Command) -> io::Result<Child>,
    ) -> anyhow::Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let output = File::create(&log)?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let child = spawn(command).with_context(|| format!("start {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it accepts connections on this port.
    ///
    /// # Errors
    /// When it ends or takes too long; quotes its last words.
    pub fn await_port(&mut self, port: u16) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(local(port)).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status}): {}", self.name, self.last_words());
            }
            if Instant::now() > deadline {
                bail!("{} does not listen: {}", self.name, self.last_words());
            }
            thread::sleep(NAP);
        }
        Ok(())
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The end of its log.
    #[must_use]
    pub fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().rev().take(10).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let family = usage::family(self.pid()).unwrap_or_default();
        if matches!(self.child.try_wait(), Ok(None)) {
            signal(self.pid(), Signal::TERM);
        }
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                // Ours by descent, and still running.
                for pid in &family {
                    signal(*pid, Signal::KILL);
                }
                break;
            }
            thread::sleep(NAP);
        }
        let _reaped = self.child.wait();
    }
}

fn signal(pid: u32, which: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended since.
        let _gone = kill_process(pid, which);
    }
}

/// An address of the loopback device.
#[must_use]
pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A port that was free a moment ago. Programs that are told their port in a
/// file can only be given one in this way.
///
/// # Errors
/// When there is none.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(local(0))?.local_addr()?.port())
}
