//! Where modules are compiled: in this process, or in one of their own.
//!
//! Beside requests it is one of their own. A compiler leaves little of the caches to whoever has the
//! processor after it, also where it runs only when nobody else wants to: a process can be stopped in
//! between, a thread cannot. And what it is given is anybody's: a module that it stumbles over, or
//! that it needs too much memory for, ends that process (though where a container ends as a whole for
//! lack of memory, this one too).

mod child;
mod order;
mod outcome;
mod program;
mod throttle;

use std::path::PathBuf;
use std::thread;

use super::LoadError;
use super::compile::{compile, threads};
use child::Child;

pub use order::Order;
pub use program::{COMPILE, main};

/// What compiles modules.
#[derive(Debug, Clone)]
pub enum Compiler {
    /// Threads of this process, on all processors, for somebody who waits for it.
    Here,
    /// A process of its own, of this program started with the argument [`COMPILE`], beside requests
    /// that this process serves. It is trusted as this program is: what it leaves is run.
    Apart(PathBuf),
}

impl Compiler {
    /// Native code for a module. It waits for that; where it is a process, no longer than somebody
    /// wants it.
    pub(super) fn compile(&self, bytes: &[u8], order: &Order) -> Result<Vec<u8>, LoadError> {
        let no_compiler = |error: std::io::Error| LoadError::NoCompiler(error.to_string());
        match self {
            Self::Here => {
                let processors = thread::available_parallelism().map_or(1, usize::from);
                let threads = threads(processors).map_err(no_compiler)?;
                Ok(compile(bytes, &threads)?)
            }
            Self::Apart(program) => {
                let mut child = Child::start(program, bytes).map_err(no_compiler)?;
                let ended = child.wait(order).map_err(no_compiler)?;
                let status = ended.ok_or(LoadError::GivenUp)?;
                outcome::of(status, child.output().map_err(no_compiler)?)
            }
        }
    }
}
