//! The proxies, each configured to do the same work: POST allowed by a regular
//! expression over the method and one over the path, an identifier for each
//! request, a record of it, connections to the backend kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use weft_integration::agent::Agent;
use weft_integration::bench::cores::Cores;
use weft_integration::bench::peers::Peers;
use weft_integration::bench::process::{Process, free_port};
use weft_integration::programs;

use crate::load::Protocol;

/// Name of ours, alone: records end in its own metrics.
pub const WEFT: &str = "weft";
/// Name of ours with an agent that takes its records.
pub const WEFT_AGENT: &str = "weft + agent";
/// Name of the peer that ratios are first of all about.
pub const ENVOY: &str = "envoy";
/// Name of the other one.
pub const NGINX: &str = "nginx";
/// Name of the backend without a proxy.
pub const DIRECT: &str = "direct";
const HAPROXY: &str = "haproxy";

/// A running proxy, or the backend itself.
#[derive(Debug)]
pub struct Contender {
    /// What tables call it.
    pub name: &'static str,
    /// What is measured.
    pub process: Process,
    http1: u16,
    http2: u16,
    agent: Option<Agent>,
}

impl Contender {
    /// Where it listens for this protocol.
    #[must_use]
    pub fn port(&self, protocol: Protocol) -> u16 {
        match protocol {
            Protocol::Http1 => self.http1,
            Protocol::Http2 => self.http2,
        }
    }

    /// Records that its agent got, and those that it did not get.
    #[must_use]
    pub fn records(&self) -> Option<(u64, u64)> {
        let received = self.agent.as_ref()?.received();
        Some((received.records(), received.lost()))
    }
}

/// Starts contenders.
#[derive(Debug, Clone, Copy)]
pub struct Stage<'a> {
    /// Their files.
    pub directory: &'a Path,
    /// Where they run.
    pub cores: &'a Cores,
    /// The others' programs.
    pub peers: &'a Peers,
}

impl Stage<'_> {
    /// The backend, beside the load.
    ///
    /// # Errors
    /// When nginx is not installed or does not start.
    pub fn backend(&self) -> anyhow::Result<Contender> {
        let nginx = self
            .peers
            .path(NGINX)
            .context("nginx is not installed: run scripts/bench-peers")?;
        let ports = Ports::choose(0)?;
        let directory = self.folder("backend")?;
        let config = ports.fill(include_str!("config/backend.conf"), &directory)?;
        let file = write(&directory, "backend.conf", &config)?;
        let process = Process::start(DIRECT, &mut nginx_command(nginx, &file), &directory, |c| {
            self.cores.load(c)
        })?;
        ready(process, DIRECT, ports, None)
    }

    /// All contenders whose programs are there; says which are not. With
    /// `only`, those whose name contains it, and the two that ratios are of.
    ///
    /// # Errors
    /// When one that is there does not start.
    pub fn contenders(
        &self,
        backend: &Contender,
        only: Option<&str>,
    ) -> anyhow::Result<Vec<Contender>> {
        let backend = backend.http1;
        let wanted = |name: &str| only.is_none_or(|only| name.contains(only));
        let mut contenders = Vec::new();
        if wanted(WEFT) {
            contenders.push(self.weft(backend)?);
        }
        if wanted(WEFT_AGENT) {
            contenders.push(self.weft_with_agent(backend)?);
        }
        for name in [ENVOY, NGINX, HAPROXY] {
            if name == HAPROXY && !wanted(name) {
                continue;
            }
            match self.peers.path(name) {
                Some(program) => contenders.push(self.peer(name, program, backend)?),
                None => eprintln!("{name} is not installed (scripts/bench-peers): left out"),
            }
        }
        Ok(contenders)
    }

    /// Ours alone, with an agent and without.
    ///
    /// # Errors
    /// When one does not start.
    pub fn ours(&self, backend: &Contender) -> anyhow::Result<Vec<Contender>> {
        let backend = backend.http1;
        Ok(vec![self.weft(backend)?, self.weft_with_agent(backend)?])
    }

    pub(super) fn peer(
        &self,
        name: &'static str,
        program: PathBuf,
        backend: u16,
    ) -> anyhow::Result<Contender> {
        let mut ports = Ports::choose(backend)?;
        let directory = self.folder(name)?;
        let mut command = match name {
            NGINX => {
                let config = ports.fill(include_str!("config/nginx.conf"), &directory)?;
                nginx_command(program, &write(&directory, "nginx.conf", &config)?)
            }
            HAPROXY => {
                ports.one();
                let config = ports.fill(include_str!("config/haproxy.cfg"), &directory)?;
                let mut command = Command::new(program);
                command.args(["-db", "-f"]);
                command.arg(write(&directory, "haproxy.cfg", &config)?);
                command
            }
            _ => {
                ports.one();
                let config = ports.fill(include_str!("config/envoy.yaml"), &directory)?;
                envoy_command(program, &directory, &config.replace("{{FILTERS}}", ""))?
            }
        };
        let process = Process::start(name, &mut command, &directory, |c| self.cores.measured(c))?;
        ready(process, name, ports, None)
    }

    pub(super) fn weft(&self, backend: u16) -> anyhow::Result<Contender> {
        let mut ports = Ports::choose(backend)?;
        ports.one();
        let directory = self.folder(WEFT)?;
        let snapshot = ports.fill(include_str!("config/snapshot.json"), &directory)?;
        let mut command = weft_command()?;
        command.arg("--snapshot");
        command.arg(write(&directory, "snapshot.json", &snapshot)?);
        let process = Process::start(WEFT, &mut command, &directory, |c| self.cores.measured(c))?;
        ready(process, WEFT, ports, None)
    }

    fn weft_with_agent(&self, backend: u16) -> anyhow::Result<Contender> {
        let mut ports = Ports::choose(backend)?;
        ports.one();
        let directory = self.folder("weft-agent")?;
        let snapshot = ports.fill(include_str!("config/snapshot.json"), &directory)?;
        let agent = Agent::start(&directory, serde_json::from_str(&snapshot)?)?;
        let mut command = weft_command()?;
        command.arg("--control-socket").arg(agent.socket());
        let process = Process::start(WEFT_AGENT, &mut command, &directory, |c| {
            self.cores.measured(c)
        })?;
        ready(process, WEFT_AGENT, ports, Some(agent))
    }

    pub(super) fn folder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let folder = self.directory.join(name);
        fs::create_dir(&folder)?;
        Ok(folder)
    }
}

pub(super) fn weft_command() -> anyhow::Result<Command> {
    let mut command = Command::new(programs::find("weft-proxy")?);
    command.args(["--node", "bench", "--workers", "1"]);
    command.env("RUST_LOG", "warn");
    command.env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
    Ok(command)
}

pub(super) fn envoy_command(
    program: PathBuf,
    directory: &Path,
    config: &str,
) -> anyhow::Result<Command> {
    let mut command = Command::new(program);
    command.args(["--concurrency", "1", "--disable-hot-restart"]);
    command.args(["--log-level", "error", "-c"]);
    command.arg(write(directory, "envoy.yaml", config)?);
    Ok(command)
}

fn nginx_command(program: PathBuf, config: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["-e", "stderr", "-c"]).arg(config);
    command
}

pub(super) fn ready(
    mut process: Process,
    name: &'static str,
    ports: Ports,
    agent: Option<Agent>,
) -> anyhow::Result<Contender> {
    process.await_port(ports.http1)?;
    Ok(Contender {
        name,
        process,
        http1: ports.http1,
        http2: ports.http2,
        agent,
    })
}

/// Where a contender listens, and where its backend does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) http1: u16,
    http2: u16,
    backend: u16,
}

impl Ports {
    pub(super) fn choose(backend: u16) -> anyhow::Result<Self> {
        Ok(Self {
            http1: free_port()?,
            http2: free_port()?,
            backend,
        })
    }

    /// Both protocols on one port: the contender tells them apart.
    pub(super) fn one(&mut self) {
        self.http2 = self.http1;
    }

    pub(super) fn fill(self, template: &str, directory: &Path) -> anyhow::Result<String> {
        let directory = directory.to_str().context("a temporary folder in UTF-8")?;
        // nginx's workers give up root's rights, and with them their files.
        let root = rustix::process::geteuid().is_root();
        Ok(template
            .replace("{{USER}}", if root { "user root;" } else { "" })
            .replace("{{DIR}}", directory)
            .replace("{{PORT}}", &self.http1.to_string())
            .replace("{{PORT2}}", &self.http2.to_string())
            .replace("{{BACKEND}}", &self.backend.to_string()))
    }
}

pub(super) fn write(directory: &Path, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let path = directory.join(name);
    fs::write(&path, text)?;
    Ok(path)
}
