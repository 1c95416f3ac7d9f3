//! What a process has used of the machine, as the kernel accounts for it.

use std::ops::Sub;
use std::time::Duration;
use std::{fs, io};

/// CPU time, context switches and memory of a process, its threads and its
/// children.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// In user space and in the kernel together.
    pub cpu: Duration,
    /// Turns of the kernel's clock that found it in user space, and in the
    /// kernel: a sample of how `cpu` divides.
    pub user: u64,
    /// See `user`.
    pub kernel: u64,
    /// Voluntary and involuntary ones.
    pub switches: u64,
    /// Resident memory at the moment, in bytes. Memory that processes share is
    /// counted for each.
    pub resident: u64,
}

impl Usage {
    /// Reads it for the process of this number.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn of(pid: u32) -> io::Result<Self> {
        let mut usage = Self::default();
        for pid in family(pid)? {
            usage.add(pid)?;
        }
        Ok(usage)
    }

    fn add(&mut self, pid: u32) -> io::Result<()> {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            // Nanoseconds on a processor, those waiting for one, and turns.
            let schedule = fs::read_to_string(task.join("schedstat"))?;
            let nanos = schedule.split_whitespace().next().and_then(number);
            self.cpu += Duration::from_nanos(nanos.unwrap_or_default());
            let stat = fs::read_to_string(task.join("stat"))?;
            self.user += after_name(&stat, USER_TICKS).unwrap_or_default();
            self.kernel += after_name(&stat, KERNEL_TICKS).unwrap_or_default();
            let status = fs::read_to_string(task.join("status"))?;
            self.switches += field(&status, "voluntary_ctxt_switches:");
            self.switches += field(&status, "nonvoluntary_ctxt_switches:");
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        self.resident += field(&status, "VmRSS:") * 1024;
        Ok(())
    }
}

impl Sub for Usage {
    type Output = Self;

    /// What was used since `earlier`; memory is what it is now.
    fn sub(self, earlier: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            user: self.user.saturating_sub(earlier.user),
            kernel: self.kernel.saturating_sub(earlier.kernel),
            switches: self.switches.saturating_sub(earlier.switches),
            resident: self.resident,
        }
    }
}

/// A process and its children, and theirs.
///
/// # Errors
/// When the kernel shows no processes.
pub fn family(pid: u32) -> io::Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        // One that ended since has no parent to be found by.
        if let Some(child) = name.to_str().and_then(|name| name.parse::<u32>().ok())
            && let Ok(stat) = fs::read_to_string(format!("/proc/{child}/stat"))
            && let Some(parent) = parent(&stat)
        {
            parents.push((child, parent));
        }
    }
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(member) = family.get(next).copied() {
        family.extend(
            parents
                .iter()
                .filter(|(_, p)| *p == member)
                .map(|(c, _)| *c),
        );
        next += 1;
    }
    Ok(family)
}

/// Fields of `stat`, counted behind the name.
const PARENT: usize = 1;
const USER_TICKS: usize = 11;
const KERNEL_TICKS: usize = 12;

fn parent(stat: &str) -> Option<u32> {
    after_name(stat, PARENT)?.try_into().ok()
}

/// A field behind the name, which may hold anything.
fn after_name(stat: &str, field: usize) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(field).and_then(number)
}

fn field(status: &str, name: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(number)
        .unwrap_or_default()
}

fn number(text: &str) -> Option<u64> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Usage, family, field, parent};

    #[test]
    fn reads_the_kernels_files() {
        assert_eq!(parent("12 (a) b) S 7 12 12"), Some(7));
        assert_eq!(field("VmRSS:\t  2048 kB\nThreads: 3", "VmRSS:"), 2048);
        assert_eq!(field("", "VmRSS:"), 0);
    }

    #[test]
    fn a_process_uses_more_as_it_works() {
        let own = std::process::id();
        let before = Usage::of(own).expect("own usage");
        // Work that no optimiser removes.
        while Usage::of(own).expect("own usage").cpu == before.cpu {}
        assert!(before.resident > 0);
        assert_eq!(family(own).expect("processes").first(), Some(&own));
    }
}
