//! A lab of the bench's own, driven by its command line.

use std::io::Write;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;
use weft_integration::programs;

/// How long a pod may take to run.
const PATIENCE: Duration = Duration::from_secs(30);
const NAP: Duration = Duration::from_millis(100);

/// How packets between nodes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Routing {
    /// In UDP.
    Vxlan,
    /// As they are.
    Native,
}

impl Routing {
    fn flag(self) -> &'static str {
        match self {
            Self::Vxlan => "--routing=vxlan",
            Self::Native => "--routing=native",
        }
    }
}

/// A lab of two nodes; taken down when dropped.
#[derive(Debug)]
pub struct Lab(&'static str);

impl Lab {
    /// Brings it up, with the mesh or without.
    ///
    /// # Errors
    /// When it does not come up; what was made of it is removed.
    pub fn up(name: &'static str, routing: Routing, mesh: bool) -> anyhow::Result<Self> {
        let lab = Self(name);
        let mut words = vec!["up", "--nodes=2", routing.flag()];
        if !mesh {
            words.push("--no-mesh");
        }
        lab.run(&words)?;
        Ok(lab)
    }

    /// Creates the objects of a manifest.
    ///
    /// # Errors
    /// When one is refused.
    pub fn apply(&self, manifest: &Value) -> anyhow::Result<()> {
        let mut child = self
            .command(&["apply", "-f", "-"])?
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let text = serde_json::to_vec(manifest)?;
        child.stdin.take().context("a pipe")?.write_all(&text)?;
        let status = child.wait()?;
        if !status.success() {
            bail!("weft-lab apply: {status}");
        }
        Ok(())
    }

    /// Waits until a pod runs, and returns its address.
    ///
    /// # Errors
    /// When it does not run in time.
    pub fn address(&self, pod: &str) -> anyhow::Result<Ipv4Addr> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let object = self.run(&["get", "pod", pod, "-o", "json"])?;
            let status = &serde_json::from_str::<Value>(&object)?["status"];
            if status["phase"] == "Running" {
                let address = status["podIP"].as_str().context("a pod's address")?;
                return Ok(address.parse()?);
            }
            if Instant::now() > deadline {
                bail!("pod {pod} does not run: {status}");
            }
            thread::sleep(NAP);
        }
    }

    /// Runs this very program in a pod, in one of its roles.
    ///
    /// # Errors
    /// When it fails there.
    pub fn exec(&self, pod: &str, words: &[&str]) -> anyhow::Result<String> {
        let program = std::env::current_exe()?;
        let program = program.to_str().context("a path in UTF-8")?;
        self.run(&[&["exec", pod, "--", program], words].concat())
    }

    fn run(&self, words: &[&str]) -> anyhow::Result<String> {
        let output = self.command(words)?.stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!(
                "weft-lab --name {} {}: {}{}",
                self.0,
                words.join(" "),
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    fn command(&self, words: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(programs::find("weft-lab")?);
        command.args(["--name", self.0]).args(words);
        Ok(command)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.run(&["down"]) {
            eprintln!("{error:#}");
        }
    }
}
