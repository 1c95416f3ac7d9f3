//! Which processor does what.

use std::io;
use std::process::{Child, Command};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The processors that this process may use, divided between what is measured
/// and what loads it. With a single one both share it, and the numbers say
/// little about rates but still something about CPU time.
#[derive(Debug, Clone)]
pub struct Cores {
    measured: usize,
    load: Vec<usize>,
}

impl Cores {
    /// The last processor for what is measured, all others for the load.
    ///
    /// # Errors
    /// When the kernel does not say which there are.
    pub fn divide() -> io::Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let mut load: Vec<usize> = (0..CpuSet::MAX_CPU)
            .filter(|cpu| allowed.is_set(*cpu))
            .collect();
        let measured = load.last().copied().unwrap_or_default();
        if load.len() > 1 {
            load.pop();
        }
        Ok(Self { measured, load })
    }

    /// Starts what is measured.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn measured(&self, command: &mut Command) -> io::Result<Child> {
        let spawned = pin(&[self.measured]).and_then(|()| command.spawn());
        // What this thread starts later must not inherit it.
        self.stay_with_load()?;
        spawned
    }

    /// Starts a part of the load.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn load(&self, command: &mut Command) -> io::Result<Child> {
        self.stay_with_load()?;
        command.spawn()
    }

    /// Keeps the calling thread, and threads that it starts, off what is
    /// measured.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn stay_with_load(&self) -> io::Result<()> {
        pin(&self.load)
    }
}

/// Binds the calling thread, and what it starts, to these processors.
///
/// # Errors
/// When none of them exists.
pub fn pin(cpus: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        set.set(*cpu);
    }
    Ok(sched_setaffinity(None, &set)?)
}
