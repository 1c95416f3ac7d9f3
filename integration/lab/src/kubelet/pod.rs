//! The task of one pod: it makes everything of the pod, keeps it going, and
//! removes it.

mod report;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::container::{Container, Order, Reporter, Restart};
use super::image::{self, HostNetwork, Machine};
use super::record::{ContainerState, Held, Phase, PodState};
use super::sandbox::Sandbox;
use super::status::Place;
use super::{Command, Kubelet, env};
use crate::api::Store;
use crate::client::Server;
use crate::net::pod::PodNet;
use crate::net::{NodePlan, plan};

/// Wait before a pod that could not be made is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Longest wait of one question to the agent, as its API takes it.
const ATTACH_WAIT: &str = "10s";

/// Runs a pod from its first moment to its last.
pub(super) async fn run(
    kubelet: &Arc<Kubelet>,
    pod: Pod,
    mut objects: watch::Receiver<Option<Arc<Pod>>>,
    state: watch::Sender<PodState>,
    mut commands: mpsc::Receiver<Command>,
) {
    let Some(mut task) = PodTask::new(kubelet, pod, state) else {
        return;
    };
    tokio::select! {
        // The sender lives as long as this task's entry.
        _ = objects.wait_for(Option::is_none) => {}
        () = task.live(&mut commands) => {}
    }
    task.end().await;
    forget(&kubelet.config.store, &task.pod);
}

/// Takes a pod that no longer runs out of the API.
pub(super) fn forget(store: &Store, pod: &Pod) {
    let meta = &pod.metadata;
    if let (Some(namespace), Some(name), Some(uid)) = (&meta.namespace, &meta.name, &meta.uid) {
        store.remove::<Pod>(namespace, name, uid);
    }
}

/// Everything that one pod consists of.
struct PodTask {
    kubelet: Arc<Kubelet>,
    pod: Pod,
    node: NodePlan,
    host: Option<HostNetwork>,
    place: Place,
    state: watch::Sender<PodState>,
    address: Option<Ipv4Addr>,
    net: Option<PodNet>,
    sandbox: Option<Sandbox>,
    orders: Vec<mpsc::Sender<Order>>,
    containers: JoinSet<()>,
}

impl PodTask {
    fn new(kubelet: &Arc<Kubelet>, pod: Pod, state: watch::Sender<PodState>) -> Option<Self> {
        let name = pod.spec.as_ref()?.node_name.as_deref()?;
        let node = kubelet.config.plan.node(name)?.clone();
        let host = image::host_network(&pod);
        let place = Place {
            ip: host.is_some().then(|| node.ip.to_string()),
            host_ip: node.ip.to_string(),
            started: Timestamp::now(),
        };
        Some(Self {
            kubelet: Arc::clone(kubelet),
            pod,
            node,
            host,
            place,
            state,
            address: None,
            net: None,
            sandbox: None,
            orders: Vec::new(),
            containers: JoinSet::new(),
        })
    }

    fn id(&self) -> (&str, &str, &str) {
        let meta = &self.pod.metadata;
        (
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
            meta.uid.as_deref().unwrap_or_default(),
        )
    }

    /// Brings the pod up and follows it; never ends by itself.
    async fn live(&mut self, commands: &mut mpsc::Receiver<Command>) {
        self.publish_waiting("ContainerCreating", "");
        while let Err(error) = self.make().await {
            let message = format!("{error:#}");
            tracing::warn!(pod = ?self.id(), "{message}");
            self.event("Warning", "FailedCreatePodSandBox", &message);
            self.publish_waiting("ContainerCreating", &message);
            self.unmake().await;
            tokio::time::sleep(RETRY).await;
        }
        let mut reports = self.start_containers();
        loop {
            tokio::select! {
                Some((place, container)) = reports.recv() => self.take_report(place, container),
                Some(Command::Stop { kill, hold, done }) = commands.recv() => {
                    self.stop_containers(kill, hold).await;
                    // Before the asker goes on: what it sees now is no longer
                    // what was before the stop.
                    while let Ok((place, container)) = reports.try_recv() {
                        self.take_report(place, container);
                    }
                    let _ = done.send(());
                }
            }
        }
    }

    /// Network, sandbox, and the agent's word that policy holds.
    async fn make(&mut self) -> anyhow::Result<()> {
        let config = &self.kubelet.config;
        let uid = self.id().2.to_owned();
        tokio::fs::create_dir_all(config.state.pod(&uid)).await?;
        if self.host.is_none() {
            self.make_network().await.context("pod network")?;
            self.publish_waiting("ContainerCreating", "");
        }
        // Of a pod with its node's network too: connections into it are dialled there.
        let netns = self.netns();
        self.state.send_modify(|state| state.netns = netns);
        let sandbox = self.make_sandbox().await.context("pod sandbox")?;
        let process = sandbox.process();
        self.sandbox = Some(sandbox);
        self.state.send_modify(|state| {
            state.sandbox = Some(process);
            state.problem = None;
        });
        self.await_agent().await
    }

    async fn make_network(&mut self) -> anyhow::Result<()> {
        let config = &self.kubelet.config;
        let (namespace, name, uid) = self.id();
        let ip = self
            .kubelet
            .take_address(&self.node.name)
            .with_context(|| format!("{} has no free address", self.node.name))?;
        let mut netns = config.plan.pod_netns(namespace, name);
        if crate::net::ns::path_of(&netns).exists() {
            // Another pod's: namespace and name run together with a dash.
            netns = format!("{netns}-{:08x}", plan::fnv1a(uid.as_bytes()) as u32);
        }
        let net = PodNet {
            netns,
            node_netns: config.plan.node_netns(&self.node.name),
            veth: plan::host_veth(uid),
            ip,
        };
        // Known before it is made: this may be cut short by the pod's end.
        self.address = Some(ip);
        self.place.ip = Some(ip.to_string());
        self.net = Some(net.clone());
        config.state.note_netns(&net.netns)?;
        Ok(net.create(&config.plan).await?)
    }

    async fn make_sandbox(&self) -> anyhow::Result<Sandbox> {
        let config = &self.kubelet.config;
        let (namespace, name, uid) = self.id();
        let dir = config.state.pod(uid);
        let wanted = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.hostname.as_deref());
        let hostname = match self.host {
            Some(_) => self.node.name.as_str(),
            None => wanted.unwrap_or(name),
        };
        let binds = match self.address {
            Some(ip) => super::files::write(&dir, namespace, hostname, ip)?,
            None => Vec::new(),
        };
        let spec = crate::sandbox::SandboxSpec {
            netns: self.netns().map(|name| crate::net::ns::path_of(&name)),
            cgroup: self.cgroup().join("sandbox"),
            hostname: hostname.to_owned(),
            binds,
        };
        Sandbox::start(&config.exe, &dir, &self.cgroup(), &spec).await
    }

    fn cgroup(&self) -> PathBuf {
        self.kubelet.config.cgroup.join(self.id().2)
    }

    fn netns(&self) -> Option<String> {
        match (&self.host, &self.net) {
            (Some(HostNetwork::Machine), _) => None,
            (Some(HostNetwork::Node), _) => {
                Some(self.kubelet.config.plan.node_netns(&self.node.name))
            }
            (None, net) => net.as_ref().map(|net| net.netns.clone()),
        }
    }

    /// A pod must not run unpoliced: its processes start when the agent says
    /// that its programs are attached and its policy is in the maps.
    async fn await_agent(&self) -> anyhow::Result<()> {
        let config = &self.kubelet.config;
        if !config.mesh || self.host.is_some() {
            return Ok(());
        }
        let (namespace, name, _) = self.id();
        let agent = Server::Socket(config.state.node(&self.node.name).join("agent-admin.sock"));
        let question = format!("/v1/endpoints/{namespace}/{name}?wait={ATTACH_WAIT}");
        let mut told = false;
        loop {
            let answer = agent.get(&question, Duration::from_secs(15)).await;
            match answer {
                Ok((status, _)) if status.is_success() => return Ok(()),
                Ok((status, body)) if !told => {
                    let body = String::from_utf8_lossy(&body);
                    let message = format!("waiting for the agent: {status} {}", body.trim());
                    self.event("Warning", "AgentNotReady", &message);
                    told = true;
                }
                _ => {}
            }
            // An agent that is away or has not heard of the pod answers at once.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn start_containers(&mut self) -> mpsc::UnboundedReceiver<(usize, ContainerState)> {
        let (reports, incoming) = mpsc::unbounded_channel();
        let spec = self.pod.spec.clone().unwrap_or_default();
        let restart = match spec.restart_policy.as_deref() {
            Some("Never") => Restart::Never,
            Some("OnFailure") => Restart::OnFailure,
            _ => Restart::Always,
        };
        for (place, container) in spec.containers.iter().enumerate() {
            let (orders, queue) = mpsc::channel(4);
            self.orders.push(orders);
            let reporter = Reporter {
                place,
                reports: reports.clone(),
            };
            match self.container(container, restart) {
                Ok(container) => {
                    self.containers.spawn(container.supervise(queue, reporter));
                }
                Err((reason, error)) => {
                    let message = format!("{error:#}");
                    self.event("Warning", "Failed", &message);
                    self.set_phase(place, Phase::Waiting { reason, message });
                }
            }
        }
        let odd = image::not_provided(&self.pod);
        if !odd.is_empty() {
            let message = format!("without effect in this lab: {}", odd.join(", "));
            self.event("Warning", "NotProvided", &message);
        }
        self.publish();
        incoming
    }

    fn container(
        &self,
        spec: &k8s_openapi::api::core::v1::Container,
        restart: Restart,
    ) -> Result<Container, (&'static str, anyhow::Error)> {
        let config = &self.kubelet.config;
        let machine = Machine {
            plan: &config.plan,
            state: &config.state,
            exe: &config.exe,
            bin_dir: &config.bin_dir,
            relay: config.relay,
        };
        let program = machine
            .program(spec, &self.node)
            .map_err(|e| ("ErrImagePull", e.into()))?;
        let ip = self.place.ip.clone().unwrap_or_default();
        let env = env::of(&self.pod, spec, &ip, &config.state, &config.store)
            .map_err(|e| ("CreateContainerConfigError", e.into()))?;
        let sandbox = self.sandbox.as_ref().map(Sandbox::process);
        let sandbox = sandbox
            .context("the pod has no sandbox")
            .map_err(|e| ("CreateContainerError", e))?;
        let (namespace, name, uid) = self.id();
        let dns = self.net.as_ref().map(|net| {
            crate::dns::Server::new(self.kubelet.dns.clone(), net.netns.clone(), net.ip)
        });
        let mut state = self.blank(spec);
        state.env = env;
        Ok(Container {
            state,
            program,
            restart,
            pod_dir: config.state.pod(uid),
            netns: self.netns(),
            logs: config
                .state
                .container_logs(namespace, name, uid, &spec.name),
            sandbox,
            exe: config.exe.clone(),
            dns,
        })
    }

    async fn stop_containers(&self, kill: bool, hold: Held) {
        let mut stopped = Vec::new();
        for orders in &self.orders {
            let (done, end) = oneshot::channel();
            let order = Order::Stop { kill, hold, done };
            // A supervisor that is gone has nothing to stop.
            if orders.send(order).await.is_ok() {
                stopped.push(end);
            }
        }
        for end in stopped {
            let _ = end.await;
        }
    }

    /// Stops the pod's processes, then removes everything of it.
    async fn end(&mut self) {
        let grace = self.grace();
        // The containers' own time to end; afterwards the cgroup is killed.
        let _ = tokio::time::timeout(grace, self.stop_containers(false, Held::Yes)).await;
        self.unmake().await;
        let (namespace, name, uid) = self.id();
        let state = &self.kubelet.config.state;
        let _ = tokio::fs::remove_dir_all(state.pod(uid)).await;
        tracing::debug!(namespace, name, "gone");
    }

    fn grace(&self) -> Duration {
        let spec = self.pod.spec.as_ref();
        let seconds = spec.and_then(|spec| spec.termination_grace_period_seconds);
        Duration::from_secs(seconds.and_then(|s| s.try_into().ok()).unwrap_or(30))
    }

    /// Removes what `make` made, as far as it came.
    async fn unmake(&mut self) {
        self.containers.shutdown().await;
        self.orders.clear();
        if let Err(error) = self.destroy().await {
            tracing::error!(pod = ?self.id(), "{error:#}");
        }
        self.sandbox = None;
        self.net = None;
        if let Some(ip) = self.address.take() {
            self.kubelet.release_address(&self.node.name, ip);
        }
        self.state.send_modify(|state| {
            state.sandbox = None;
            state.netns = None;
        });
    }

    async fn destroy(&mut self) -> anyhow::Result<()> {
        let cgroup = crate::cgroup::Cgroup::at(self.cgroup());
        let killed = tokio::task::spawn_blocking(move || cgroup.destroy()).await?;
        if let Some(net) = &self.net {
            net.remove().await?;
        }
        killed.context("end the pod's processes")
    }
}
