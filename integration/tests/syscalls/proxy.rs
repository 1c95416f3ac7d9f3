//! The real proxy, on a snapshot with a policy.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use weft_integration::programs;

/// Longest wait for anything.
const DEADLINE: Duration = Duration::from_secs(60);

/// Between two looks at something that nobody announces.
const AGAIN: Duration = Duration::from_millis(2);

/// Waits for something, but not for ever.
pub async fn within<T>(what: &str, waiting: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, waiting).await {
        Ok(done) => done,
        Err(_elapsed) => panic!("still waiting for {what}"),
    }
}

/// Looks until something is there.
pub async fn until<T>(what: &str, mut there: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        let mut looks = tokio::time::interval(AGAIN);
        loop {
            looks.tick().await;
            if let Some(found) = there().await {
                return found;
            }
        }
    };
    within(what, looking).await
}

/// A running proxy; killed when dropped.
pub struct Proxy {
    child: Child,
    pub address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Proxy {
    pub async fn start(server: SocketAddr) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let snapshot = directory.path().join("snapshot.json");
        std::fs::write(&snapshot, snapshot_for(server).to_string()).expect("written");
        let admin = directory.path().join("admin.sock");
        let program = programs::find("weft-proxy").expect("the proxy's program");
        let child = Command::new(program)
            .args(["--node", "test", "--workers", "1", "--snapshot"])
            .arg(&snapshot)
            .arg("--admin-socket")
            .arg(&admin)
            .env("RUST_LOG", "warn")
            .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT")
            .stdin(Stdio::null())
            .spawn()
            .expect("the proxy starts");
        let mut proxy = Self {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            _directory: directory,
        };
        proxy.address = until("the proxy", async || listener(&admin).await).await;
        proxy
    }

    /// The thread that serves requests. What the others do depends on time,
    /// not on requests.
    pub fn worker(&self) -> u32 {
        let named = |thread: &u32| {
            let name = self.task(*thread, "comm");
            name.is_ok_and(|name| name.trim() == "worker-0")
        };
        self.threads().into_iter().find(named).expect("a worker")
    }

    /// Stops it where it is, until the guard is dropped.
    pub async fn stop(&self) -> Stopped {
        let stopped = Stopped::new(self.child.id());
        let still = |thread: &u32| {
            let stat = self.task(*thread, "stat").expect("its state");
            let (_name, rest) = stat.rsplit_once(") ").expect("its state");
            // Stopped, by a signal or in the hands of a tracer.
            rest.starts_with(['T', 't'])
        };
        until("the proxy to stop", async || {
            self.threads().iter().all(still).then_some(())
        })
        .await;
        stopped
    }

    fn threads(&self) -> Vec<u32> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        tasks
            .expect("the proxy runs")
            .flatten()
            .filter_map(|task| task.file_name().to_str()?.parse().ok())
            .collect()
    }

    fn task(&self, thread: u32, file: &str) -> std::io::Result<String> {
        std::fs::read_to_string(format!("/proc/{}/task/{thread}/{file}", self.child.id()))
    }
}

/// A stopped process; goes on when this is dropped.
pub struct Stopped(Pid);

impl Stopped {
    fn new(process: u32) -> Self {
        let process = i32::try_from(process).ok().and_then(Pid::from_raw);
        let process = process.expect("a process number");
        kill_process(process, Signal::STOP).expect("it runs");
        Self(process)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _gone = kill_process(self.0, Signal::CONT);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// Where it listens, as it says itself.
async fn listener(admin: &Path) -> Option<SocketAddr> {
    let mut stream = UnixStream::connect(admin).await.ok()?;
    let request = "GET /config HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (_head, body) = answer.split_once("\r\n\r\n")?;
    let config: Value = serde_json::from_str(body).ok()?;
    config["listeners"][0]["address"].as_str()?.parse().ok()
}

fn snapshot_for(server: SocketAddr) -> Value {
    json!({
        "version": "1",
        "node": { "name": "test", "ip": "127.0.0.1", "cluster": "default" },
        "listeners": [{ "name": "http", "address": "127.0.0.1:0", "cluster": "server" }],
        "endpoints": [{
            "id": 1, "namespace": "default", "pod": "client", "ip": "127.0.0.1", "identity": 1000,
        }],
        "identities": [{ "id": 1000, "labels": ["k8s:class=tiefighter"] }],
        "addresses": [{ "cidr": "127.0.0.1/32", "identity": 1000 }],
        "policies": [{
            "endpoint_id": 1,
            "direction": "EGRESS",
            "port_first": server.port(),
            "port_last": server.port(),
            "rules": [{
                "http": [{ "method": "POST|PUT", "path": "/v1/request-[a-z]+" }],
                "rule": {
                    "kind": "CiliumNetworkPolicy",
                    "namespace": "default",
                    "name": "rule1",
                    "rule": "egress[0].toPorts[0]",
                },
            }],
        }],
        "clusters": [{
            "name": "server",
            "connect_timeout": "5s",
            "endpoints": [{ "address": server.to_string() }],
        }],
    })
}
