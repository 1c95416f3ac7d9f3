//! Both proxies, with a listener for each filter.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use weft_api::node::{
    Callout, CalloutBackend, Direction, Filter, FilterChain, FilterPhase, FilterPlugin, FilterStep,
    Snapshot,
};
use weft_integration::bench::process::{Process, free_port};
use weft_integration::programs;

use crate::FILTERS;
use crate::backend::Backend;
use crate::requests::probe;

/// What filters ask, by the name of its Service and of its cluster.
const SERVICE: &str = "authz.default:80";

/// How long filters may take to be there.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running proxy.
pub struct Proxy {
    process: Process,
    /// Its listener for each filter.
    pub ports: Vec<u16>,
}

impl Proxy {
    fn start(
        name: &str,
        command: &mut Command,
        directory: &Path,
        ports: Vec<u16>,
    ) -> anyhow::Result<Self> {
        let mut process = Process::start(name, command, directory, Command::spawn)?;
        for port in &ports {
            process.await_port(*port)?;
        }
        Ok(Self { process, ports })
    }

    /// Waits until a filter serves: one request has then passed it.
    pub async fn ready(&self, filter: usize) {
        let begin = Instant::now();
        let mut naps = tokio::time::interval(Duration::from_millis(50));
        loop {
            naps.tick().await;
            let status = probe(self.ports[filter]).await;
            if status == 200 {
                return;
            }
            let log = self.process.last_words();
            assert_eq!(status, 503, "{log}");
            assert!(begin.elapsed() < PATIENCE, "no filter: {log}");
        }
    }
}

fn ports() -> anyhow::Result<Vec<u16>> {
    let ports: Result<_, _> = FILTERS.iter().map(|_| free_port()).collect();
    ports.context("ports")
}

fn cluster(name: &str, port: u16) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "load_assignment": { "cluster_name": name, "endpoints": [{ "lb_endpoints": [{
            "endpoint": { "address": address(port) }
        }]}]},
    })
}

fn address(port: u16) -> Value {
    json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } })
}

/// Envoy.
pub fn envoy(
    program: &Path,
    directory: &Path,
    module: &Path,
    backend: &Backend,
) -> anyhow::Result<Proxy> {
    let ports = ports()?;
    let of = |kind: &str| format!("type.googleapis.com/{kind}");
    let filters = "envoy.extensions.filters";
    let listener = |((name, config), (port, cluster)): (&(&str, &str), (&u16, &u16))| {
        let wasm = json!({
            "@type": of(&format!("{filters}.http.wasm.v3.Wasm")),
            "config": {
                "name": name,
                "root_id": name,
                "configuration": {
                    "@type": of("google.protobuf.StringValue"),
                    "value": config,
                },
                "vm_config": {
                    "vm_id": name,
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": { "local": { "filename": module } },
                },
            },
        });
        let router = json!({ "@type": of(&format!("{filters}.http.router.v3.Router")) });
        let manager = json!({
            "@type": of(&format!("{filters}.network.http_connection_manager.v3.HttpConnectionManager")),
            "stat_prefix": name,
            "http_filters": [
                { "name": "envoy.filters.http.wasm", "typed_config": wasm },
                { "name": "envoy.filters.http.router", "typed_config": router },
            ],
            "route_config": { "virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                "routes": [{
                    "match": { "prefix": "/" },
                    "route": { "cluster": cluster.to_string() },
                }],
            }]},
        });
        json!({
            "address": address(*port),
            "filter_chains": [{ "filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": manager,
            }]}],
        })
    };
    let listeners: Vec<_> = FILTERS
        .iter()
        .zip(ports.iter().zip(&backend.ports))
        .map(listener)
        .collect();
    let clusters: Vec<_> = backend
        .ports
        .iter()
        .map(|port| cluster(&port.to_string(), *port))
        .chain([cluster(SERVICE, backend.service)])
        .collect();
    let config = json!({
        "node": { "id": "differential", "cluster": "default" },
        "static_resources": { "listeners": listeners, "clusters": clusters },
    });
    let file = directory.join("envoy.json");
    fs::write(&file, config.to_string())?;
    let mut command = Command::new(program);
    command.args(["--concurrency", "1", "--disable-hot-restart"]);
    command.args(["--log-level", "warn", "-c"]).arg(file);
    Proxy::start("envoy", &mut command, directory, ports)
}

/// Ours.
pub fn weft(directory: &Path, module: &[u8], backend: &Backend) -> anyhow::Result<Proxy> {
    let ports = ports()?;
    let mut snapshot = world(&ports, backend)?;
    attach(&mut snapshot, module, backend)?;
    let file = directory.join("snapshot.json");
    fs::write(&file, serde_json::to_string(&snapshot)?)?;
    let mut command = Command::new(programs::find("weft-proxy")?);
    command.args(["--node", "differential", "--workers", "1"]);
    command.arg("--module-dir").arg(directory);
    command.arg("--snapshot").arg(file);
    command.env("RUST_LOG", "warn");
    command.env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
    Proxy::start("weft-proxy", &mut command, directory, ports)
}

/// A pod that may send everything, and where it goes.
fn world(ports: &[u16], backend: &Backend) -> anyhow::Result<Snapshot> {
    let text = json!({
        "version": "differential",
        "node": { "name": "differential", "ip": "127.0.0.1", "cluster": "default" },
        "listeners": ports.iter().zip(&backend.ports).map(|(port, backend)| json!({
            "name": backend.to_string(),
            "address": format!("127.0.0.1:{port}"),
            "cluster": backend.to_string(),
        })).collect::<Vec<_>>(),
        "endpoints": [{ "id": 1, "namespace": "default", "pod": "client", "ip": "127.0.0.1",
            "identity": 1623 }],
        "identities": [{ "id": 1623, "labels": ["k8s:app=client"] }],
        "addresses": [{ "cidr": "127.0.0.1/32", "identity": 1623 }],
        "policies": backend.ports.iter().map(|port| json!({
            "endpoint_id": 1, "direction": "EGRESS", "port_first": port, "port_last": port,
            "rules": [{ "http": [{ "path": "/.*" }] }],
        })).collect::<Vec<_>>(),
        "clusters": backend.ports.iter().map(|port| json!({
            "name": port.to_string(),
            "connect_timeout": "5s",
            "endpoints": [{ "address": format!("127.0.0.1:{port}") }],
        })).collect::<Vec<_>>(),
    });
    Ok(serde_json::from_value(text)?)
}

/// Each filter is before a server of its own.
fn attach(snapshot: &mut Snapshot, module: &[u8], backend: &Backend) -> anyhow::Result<()> {
    let digest = Sha256::digest(module);
    let sha256: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    for (position, ((name, config), port)) in FILTERS.iter().zip(&backend.ports).enumerate() {
        snapshot.filters.push(Filter {
            kind: "WasmPlugin".into(),
            namespace: "default".into(),
            name: (*name).into(),
            sha256: sha256.clone(),
            config: config.as_bytes().to_vec(),
            callouts: vec![SERVICE.into()],
            plugin: Some(FilterPlugin {
                name: (*name).into(),
                root_id: (*name).into(),
                vm_id: (*name).into(),
                ..FilterPlugin::default()
            }),
            ..Filter::default()
        });
        snapshot.chains.push(FilterChain {
            endpoint_id: 1,
            direction: Direction::Egress.into(),
            port_first: (*port).into(),
            port_last: (*port).into(),
            steps: vec![FilterStep {
                phase: FilterPhase::AfterPolicy.into(),
                filter: u32::try_from(position)?,
            }],
        });
    }
    snapshot.callouts = vec![Callout {
        service: SERVICE.into(),
        backends: vec![CalloutBackend {
            address: format!("127.0.0.1:{}", backend.service),
            from: vec![1],
        }],
    }];
    Ok(())
}
