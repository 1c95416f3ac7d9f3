//! The process that compiles, from inside: the module comes from standard input, what was compiled
//! of it goes to standard output.

use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::thread;

use rustix::fs::SeekFrom;
use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, disable_transparent_huge_pages, set_capabilities,
    set_no_new_privs,
};

use super::outcome::{REFUSED, UNABLE};
use crate::module::cache::MAX_FILE;
use crate::module::compile::{compile, threads};
use crate::runtime::step_back;

/// The only argument of a program that is to compile the module on its standard input.
pub const COMPILE: &str = "compile-module";

/// Threads that compile on a large machine.
const MOST_THREADS: usize = 4;
/// Seconds of processor time: ten times what a module may take that is not refused before.
const MOST_SECONDS: u64 = 600;
/// So many seconds later it is ended in a way that says less.
const GRACE_SECONDS: u64 = 5;

/// The whole life of that process.
#[must_use]
pub fn main() -> ExitCode {
    match live() {
        Ok(code) => code,
        Err(error) => {
            // In place of what it had written, if that was it. Nobody may be there to read it.
            let _told = rustix::fs::ftruncate(io::stdout(), 0);
            let _told = rustix::fs::seek(io::stdout(), SeekFrom::Start(0));
            let _told = write!(io::stdout(), "{error}");
            ExitCode::from(UNABLE)
        }
    }
}

fn live() -> io::Result<ExitCode> {
    confine()?;
    let mut module = Vec::new();
    io::stdin().lock().read_to_end(&mut module)?;
    let (code, left) = match compile(&module, &threads(half_of_the_processors())?) {
        Ok(native) => (ExitCode::SUCCESS, native),
        Err(refusal) => (ExitCode::from(REFUSED), serde_json::to_vec(&refusal)?),
    };
    let mut output = io::stdout().lock();
    output.write_all(&left)?;
    output.flush()?;
    Ok(code)
}

/// Half of the processors, so that they leave one alone where there are more. A worker waits longer
/// when it wakes on a processor that has two of them.
fn half_of_the_processors() -> usize {
    let all = thread::available_parallelism().map_or(1, usize::from);
    (all / 2).clamp(1, MOST_THREADS)
}

/// It runs behind everybody else, ends with whoever started it, and may do nothing that needs a
/// privilege. That is no sandbox: what it leaves is run. And it is not the first to go where memory is
/// short: containers end as a whole, and that of the proxy would go for others' needs.
fn confine() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    step_back();
    limit(Resource::Cpu, MOST_SECONDS, MOST_SECONDS + GRACE_SECONDS)?;
    limit(Resource::Fsize, MAX_FILE, MAX_FILE)?;
    limit(Resource::Core, 0, 0)?;
    // The proxy refuses them, to take no more memory than it uses. A compiler takes a quarter longer
    // without, and is gone soon.
    disable_transparent_huge_pages(false)?;
    set_no_new_privs(true)?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, none)?)
}

fn limit(resource: Resource, current: u64, maximum: u64) -> io::Result<()> {
    let limits = Rlimit {
        current: Some(current),
        maximum: Some(maximum),
    };
    Ok(setrlimit(resource, limits)?)
}
