//! One container: starting its process, following it, starting it again.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixDatagram;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::image::{Program, ReadyWhen};
use super::logs::LogFile;
use super::probe::Probe;
use super::record::{ContainerState, Ended, Held, Phase};
use crate::cgroup::Cgroup;
use crate::process::ProcessId;
use crate::sandbox::exit_code;

/// First wait before an ended container starts again; doubles with each time.
const BACKOFF: Duration = Duration::from_millis(200);
/// Longest wait.
const BACKOFF_MOST: Duration = Duration::from_secs(5);
/// A run that lasted this long makes the next wait short again.
const STEADY: Duration = Duration::from_secs(10);

/// What a supervisor is told.
pub(super) enum Order {
    /// End the process and hold the container, or start it again at once.
    Stop {
        kill: bool,
        hold: Held,
        done: oneshot::Sender<()>,
    },
}

/// When an ended container starts again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Restart {
    Always,
    OnFailure,
    Never,
}

/// One container of a pod.
pub(super) struct Container {
    pub state: ContainerState,
    pub program: Program,
    pub restart: Restart,
    /// Files of the pod.
    pub pod_dir: PathBuf,
    /// Name of the pod's network namespace; none for the machine's own.
    pub netns: Option<String>,
    /// Logs, one file a run.
    pub logs: PathBuf,
    /// The pod's pause process.
    pub sandbox: ProcessId,
    /// This binary.
    pub exe: PathBuf,
    /// Where the cluster's DNS would listen, and what it would answer.
    pub dns: Option<crate::dns::Server>,
}

/// Publishes a container's state under its place in the pod.
#[derive(Clone)]
pub(super) struct Reporter {
    pub place: usize,
    pub reports: mpsc::UnboundedSender<(usize, ContainerState)>,
}

impl Reporter {
    fn report(&self, state: &ContainerState) {
        // Nobody listens once the pod goes.
        let _ = self.reports.send((self.place, state.clone()));
    }
}

/// How a run came to its end.
enum Outcome {
    Exited(u8),
    Stopped(Held, oneshot::Sender<()>),
}

impl Container {
    /// Keeps the container running as its policy says, until the task is
    /// dropped.
    pub async fn supervise(mut self, mut orders: mpsc::Receiver<Order>, reporter: Reporter) {
        let mut backoff = BACKOFF;
        let mut first = true;
        loop {
            if !first {
                self.state.restarts += 1;
            }
            first = false;
            let began = Instant::now();
            match self.once(&mut orders, &reporter).await {
                Ok(Outcome::Exited(code)) => {
                    let again = match self.restart {
                        Restart::Always => true,
                        Restart::OnFailure => code != 0,
                        Restart::Never => false,
                    };
                    if !again {
                        if let Some(ended) = self.state.last {
                            self.state.phase = Phase::Ended(ended);
                        }
                        reporter.report(&self.state);
                        await_release(&mut orders).await;
                        continue;
                    }
                    self.waiting("CrashLoopBackOff", format!("exit code {code}"));
                }
                Ok(Outcome::Stopped(hold, done)) => {
                    self.waiting("Stopped", "stopped by hand".to_owned());
                    reporter.report(&self.state);
                    // Whoever asked may be gone.
                    let _ = done.send(());
                    if hold == Held::Yes {
                        await_release(&mut orders).await;
                    }
                    continue;
                }
                Err(error) => self.waiting("RunContainerError", format!("{error:#}")),
            }
            reporter.report(&self.state);
            if began.elapsed() > STEADY {
                backoff = BACKOFF;
            }
            tokio::select! {
                () = tokio::time::sleep(backoff) => backoff = (backoff * 2).min(BACKOFF_MOST),
                order = orders.recv() => backoff = self.while_down(order, &mut orders).await,
            }
        }
    }

    /// An order that came while nothing ran.
    async fn while_down(
        &mut self,
        order: Option<Order>,
        orders: &mut mpsc::Receiver<Order>,
    ) -> Duration {
        match order {
            Some(Order::Stop { hold, done, .. }) => {
                let _ = done.send(());
                if hold == Held::Yes {
                    await_release(orders).await;
                }
            }
            None => std::future::pending().await,
        }
        BACKOFF
    }

    fn waiting(&mut self, reason: &'static str, message: String) {
        self.state.phase = Phase::Waiting { reason, message };
    }

    /// One run, from start to end.
    async fn once(
        &mut self,
        orders: &mut mpsc::Receiver<Order>,
        reporter: &Reporter,
    ) -> anyhow::Result<Outcome> {
        let started = Timestamp::now();
        let outcome = match &self.program {
            Program::Dns => self.serve_dns(started, orders, reporter).await?,
            Program::Process { ready, .. } => {
                let probe = self.probe(ready)?;
                self.run_process(started, probe, orders, reporter).await?
            }
        };
        let code = match &outcome {
            Outcome::Exited(code) => *code,
            // As if by SIGTERM; nobody looks at it.
            Outcome::Stopped(..) => 143,
        };
        self.state.last = Some(Ended {
            code,
            started,
            finished: Timestamp::now(),
        });
        Ok(outcome)
    }

    async fn run_process(
        &mut self,
        started: Timestamp,
        mut probe: Probe,
        orders: &mut mpsc::Receiver<Order>,
        reporter: &Reporter,
    ) -> anyhow::Result<Outcome> {
        let mut child = self.spawn().await?;
        self.running(started, false, reporter);
        let mut ready = false;
        loop {
            let changed = async {
                match ready {
                    false => probe.until_ready().await,
                    true => probe.until_unready().await,
                }
            };
            tokio::select! {
                status = child.wait() => return Ok(Outcome::Exited(exit_code(status?))),
                () = changed => {
                    ready = !ready;
                    self.running(started, ready, reporter);
                }
                Some(Order::Stop { kill, hold, done }) = orders.recv() => {
                    self.end(&mut child, kill).await?;
                    return Ok(Outcome::Stopped(hold, done));
                }
            }
        }
    }

    async fn serve_dns(
        &mut self,
        started: Timestamp,
        orders: &mut mpsc::Receiver<Order>,
        reporter: &Reporter,
    ) -> anyhow::Result<Outcome> {
        let server = self
            .dns
            .as_ref()
            .context("the pod has no network of its own")?;
        let serving = server.bind().await?;
        self.running(started, true, reporter);
        tokio::select! {
            error = serving.run() => Err(error),
            Some(Order::Stop { hold, done, .. }) = orders.recv() => Ok(Outcome::Stopped(hold, done)),
        }
    }

    fn running(&mut self, since: Timestamp, ready: bool, reporter: &Reporter) {
        self.state.phase = Phase::Running { since, ready };
        reporter.report(&self.state);
    }

    fn probe(&self, ready: &ReadyWhen) -> anyhow::Result<Probe> {
        Ok(match ready {
            ReadyWhen::Started => Probe::Started,
            ReadyWhen::Healthy(socket) => Probe::healthy(socket),
            ReadyWhen::Serves { port, path } => Probe::Serves {
                netns: self.netns.clone(),
                port: *port,
                path: path.clone(),
            },
            ReadyWhen::Notified => {
                let path = self.notify_socket();
                if path.exists() {
                    std::fs::remove_file(&path)?;
                }
                Probe::Notified(UnixDatagram::bind(path)?)
            }
        })
    }

    fn notify_socket(&self) -> PathBuf {
        self.pod_dir.join(format!("{}.notify", self.state.name))
    }

    async fn spawn(&self) -> anyhow::Result<Child> {
        let Program::Process { argv, ready } = &self.program else {
            anyhow::bail!("not a process");
        };
        Cgroup::create(self.state.cgroup.clone()).context("make the container's cgroup")?;
        let mut command = enter_command(&self.exe, self.sandbox, &self.state.cgroup);
        command
            .arg("--")
            .args(argv)
            .env_clear()
            .envs(self.state.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if *ready == ReadyWhen::Notified {
            command.env("NOTIFY_SOCKET", self.notify_socket());
        }
        let mut child = command.spawn().context("start the container's process")?;
        let log = LogFile::create(&self.logs, self.state.restarts).await?;
        let log = Arc::new(log);
        if let Some(output) = child.stdout.take() {
            tokio::spawn(Arc::clone(&log).take_from(output));
        }
        if let Some(output) = child.stderr.take() {
            tokio::spawn(log.take_from(output));
        }
        Ok(child)
    }

    /// Ends the process: at once, or asking first.
    async fn end(&self, child: &mut Child, kill: bool) -> anyhow::Result<()> {
        if !kill {
            // The process that entered the pod hands the signal on.
            let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
            if let Some(pid) = pid {
                // It may have ended by itself just now.
                let _ = kill_process(pid, Signal::TERM);
            }
            if tokio::time::timeout(Duration::from_secs(5), child.wait())
                .await
                .is_ok()
            {
                return Ok(());
            }
        }
        let cgroup = Cgroup::at(self.state.cgroup.clone());
        tokio::task::spawn_blocking(move || cgroup.destroy()).await??;
        child.wait().await?;
        Ok(())
    }
}

/// This binary, about to run something in a sandbox.
pub(super) fn enter_command(
    exe: &std::path::Path,
    sandbox: ProcessId,
    cgroup: &std::path::Path,
) -> Command {
    let mut command = Command::new(exe);
    command
        .arg("enter")
        .args(["--pid", &sandbox.pid.to_string()])
        .args(["--start-time", &sandbox.start_time.to_string()])
        .arg("--cgroup")
        .arg(cgroup);
    command
}

/// Waits until a held container may run again.
async fn await_release(orders: &mut mpsc::Receiver<Order>) {
    while let Some(Order::Stop { hold, done, .. }) = orders.recv().await {
        let _ = done.send(());
        if hold == Held::No {
            return;
        }
    }
    std::future::pending().await
}
