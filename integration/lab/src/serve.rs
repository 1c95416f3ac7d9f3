//! The daemon of a lab: the composition root of everything that lives as long
//! as the lab does.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::Router;
use k8s_openapi::api::core::v1::Pod;
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::api::{self, Change, Store};
use crate::cgroup::Cgroup;
use crate::cluster::{self, Component, SYSTEM};
use crate::kubelet::{self, Kubelet};
use crate::net::{NetNs, Plan, topology};
use crate::state::{LabInfo, StateDir};
use crate::{apps, control, dns, host, teardown};

/// What a lab is to be.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Order {
    /// Nodes and routing.
    pub plan: Plan,
    /// Whether agents and proxies run.
    pub mesh: bool,
    /// Where their programs are.
    pub bin_dir: PathBuf,
    /// Where the merged observer listens.
    pub relay: SocketAddr,
    /// How long everything may take to get ready.
    pub patience: Duration,
}

/// What the daemon tells whoever started it, a line of JSON each.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum News {
    /// It began with this.
    Step(String),
    /// The lab is up. Nothing follows.
    Ready(LabInfo),
    /// The lab is not coming up, and nothing of it is left. Nothing follows.
    Failed(String),
}

/// Times that a part of the mesh may die before the lab counts as broken.
const MOST_DEATHS: u32 = 3;
/// Lines of a log that an error shows.
const TAIL: usize = 12;

/// Brings the lab up and keeps it until it is killed.
///
/// # Errors
/// When not even the failure could be told.
pub fn serve(order: &Order) -> anyhow::Result<ExitCode> {
    // A session of its own: no terminal's end reaches it.
    let _ = rustix::process::setsid();
    let state = StateDir::of(&order.plan.lab);
    let cgroup = teardown::cgroup_of(&order.plan.lab)?;
    Cgroup::create(cgroup.join("daemon"))?.join()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let ended = runtime.block_on(live(order, &state, cgroup));
    // Everything that could make something again is gone before the clean-up.
    drop(runtime);
    let cleaned = teardown::Lock::take().and_then(|lock| teardown::remove(&order.plan.lab, &lock));
    match ended {
        Ok(()) => cleaned.map(|()| ExitCode::SUCCESS),
        Err(error) => {
            let mut text = format!("{error:#}");
            if let Err(left) = cleaned {
                text = format!("{text}\n{left:#}");
            }
            // Whoever started it may be gone.
            let _ = tell(&News::Failed(text));
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Brings the lab up and waits for its end, which is a signal: `down` kills.
async fn live(order: &Order, state: &StateDir, cgroup: PathBuf) -> anyhow::Result<()> {
    let (info, _tasks) = tokio::select! {
        up = bring_up(order, state, cgroup) => up?,
        () = starter_gone() => bail!("interrupted"),
    };
    let mut stop = signal(SignalKind::terminate())?;
    tell(&News::Ready(info))?;
    stop.recv().await;
    Ok(())
}

fn tell(news: &News) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(news)?)?;
    Ok(out.flush()?)
}

fn step(what: &str) -> anyhow::Result<()> {
    tracing::info!("{what}");
    tell(&News::Step(what.to_owned()))
}

/// Standard input is a pipe from the starter: its end means that it died.
async fn starter_gone() {
    let fd = std::io::stdin().as_fd().try_clone_to_owned();
    let pipe = fd.and_then(tokio::net::unix::pipe::Receiver::from_owned_fd);
    match pipe {
        Ok(mut pipe) => while let Ok(1..) = pipe.read(&mut [0]).await {},
        // Started by hand: there is nobody to follow.
        Err(_) => std::future::pending().await,
    }
}

async fn bring_up(
    order: &Order,
    state: &StateDir,
    cgroup: PathBuf,
) -> anyhow::Result<(LabInfo, JoinSet<()>)> {
    let plan = &order.plan;
    if order.mesh {
        check_programs(&order.bin_dir)?;
        host::ensure_bpffs().context("mount bpffs")?;
    }
    for node in &plan.nodes {
        for part in ["agent", "proxy"] {
            std::fs::create_dir_all(state.node(&node.name).join(part))?;
        }
    }
    let exe = std::env::current_exe()?;
    for program in apps::provided() {
        std::os::unix::fs::symlink(&exe, state.programs().join(program))?;
    }

    step(&format!(
        "network: {} nodes, {} routing",
        plan.nodes.len(),
        plan.routing
    ))?;
    let world: Vec<Ipv4Addr> = world_addresses();
    topology::build(plan, &world, &mut |name| state.note_netns(name)).await?;

    step("Kubernetes API")?;
    let store = Store::new();
    let mut tasks = JoinSet::new();
    let controllers = api::controllers::spawn(store.clone());
    tasks.spawn(async move {
        // It ends only with the lab.
        let _ = controllers.await;
    });
    let kubelet = Kubelet::new(
        kubelet::Config {
            plan: plan.clone(),
            state: state.clone(),
            store: store.clone(),
            cgroup,
            mesh: order.mesh,
            exe,
            bin_dir: order.bin_dir.clone(),
            relay: order.relay,
        },
        dns::Zone::new(store.clone()),
    );
    let router = api::router(store.clone(), Arc::new(Arc::clone(&kubelet)));
    let api_port = listen(plan, &router, &mut tasks)?;
    std::fs::write(state.kubeconfig(), kubeconfig(&plan.lab, api_port))?;
    serve_world(plan, &mut tasks)?;

    let info = LabInfo {
        plan: plan.clone(),
        mesh: order.mesh,
        api_port,
        relay: order.mesh.then_some(order.relay),
    };
    let wanted = cluster::fill(&store, plan, order.mesh)?;
    tasks.spawn(Arc::clone(&kubelet).run());
    control::serve(state, info.clone(), store.clone(), kubelet, &mut tasks)?;

    step(match order.mesh {
        true => "agents, proxies, relay, operator, DNS",
        false => "DNS",
    })?;
    let ready = await_pods(&store, wanted, state);
    match tokio::time::timeout(order.patience, ready).await {
        Ok(ready) => ready?,
        Err(_) => bail!(
            "not everything is ready after {:?}\n{}",
            order.patience,
            unready(&store, state)
        ),
    }
    state.write_info(&info)?;
    Ok((info, tasks))
}

fn check_programs(dir: &std::path::Path) -> anyhow::Result<()> {
    for program in ["weft-agent", "weft-proxy"] {
        let path = dir.join(program);
        if !path.is_file() {
            bail!(
                "{} is missing: build it (cargo build --workspace), say where it is \
                 (--bin-dir), or bring up a cluster without the mesh (--no-mesh)",
                path.display()
            );
        }
    }
    Ok(())
}

fn world_addresses() -> Vec<Ipv4Addr> {
    let mut addresses: Vec<_> = dns::world_hosts(cluster::WORLD).map(|(ip, _)| ip).collect();
    addresses.dedup();
    addresses
}

/// Serves the API on loopback of the machine and, under the same port, of every
/// node: a node's processes use the same kubeconfig as the user.
fn listen(plan: &Plan, router: &Router, tasks: &mut JoinSet<()>) -> anyhow::Result<u16> {
    let machine = TcpListener::bind("127.0.0.1:0").context("find a port for the API")?;
    let address = machine.local_addr()?;
    let mut listeners = vec![machine];
    for node in &plan.nodes {
        let ns = NetNs::open(&plan.node_netns(&node.name))?;
        listeners.push(ns.run(|| TcpListener::bind(address))??);
    }
    for listener in listeners {
        spawn_server(listener, router.clone(), tasks)?;
    }
    Ok(address.port())
}

fn spawn_server(
    listener: TcpListener,
    router: Router,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    use axum::serve::ListenerExt;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?.tap_io(|stream| {
        // A stream that refuses is already closed.
        let _ = stream.set_nodelay(true);
    });
    tasks.spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the API ended");
        }
    });
    Ok(())
}

/// The hosts outside the cluster answer HTTP with what they got.
fn serve_world(plan: &Plan, tasks: &mut JoinSet<()>) -> anyhow::Result<()> {
    let ns = NetNs::open(&plan.world_netns())?;
    let listener = ns.run(|| TcpListener::bind("0.0.0.0:80"))??;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    tasks.spawn(async move {
        if let Err(error) = apps::serve_echo(listener, "world").await {
            tracing::error!(%error, "the world ended");
        }
    });
    Ok(())
}

/// Waits until so many pods of kube-system, which is all there will be, are ready.
async fn await_pods(store: &Store, wanted: usize, state: &StateDir) -> anyhow::Result<()> {
    let mut pods = store.watch::<Pod>();
    let mut ready = std::collections::BTreeSet::new();
    while ready.len() < wanted {
        let (pod, there) = match pods.next().await {
            Change::Applied(pod) => (pod, true),
            Change::Deleted(pod) => (pod, false),
        };
        if pod.metadata.namespace.as_deref() != Some(SYSTEM) {
            continue;
        }
        if deaths(&pod) >= MOST_DEATHS {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            bail!("{name} keeps dying\n{}", tail_of(&pod, state));
        }
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        match there && is_ready(&pod) {
            true => ready.insert(uid),
            false => ready.remove(&uid),
        };
    }
    Ok(())
}

fn deaths(pod: &Pod) -> u32 {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| &status.container_statuses);
    let counts = statuses.flatten().map(|status| status.restart_count);
    counts.max().and_then(|n| n.try_into().ok()).unwrap_or(0)
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| &status.conditions);
    conditions
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// What is not ready, and the last that it said.
fn unready(store: &Store, state: &StateDir) -> String {
    let pods = store.list::<Pod>(Some(SYSTEM));
    let unready: Vec<_> = pods.iter().filter(|pod| !is_ready(pod)).collect();
    unready
        .iter()
        .map(|pod| {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let message = pod
                .status
                .as_ref()
                .and_then(|status| status.message.as_deref());
            format!(
                "{name}: {}\n{}",
                message.unwrap_or("not ready"),
                tail_of(pod, state)
            )
        })
        .collect()
}

/// Last lines of a pod's logs.
fn tail_of(pod: &Pod, state: &StateDir) -> String {
    let meta = &pod.metadata;
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    let (namespace, name, uid) = (part(&meta.namespace), part(&meta.name), part(&meta.uid));
    let mut text = String::new();
    for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
        let dir = state.container_logs(&namespace, &name, &uid, &container.name);
        let mut lines = Vec::new();
        for run in 0..=deaths(pod) {
            let log = std::fs::read_to_string(dir.join(format!("{run}.log")));
            lines.extend(log.unwrap_or_default().lines().map(str::to_owned));
        }
        for line in lines.iter().skip(lines.len().saturating_sub(TAIL)) {
            text += &format!("  {}: {line}\n", container.name);
        }
    }
    text
}

fn kubeconfig(lab: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: {lab}\n\
         clusters:\n- name: {lab}\n  cluster:\n    server: http://127.0.0.1:{port}\n\
         contexts:\n- name: {lab}\n  context:\n    cluster: {lab}\n    user: {lab}\n\
         users:\n- name: {lab}\n  user: {{}}\n"
    )
}

/// The pod of a part of the mesh on a node (or anywhere, for those that are one).
pub(crate) fn component_pod(store: &Store, component: Component, node: &str) -> Option<Pod> {
    store.list::<Pod>(Some(SYSTEM)).into_iter().find(|pod| {
        let there = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        component.is(pod)
            && pod.metadata.deletion_timestamp.is_none()
            && (!component.is_per_node() || there == Some(node))
    })
}
