//! A process that compiles, as whoever started it sees it: it is given a file, runs at a pace, and
//! leaves another file.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use rustix::time::{ClockId, clock_gettime};

use super::order::Order;
use super::program::COMPILE;
use super::throttle::{Moment, Throttle, Turn};
use crate::module::cache::MAX_FILE;

/// It is gone when this is dropped, and when the thread ends that has started it.
pub(super) struct Child {
    process: std::process::Child,
    ended: OwnedFd,
    output: File,
}

impl Child {
    /// Starts it.
    pub(super) fn start(program: &Path, input: &[u8]) -> io::Result<Self> {
        let output = in_memory("compiled", &[])?;
        let mut process = Command::new(program)
            .arg(COMPILE)
            .stdin(Stdio::from(in_memory("module", input)?))
            .stdout(Stdio::from(output.try_clone()?))
            .spawn()?;
        let ended = pidfd_open(Pid::from_child(&process), PidfdFlags::empty());
        match ended {
            Ok(ended) => Ok(Self {
                process,
                ended,
                output,
            }),
            Err(error) => {
                end(&mut process);
                Err(error.into())
            }
        }
    }

    /// Waits until it has ended; nothing if it was given up.
    pub(super) fn wait(&mut self, order: &Order) -> io::Result<Option<ExitStatus>> {
        let before = order.waits_since().elapsed();
        let mut throttle = Throttle::new(now(), before);
        let mut turn = Turn::Run;
        loop {
            if order.is_given_up() {
                return Ok(None);
            }
            if self.ends_within(turn.lasts())? {
                return self.process.wait().map(Some);
            }
            let before = std::mem::replace(&mut turn, throttle.next(now()));
            if (before == Turn::Rest) != (turn == Turn::Rest) {
                self.signal(turn);
            }
        }
    }

    /// What it left.
    pub(super) fn output(&mut self) -> io::Result<Vec<u8>> {
        let size = self.output.metadata()?.len();
        // It was told so.
        if size > MAX_FILE {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        self.output.rewind()?;
        let mut output = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        Read::by_ref(&mut self.output)
            .take(size)
            .read_to_end(&mut output)?;
        Ok(output)
    }

    fn ends_within(&self, time: Duration) -> io::Result<bool> {
        let time = Timespec::try_from(time).map_err(io::Error::other)?;
        let mut files = [PollFd::new(&self.ended, PollFlags::IN)];
        match poll(&mut files, Some(&time)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn signal(&self, turn: Turn) {
        let signal = match turn {
            Turn::Run | Turn::RunOn => Signal::CONT,
            Turn::Rest => Signal::STOP,
        };
        // It was not waited for, so its number is still its own. One that has ended needs none.
        let _ended = kill_process(Pid::from_child(&self.process), signal);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

fn end(process: &mut std::process::Child) {
    // One that has ended already is as good.
    let _ended = process.kill();
    let _status = process.wait();
}

/// A file that is on no disk.
fn in_memory(name: &str, content: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

fn now() -> Moment {
    let read = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
    Moment {
        time: read(ClockId::Monotonic),
        used: read(ClockId::ProcessCPUTime),
    }
}
