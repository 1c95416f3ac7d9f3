//! Processes by number and start time: a number alone may be another's by now.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// A process that is or was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ProcessId {
    /// Its number on the machine.
    pub pid: i32,
    /// Clock ticks since boot at its start.
    pub start_time: u64,
}

impl ProcessId {
    /// The process that has this number now.
    ///
    /// # Errors
    /// When there is none.
    pub fn of(pid: i32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let start_time = start_time(&stat).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { pid, start_time })
    }

    /// The calling process.
    ///
    /// # Errors
    /// When /proc is not there.
    pub fn current() -> io::Result<Self> {
        Self::of(rustix::process::getpid().as_raw_nonzero().get())
    }

    /// Whether it still runs (a zombie does not).
    pub fn is_alive(&self) -> bool {
        let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", self.pid)) else {
            return false;
        };
        start_time(&stat) == Some(self.start_time) && !is_zombie(&stat)
    }

    /// Sends a signal if it still runs.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.pid)
            && self.is_alive()
        {
            // It may end between the check and this.
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits until it has ended; false when it outlives the time. Blocks.
    pub fn wait_gone(&self, most: Duration) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let Some(pid) = Pid::from_raw(self.pid) else {
            return true;
        };
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
            return true;
        };
        if !self.is_alive() {
            return true;
        }
        let timeout = Timespec {
            tv_sec: most.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: most.subsec_nanos().into(),
        };
        // A pidfd becomes readable when its process ends.
        let ended = rustix::io::retry_on_intr(|| {
            poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout))
        });
        matches!(ended, Ok(1..)) || !self.is_alive()
    }
}

/// Field 22 of /proc/PID/stat. The name in field 2 may hold anything.
fn start_time(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}

fn is_zombie(stat: &str) -> bool {
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

/// Reads a process that was written down as JSON; `None` when there is no file.
///
/// # Errors
/// When the file cannot be read or is not one.
pub fn read(path: &Path) -> io::Result<Option<ProcessId>> {
    match fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_a_wild_name() {
        let stat = "42 (a) b) c) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 1 2";
        assert_eq!(start_time(stat), Some(98765));
        assert!(!is_zombie(stat));
        assert!(is_zombie("42 (x) Z 1"));
    }

    #[test]
    fn this_process_lives_and_a_reused_number_does_not() {
        let me = ProcessId::current().unwrap();
        assert!(me.is_alive());
        let earlier = ProcessId {
            start_time: me.start_time.wrapping_sub(1),
            ..me
        };
        assert!(!earlier.is_alive());
        assert!(earlier.wait_gone(Duration::from_secs(1)));
    }
}
