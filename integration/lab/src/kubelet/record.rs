//! What is known about a pod while it runs.

use std::path::PathBuf;

use jiff::Timestamp;

use crate::process::ProcessId;

/// A pod, as its task publishes it.
#[derive(Debug, Clone, Default)]
pub struct PodState {
    /// Every container runs and is ready.
    pub ready: bool,
    /// Why nothing runs yet, when something went wrong.
    pub problem: Option<String>,
    /// The pause process, once there is one.
    pub sandbox: Option<ProcessId>,
    /// Name of the network namespace; none for the machine's own.
    pub netns: Option<String>,
    /// In the order of the spec.
    pub containers: Vec<ContainerState>,
}

/// A container, as its supervisor publishes it.
#[derive(Debug, Clone)]
pub struct ContainerState {
    /// Its name.
    pub name: String,
    /// Its image, as written in the spec.
    pub image: String,
    /// What it does.
    pub phase: Phase,
    /// How often it was started again: also the name of its log file.
    pub restarts: u32,
    /// How its previous run ended.
    pub last: Option<Ended>,
    /// Its environment, for `exec`.
    pub env: Vec<(String, String)>,
    /// Its cgroup.
    pub cgroup: PathBuf,
}

/// What a container does.
#[derive(Debug, Clone)]
pub enum Phase {
    /// Nothing yet.
    Waiting {
        /// One word, as kubectl shows it.
        reason: &'static str,
        /// Details.
        message: String,
    },
    /// It runs.
    Running {
        /// Since when.
        since: Timestamp,
        /// Whether it said, or a probe found, that it serves.
        ready: bool,
    },
    /// It ended and stays so.
    Ended(Ended),
}

/// How a run ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// Exit code; 128 and the signal for a kill.
    pub code: u8,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
}

/// Whether an ended container starts again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// As the restart policy says.
    No,
    /// Not before it is told to.
    Yes,
}

impl ContainerState {
    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running { .. })
    }

    /// Whether it runs and is ready.
    pub fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Running { ready: true, .. })
    }
}
