//! Counting the system calls on maps.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::gettid;

use crate::Error;

/// How long strace may take to attach.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs this and returns how many bpf(2) calls it took of this thread, and what
/// it gave back.
///
/// # Errors
/// When strace is not installed or may not trace.
pub fn bpf_calls<T>(run: impl FnOnce() -> T) -> Result<(u64, T), Error> {
    let mut strace = Strace::attach()?;
    let value = run();
    Ok((strace.calls()?, value))
}

/// A running strace; killed when dropped, which lets the thread go.
struct Strace {
    child: Child,
}

impl Strace {
    /// Returns once this thread is traced.
    fn attach() -> Result<Self, Error> {
        let child = Command::new("strace")
            .args(["-c", "-q", "-U", "name,calls", "-e", "trace=bpf", "-p"])
            .arg(gettid().as_raw_nonzero().to_string())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Error::io("strace"))?;
        let mut this = Self { child };
        let tracer = format!("TracerPid:\t{}\n", this.child.id());
        let status = "/proc/thread-self/status";
        let began = Instant::now();
        while !fs::read_to_string(status)
            .map_err(Error::io(status))?
            .contains(&tracer)
        {
            if began.elapsed() > PATIENCE {
                return Err(Error::Invalid(format!(
                    "strace did not attach within {PATIENCE:?}"
                )));
            }
            if let Ok(Some(status)) = this.child.try_wait() {
                return Err(Error::Invalid(format!(
                    "strace cannot trace here: {status}"
                )));
            }
            thread::park_timeout(Duration::from_millis(1));
        }
        Ok(this)
    }

    /// Stops counting.
    fn calls(&mut self) -> Result<u64, Error> {
        let failed = |error| Error::io("strace")(error);
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, Signal::INT).map_err(|error| failed(error.into()))?;
        }
        let mut table = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            std::io::Read::read_to_string(stderr, &mut table).map_err(failed)?;
        }
        self.child.wait().map_err(failed)?;
        Ok(counted(&table))
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number on the line of bpf(2); without such a line there was no call.
fn counted(table: &str) -> u64 {
    let line = table.lines().find_map(|line| {
        let (name, calls) = line.trim().split_once(char::is_whitespace)?;
        (name == "bpf").then(|| calls.trim().parse().ok())?
    });
    line.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_are_read() {
        let table = "\
syscall              calls
---------------- ---------
bpf                    253
---------------- ---------
total                  253
";
        assert_eq!(counted(table), 253);
        assert_eq!(counted(""), 0);
    }
}
