//! A pod's namespaces, and processes that run in them.
//!
//! Three hidden subcommands of this binary, because each needs a process that
//! has one thread:
//! - `sandbox`: joins the pod's network namespace, makes its mount, UTS, IPC and
//!   PID namespaces, and starts `pause` in them;
//! - `pause`: the first process of the PID namespace. It mounts /proc, reaps
//!   orphans, and when it goes the kernel kills whatever is left of the pod;
//! - `enter`: joins the namespaces and the cgroup of a sandbox and runs a
//!   command there, handing its exit code and signals through.

mod enter;
mod hold;

pub(crate) use enter::exit_code;
pub use enter::{EnterArgs, enter};
pub use hold::{SandboxSpec, pause, sandbox};

/// Line that `sandbox` prints: the machine's number of the pause process.
pub(crate) const PID_LINE: &str = "pid ";
/// Line from the pause process itself: the namespaces are complete.
pub(crate) const READY_LINE: &str = "ready";
