//! Counting with `strace -c`.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::proxy::until;

/// What was counted.
pub struct Counted {
    /// System calls.
    pub calls: u32,
    /// By name, as strace prints it.
    pub table: String,
}

/// A running strace; killed when dropped, which lets the traced process go.
pub struct Trace {
    child: Child,
    output: PathBuf,
    _directory: tempfile::TempDir,
}

impl Trace {
    /// Counts the calls of this thread from now on.
    pub async fn of(thread: u32) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let output = directory.path().join("calls");
        let child = Command::new("strace")
            .args(["-c", "-q", "-o"])
            .arg(&output)
            .args(["-p", &thread.to_string()])
            .stdin(Stdio::null())
            .spawn()
            .expect("strace is installed (`make setup`)");
        let mut trace = Self {
            child,
            output,
            _directory: directory,
        };
        until("strace to attach", async || {
            if let Some(status) = trace.child.try_wait().expect("its status") {
                panic!("strace cannot trace here: {status}");
            }
            traced(thread).then_some(())
        })
        .await;
        trace
    }

    /// Stops counting.
    pub async fn finish(mut self) -> Counted {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process number"), Signal::INT).expect("strace runs");
        until("strace's end", async || {
            self.child.try_wait().expect("its status")
        })
        .await;
        let table = std::fs::read_to_string(&self.output).expect("what strace counted");
        Counted {
            calls: total(&table).expect("a total"),
            table,
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// Whether the thread has a tracer.
fn traced(thread: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status"));
    status
        .expect("the thread runs")
        .lines()
        .any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"))
}

/// The number of calls on the line of the total: after share, seconds and
/// microseconds per call.
fn total(table: &str) -> Option<u32> {
    let line = table.lines().find(|line| line.ends_with(" total"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[test]
fn the_total_is_read() {
    let table = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
100.00    0.000021           4         5           read
------ ----------- ----------- --------- --------- ----------------
100.00    0.000021           4         7         1 total
";
    assert_eq!(total(table), Some(7));
}
