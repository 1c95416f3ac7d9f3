//! The proxy's program.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use weft_api::node::Snapshot;

use super::{until, within};

/// A running proxy; killed when dropped.
pub struct Process {
    pub child: Child,
    directory: tempfile::TempDir,
    pub started: Instant,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

impl Process {
    pub fn start(snapshot: &Snapshot) -> Self {
        Self::start_with(snapshot, &[])
    }

    pub fn start_with(snapshot: &Snapshot, variables: &[(&str, &str)]) -> Self {
        let text = serde_json::to_string(snapshot).expect("JSON");
        let arguments = ["--workers", "1", "--drain-seconds", "20"];
        Self::run(&text, &arguments, variables)
    }

    /// Runs from a file with this text.
    pub fn run(snapshot: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = directory.path().join("snapshot.json");
        std::fs::write(&file, snapshot).expect("written");
        let started = Instant::now();
        let child = Command::new(env!("CARGO_BIN_EXE_weft-proxy"))
            .args(arguments)
            .arg("--snapshot")
            .arg(&file)
            .arg("--admin-socket")
            .arg(directory.path().join("admin.sock"))
            .stdin(Stdio::null())
            .envs(variables.iter().copied())
            .spawn()
            .expect("the proxy starts");
        Self {
            child,
            directory,
            started,
        }
    }

    pub fn file(&self) -> PathBuf {
        self.directory.path().join("snapshot.json")
    }

    /// GET from the admin page, once it is there.
    pub async fn admin(&self, path: &str) -> String {
        get(&self.directory.path().join("admin.sock"), path).await
    }

    /// Where it listens.
    pub async fn address(&self) -> std::net::SocketAddr {
        let config = self.admin("/config").await;
        let json = config.split("\r\n\r\n").nth(1).expect("a body");
        let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
        let address = json["listeners"][0]["address"]
            .as_str()
            .expect("an address");
        address.parse().expect("an address")
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([name, &self.child.id().to_string()])
            .status()
            .expect("kill");
        assert!(status.success());
    }

    /// Peak resident memory in bytes.
    pub fn peak(&self) -> u64 {
        let peak = self.status("VmHWM:");
        let kib: u64 = peak.trim_end_matches(" kB").parse().expect("a number");
        kib * 1024
    }

    /// What the kernel says of it.
    pub fn status(&self, name: &str) -> String {
        let file = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(file).expect("the process's status");
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix(name));
        line.expect("a line").trim().to_owned()
    }
}

/// GET from an admin page, once it is there.
pub async fn get(socket: &Path, path: &str) -> String {
    let mut connected = None;
    until(async || {
        connected = UnixStream::connect(socket).await.ok();
        connected.is_some()
    })
    .await;
    let mut stream = connected.expect("connected");
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    let read = within(stream.read_to_string(&mut answer)).await;
    read.expect("read");
    answer
}

/// A snapshot as the proxy reads it.
pub fn write(file: &Path, snapshot: &Snapshot) {
    let text = serde_json::to_vec(snapshot).expect("JSON");
    std::fs::write(file, text).expect("written");
}
