//! The composition root of a node's agent: everything that runs is wired here.

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kube::Client;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use weft_api::node::MAX_SNAPSHOT;
use weft_core::model::NumericIdentity;
use weft_core::snapshot::Settings as ProxySettings;
use weft_datapath::{Config, Marks, NodeSettings, TableSizes};

use crate::admin;
use crate::cli::{RunArgs, UninstallArgs};
use crate::control::Control;
use crate::endpoint::{Found, Monitor};
use crate::filter::{self, Filters};
use crate::identity::CidrIdentities;
use crate::kube::spawn_watch;
use crate::metrics::Metrics;
use crate::node::{self, NodeFacts};
use crate::observer::{self, ObserverConfig, ObserverInputs};
use crate::policy::{LastGood, Repository};
use crate::private;
use crate::program::{Datapath, Leftovers, Programmer};
use crate::reconcile::{self, Inputs, Settings, Start, Work};
use crate::status::{AgentStatus, StatusSender};
use crate::upkeep;
use crate::view::ViewHandle;

/// Where the BPF file system is by convention.
const BPFFS: &str = "/sys/fs/bpf";
/// UDP port of the overlay.
const VXLAN_PORT: u16 = 8472;
/// TCP port of the flow observer.
const OBSERVER_PORT: u16 = 4244;
/// Between attempts to be the node's only agent.
const LOCK_RETRY: Duration = Duration::from_millis(100);
/// How long tasks may take to end when the agent is told to stop.
const STOPPING: Duration = Duration::from_secs(2);

/// Tasks that must not end before the agent does.
type Tasks = JoinSet<anyhow::Result<()>>;

/// Runs the agent of a node until `stop` is cancelled.
///
/// Stopping it leaves everything in the kernel as it is: enforcement goes on.
///
/// # Errors
/// When the node cannot be set up, or a part ends that must not.
pub async fn run(args: RunArgs, stop: CancellationToken) -> anyhow::Result<()> {
    // Before anything is touched.
    let proxy_settings = args.proxy.settings()?;
    let marks = args.marks.marks()?;
    private::directory(&args.state_dir)
        .with_context(|| format!("state directory {}", args.state_dir.display()))?;
    let lock = stop.run_until_cancelled(lock(&args.state_dir)).await;
    let Some(_lock) = lock.transpose()? else {
        return Ok(());
    };
    let client: Client = crate::kube::client(args.kubeconfig.as_deref()).await?;
    let mut tasks = Tasks::new();

    // The admin socket first: whoever waits for the agent can see why.
    let (status, receiver) = watch::channel(Arc::new(AgentStatus {
        version: env!("CARGO_PKG_VERSION").into(),
        node: args.node.clone(),
        waiting_for: vec![format!("Node {}", args.node)],
        ..AgentStatus::default()
    }));
    let metrics = Metrics::new();
    let (socket, token, counted) = (args.admin_socket.clone(), stop.clone(), metrics.clone());
    tasks.spawn(async move { Ok(admin::serve(&socket, receiver, counted, token).await?) });
    let facts = node::facts(&client, &args.node, &args.state_dir);
    let Some(facts) = stop.run_until_cancelled(facts).await else {
        return Ok(());
    };
    info!(node = %args.node, ip = %facts.ip, pods = %facts.pods, "this node");

    // The kernel: what redirected packets need, then programs and maps.
    let kernel_config = kernel_config(&args, marks, &facts);
    let masquerading = kernel_config.snat_ports.clone();
    let datapath = load(&args, &kernel_config)?;
    let events = datapath.events().context("event ring")?;
    let conntrack = datapath.conntrack().context("connection tracking")?;
    let gone = Arc::new(Notify::new());
    let kernel = Datapath::new(datapath, gone.clone())?;

    let filters = open_filters(&args, &client, &stop, &mut tasks)?;

    // The proxy's socket, and the view by which flows are named.
    let (control, records) = Control::new();
    let view = ViewHandle::default();
    let proxy = control.status();
    let tells = Tells {
        control: control.clone(),
        view: view.clone(),
        status,
        metrics: metrics.clone(),
        needed: filters.needed,
        published: filters.published,
    };
    let start = take_over(&args, &facts, proxy_settings, kernel, tells)?;
    let (socket, token) = (args.control_socket.clone(), stop.clone());
    let serve = async move { Ok(control.serve(&socket, filters.proxy, token).await?) };
    tasks.spawn(serve);

    // The reconciler, which owns the state: the cluster and the node as they
    // change go in, the kernel and the proxy's snapshots come out.
    let mut watches = JoinSet::new();
    let inputs = Inputs {
        watched: spawn_watch(&client, &stop, &mut watches),
        monitor: Monitor::open(&mut watches).context("netlink")?,
        proxy,
        filters: filters.resolved,
        work: Work::new(client),
    };
    let token = stop.clone();
    tasks.spawn(async move {
        Box::pin(reconcile::run(start, inputs, token)).await;
        Ok(())
    });

    // Connection tracking is swept and forgets what is gone; events and records go to the observer.
    tasks.spawn(upkeep::sweep(
        conntrack,
        gone,
        metrics.clone(),
        stop.clone(),
    ));
    let (batches, events_read) = upkeep::event_channel();
    tasks.spawn(upkeep::pump(events, batches, stop.clone()));
    let config = observer_config(args, &facts, masquerading);
    let inputs = ObserverInputs {
        view,
        events: events_read,
        records,
        metrics,
    };
    let token = stop.clone();
    tasks.spawn(async move { Ok(observer::run(config, inputs, token).await?) });

    finish(tasks, &stop).await
}

/// Starts what resolves filters, from what a former run kept of them.
fn open_filters(
    args: &RunArgs,
    client: &Client,
    stop: &CancellationToken,
    tasks: &mut Tasks,
) -> anyhow::Result<filter::Ends> {
    let settings = args.modules.settings(&args.node, &args.state_dir);
    let (filters, ends) = Filters::open(settings, client.clone())?;
    let stop = stop.clone();
    tasks.spawn(async move {
        Box::pin(filters.run(stop)).await;
        Ok(())
    });
    Ok(ends)
}

fn observer_config(
    args: RunArgs,
    facts: &NodeFacts,
    masquerading: RangeInclusive<u16>,
) -> ObserverConfig {
    ObserverConfig {
        listen: observer_addresses(&args.hubble_listen, facts.ip),
        socket: args.hubble_socket,
        masquerading,
        capacity: observer::DEFAULT_CAPACITY,
    }
}

/// Whom the reconciler tells what it did.
struct Tells {
    control: Control,
    view: ViewHandle,
    status: StatusSender,
    metrics: Metrics,
    needed: watch::Sender<filter::Needed>,
    published: watch::Sender<filter::Published>,
}

/// What the reconciler starts from: what a former run left in the kernel and
/// on disk.
fn take_over(
    args: &RunArgs,
    facts: &NodeFacts,
    proxy: ProxySettings,
    kernel: Datapath,
    tells: Tells,
) -> anyhow::Result<Start<Datapath>> {
    let Leftovers {
        endpoints,
        entries,
        identities,
    } = kernel.found()?;
    info!(endpoints = endpoints.len(), "taken over from the kernel");
    let (last_good, saved) = LastGood::open(args.state_dir.join("policies"))?;
    let found = endpoints.iter().map(|endpoint| Found {
        id: endpoint.id,
        ip: endpoint.addr,
        ifindex: endpoint.ifindex,
        identity: NumericIdentity(endpoint.identity),
    });
    Ok(Start {
        settings: Settings {
            node: args.node.clone(),
            ip: facts.ip,
            cluster: args.cluster.clone(),
            proxy_port: args.proxy_port,
            proxy_mark: args.marks.mark_from_proxy,
            proxy,
            private_ports: observer_addresses(&args.hubble_listen, facts.ip)
                .iter()
                .map(SocketAddr::port)
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
            bounds: args.bounds(),
            max_snapshot: MAX_SNAPSHOT,
        },
        kernel,
        found: found.collect(),
        programmer: Programmer::restore(endpoints, entries),
        cidrs: CidrIdentities::restore(identities),
        repository: Repository::new(saved),
        last_good,
        control: tells.control,
        view: tells.view,
        status: tells.status,
        metrics: tells.metrics,
        needed: tells.needed,
        published: tells.published,
    })
}

/// Waits until no other agent of this node runs: two would undo each other's
/// work. The lock goes with the process, however it ends.
async fn lock(state_dir: &Path) -> anyhow::Result<File> {
    let path = state_dir.join("agent.lock");
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {
                if !told {
                    info!("another agent of this node still runs, waiting for its end");
                    told = true;
                }
                tokio::time::sleep(LOCK_RETRY).await;
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| path.display().to_string());
            }
        }
    }
}

/// Where the observer listens unless told otherwise: the node's address for
/// relays, loopback for `kubectl port-forward`.
fn observer_addresses(told: &[SocketAddr], node: Ipv4Addr) -> Vec<SocketAddr> {
    if told.is_empty() {
        [node, Ipv4Addr::LOCALHOST]
            .map(|ip| SocketAddr::from((ip, OBSERVER_PORT)))
            .into()
    } else {
        told.to_vec()
    }
}

fn kernel_config(args: &RunArgs, marks: Marks, facts: &NodeFacts) -> Config {
    let mut config = Config::new(facts.ip, facts.pods);
    config.marks = marks;
    config.overlay = args.overlay.as_ref().map(|_| VXLAN_PORT);
    config.tables = TableSizes {
        conntrack: args.conntrack_entries,
        nat: args.nat_entries,
    };
    config
}

/// Loads the programs and attaches those that do not depend on pods.
fn load(args: &RunArgs, config: &Config) -> anyhow::Result<weft_datapath::Datapath> {
    // Before the node is touched.
    config.check()?;
    NodeSettings::new(&config.marks)
        .routing(args.marks.proxy_table, args.marks.proxy_rule_preference)?
        .apply(&node_settings(&args.state_dir))
        .context("routing and sysctls of the node")?;
    let bpffs = Path::new(BPFFS);
    if args.pin_dir.starts_with(bpffs) {
        weft_datapath::ensure_bpffs(bpffs).context("BPF file system")?;
    }
    let mut datapath =
        weft_datapath::Datapath::load(&args.pin_dir, config).context("eBPF programs")?;
    datapath
        .attach_uplink(&args.uplink)
        .with_context(|| format!("uplink {}", args.uplink))?;
    if let Some(overlay) = &args.overlay {
        datapath
            .attach_overlay(overlay)
            .with_context(|| format!("overlay {overlay}"))?;
    }
    Ok(datapath)
}

/// Where the node's former settings are remembered.
fn node_settings(state_dir: &Path) -> PathBuf {
    state_dir.join("node-settings.json")
}

/// Waits for the end. A part that ends by itself ends the agent: whoever
/// supervises it starts it afresh, and enforcement goes on meanwhile.
async fn finish(mut tasks: Tasks, stop: &CancellationToken) -> anyhow::Result<()> {
    let ended = tasks.join_next().await;
    let asked = stop.is_cancelled();
    stop.cancel();
    let others = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(STOPPING, others).await.is_err() {
        warn!("some tasks did not end in time");
    }
    match ended {
        Some(Ok(Err(error))) => Err(error),
        Some(Err(error)) => Err(error.into()),
        _ if asked => Ok(()),
        _ => anyhow::bail!("a task of the agent ended by itself"),
    }
}

/// Takes everything out of the kernel and gives the node its settings back.
/// Traffic flows unpoliced afterwards.
///
/// # Errors
/// When something cannot be removed or restored.
pub fn uninstall(args: &UninstallArgs) -> anyhow::Result<()> {
    weft_datapath::uninstall(&args.pin_dir).context("pins")?;
    NodeSettings::restore(&node_settings(&args.state_dir)).context("settings of the node")?;
    Ok(())
}
