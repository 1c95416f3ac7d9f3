//! Starting a pod's sandbox and waiting until it holds.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::cgroup::Cgroup;
use crate::process::ProcessId;
use crate::sandbox::{PID_LINE, READY_LINE, SandboxSpec};

/// How long making namespaces may take on a machine under load.
const PATIENCE: Duration = Duration::from_secs(10);

/// A pod's namespaces, held by a process. They end with its cgroup.
pub(super) struct Sandbox {
    process: ProcessId,
    /// The process that made them and waits for the one in them.
    _maker: Child,
}

impl Sandbox {
    /// Makes a sandbox.
    ///
    /// # Errors
    /// With what the making process said.
    pub async fn start(
        exe: &Path,
        dir: &Path,
        cgroup: &Path,
        spec: &SandboxSpec,
    ) -> anyhow::Result<Self> {
        Cgroup::create(cgroup.to_path_buf()).context("make the pod's cgroup")?;
        Cgroup::create(spec.cgroup.clone())?;
        let file = dir.join("sandbox.json");
        crate::state::write_json(&file, spec)?;
        let mut maker = Command::new(exe)
            .arg("sandbox")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("start the sandbox process")?;
        let output = maker.stdout.take().context("no output")?;
        let mut lines = BufReader::new(output).lines();
        match tokio::time::timeout(PATIENCE, handshake(&mut lines)).await {
            Ok(Ok(process)) => Ok(Self {
                process,
                _maker: maker,
            }),
            Ok(Err(error)) => {
                let mut said = String::new();
                maker.kill().await?;
                if let Some(mut errors) = maker.stderr.take() {
                    // What it said remains readable, and ends.
                    let _ = errors.read_to_string(&mut said).await;
                }
                Err(error.context(said.trim().to_owned()))
            }
            Err(_) => bail!("not made within {PATIENCE:?}"),
        }
    }

    /// The first process of the pod.
    pub fn process(&self) -> ProcessId {
        self.process
    }
}

/// Reads both lines: two processes write them, so they come in either order.
async fn handshake(lines: &mut Lines<BufReader<ChildStdout>>) -> anyhow::Result<ProcessId> {
    let (mut process, mut ready) = (None, false);
    loop {
        if let (Some(process), true) = (process, ready) {
            return Ok(process);
        }
        let line = lines.next_line().await?.context("it ended")?;
        if line == READY_LINE {
            ready = true;
        } else if let Some(pid) = line.strip_prefix(PID_LINE).and_then(|pid| pid.parse().ok()) {
            process = Some(ProcessId::of(pid)?);
        } else {
            bail!("unexpected {line:?}");
        }
    }
}
