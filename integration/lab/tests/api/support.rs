//! A lab of nothing but the API: a server on a free port, and a kubelet that only says
//! that pods run. Commands given to `exec` run on the host.

use std::io;
use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use axum::body::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinHandle;
use weft_lab::api::{
    self, Change, ContainerRef, ExecRequest, ExecSession, LogOptions, PodRuntime, RuntimeError,
    Store,
};

/// The server and what runs beside it; all of it ends with the value.
pub struct TestApi {
    /// The store behind it.
    pub store: Store,
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for TestApi {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl TestApi {
    /// Starts everything, with two nodes.
    pub async fn start() -> Self {
        let store = Store::new();
        for name in ["kind-worker", "kind-worker2"] {
            store.create(&node(name)).expect("a new node");
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let router = api::router(store.clone(), Arc::new(HostRuntime));
        let serve = tokio::spawn(async move {
            axum::serve(listener, router)
                .await
                .expect("the server goes on");
        });
        let tasks = vec![
            serve,
            api::controllers::spawn(store.clone()),
            tokio::spawn(kubelet(store.clone())),
        ];
        Self {
            store,
            url: format!("http://{address}"),
            tasks,
        }
    }
}

fn node(name: &str) -> Node {
    let node = json!({
        "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
        "status": {
            "conditions": [{ "type": "Ready", "status": "True" }],
            "addresses": [{ "type": "InternalIP", "address": "172.18.0.2" }],
            "nodeInfo": {
                "kubeletVersion": "v1.32.0", "osImage": "test", "kernelVersion": "6.1", "containerRuntimeVersion": "none://1",
                "architecture": "amd64", "bootID": "", "kubeProxyVersion": "", "machineID": "", "operatingSystem": "linux", "systemUUID": "",
            },
        },
    });
    serde_json::from_value(node).expect("a node")
}

/// Every pod with a node runs at once; a deleted one is gone at once.
async fn kubelet(store: Store) {
    let next_address = AtomicU8::new(10);
    let mut watch = store.watch::<Pod>();
    loop {
        let Change::Applied(pod) = watch.next().await else {
            continue;
        };
        let meta = &pod.metadata;
        let namespace = meta.namespace.clone().unwrap_or_default();
        let name = meta.name.clone().unwrap_or_default();
        let spec = pod.spec.clone().unwrap_or_default();
        if meta.deletion_timestamp.is_some() {
            store.remove::<Pod>(&namespace, &name, meta.uid.as_deref().unwrap_or_default());
        } else if spec.node_name.is_some() && pod.status.is_none_or(|s| s.pod_ip.is_none()) {
            let ip = format!("10.244.1.{}", next_address.fetch_add(1, Ordering::Relaxed));
            let containers: Vec<_> = spec
                .containers
                .iter()
                .map(|c| {
                    json!({
                        "name": c.name, "image": c.image, "imageID": "", "ready": true, "restartCount": 0, "started": true,
                        "state": { "running": { "startedAt": "2024-08-12T06:00:00Z" } },
                    })
                })
                .collect();
            let yes = |kind: &str| json!({ "type": kind, "status": "True" });
            let status = json!({
                "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }], "hostIP": "172.18.0.2",
                "containerStatuses": containers,
                "conditions": [yes("PodScheduled"), yes("Initialized"), yes("ContainersReady"), yes("Ready")],
            });
            // Deleted meanwhile: there is nothing to say any more.
            let _ = store.set_status::<Pod>(&namespace, &name, &status);
        }
    }
}

/// Runs commands where the tests run.
struct HostRuntime;

impl PodRuntime for HostRuntime {
    fn exec(
        &self,
        target: ContainerRef,
        request: ExecRequest,
    ) -> BoxFuture<'_, Result<ExecSession, RuntimeError>> {
        Box::pin(async move {
            let (program, arguments) = request.command.split_first().expect("checked by the API");
            let pipe = |wanted: bool| {
                if wanted {
                    Stdio::piped()
                } else {
                    Stdio::null()
                }
            };
            let mut child = Command::new(program)
                .args(arguments)
                .env("POD", &target.pod)
                .env("CONTAINER", &target.container)
                .stdin(pipe(request.stdin))
                .stdout(pipe(request.stdout))
                .stderr(pipe(request.stderr))
                .kill_on_drop(true)
                .spawn()
                .map_err(|error| RuntimeError::Command(format!("{program}: {error}")))?;
            Ok(ExecSession {
                stdin: child.stdin.take().map(|s| Box::new(s) as _),
                stdout: child.stdout.take().map(|s| Box::new(s) as _),
                stderr: child.stderr.take().map(|s| Box::new(s) as _),
                resize: None,
                exit: Box::pin(async move { Ok(child.wait().await?.code().unwrap_or(137)) }),
            })
        })
    }

    fn logs(
        &self,
        target: ContainerRef,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<BoxStream<'static, io::Result<Bytes>>, RuntimeError>> {
        Box::pin(async move {
            let tail = usize::try_from(options.tail.unwrap_or(2)).unwrap_or(2);
            let lines = ["first", "second"]
                .into_iter()
                .skip(2_usize.saturating_sub(tail));
            let lines: Vec<_> = lines
                .map(|line| Ok(Bytes::from(format!("{} {line}\n", target.container))))
                .collect();
            Ok(stream::iter(lines).boxed())
        })
    }

    fn connect(
        &self,
        _target: ContainerRef,
        port: u16,
    ) -> BoxFuture<'_, Result<TcpStream, RuntimeError>> {
        Box::pin(async move { Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?) })
    }
}
