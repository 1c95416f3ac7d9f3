//! Stands in for the kubelet of every node: turns pods that have a node into
//! namespaces and processes, and reports what became of them.
//!
//! One task per pod owns everything of it; the registry below only finds it.

mod container;
mod dial;
mod env;
mod files;
mod image;
mod logs;
mod pod;
mod probe;
mod record;
mod runtime;
mod sandbox;
mod status;
mod terminal;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{mpsc, oneshot, watch};

use crate::api::{Change, Store};
use crate::net::Plan;
use crate::net::plan::AddressPool;
use crate::state::StateDir;

pub use dial::dial;
pub use image::{AGENT_IMAGE, DNS_IMAGE, OPERATOR_IMAGE, PROXY_IMAGE, RELAY_IMAGE};
pub use record::{Held, PodState};

/// What the pods of a lab share.
pub struct Config {
    /// Nodes and addresses.
    pub plan: Plan,
    /// Where things are kept.
    pub state: StateDir,
    /// The API's objects.
    pub store: Store,
    /// Root of the lab's cgroups.
    pub cgroup: PathBuf,
    /// Whether an agent must have a pod attached before it may start.
    pub mesh: bool,
    /// This binary.
    pub exe: PathBuf,
    /// Where the agent and the proxy are.
    pub bin_dir: PathBuf,
    /// Where the merged observer listens.
    pub relay: std::net::SocketAddr,
}

/// The kubelet of all nodes.
pub struct Kubelet {
    config: Config,
    pools: Mutex<HashMap<String, AddressPool>>,
    pods: Mutex<HashMap<String, Entry>>,
    dns: crate::dns::Zone,
}

/// How to reach a pod's task.
#[derive(Clone)]
struct Entry {
    namespace: String,
    name: String,
    /// The newest object, or `None` once it is to go.
    object: watch::Sender<Option<Arc<Pod>>>,
    state: watch::Receiver<PodState>,
    commands: mpsc::Sender<Command>,
}

/// What others may ask of a pod's task.
enum Command {
    /// End the containers' processes; they start again unless held.
    Stop {
        kill: bool,
        hold: Held,
        done: oneshot::Sender<()>,
    },
}

impl Kubelet {
    /// A kubelet that does nothing yet.
    pub fn new(config: Config, dns: crate::dns::Zone) -> Arc<Self> {
        let pools = config
            .plan
            .nodes
            .iter()
            .map(|node| (node.name.clone(), AddressPool::new(node)))
            .collect();
        Arc::new(Self {
            config,
            pools: Mutex::new(pools),
            pods: Mutex::default(),
            dns,
        })
    }

    /// Follows the API's pods for ever.
    pub async fn run(self: Arc<Self>) {
        let mut pods = self.config.store.watch::<Pod>();
        loop {
            match pods.next().await {
                Change::Applied(pod) => self.applied(pod),
                Change::Deleted(pod) => self.deleted(&pod),
            }
        }
    }

    fn applied(self: &Arc<Self>, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else {
            return;
        };
        let known = self.entry(&uid);
        if pod.metadata.deletion_timestamp.is_some() {
            match known {
                Some(entry) => {
                    entry.object.send_replace(None);
                }
                // Never started here: nothing to wait for.
                None => pod::forget(&self.config.store, &pod),
            }
            return;
        }
        if let Some(entry) = known {
            entry.object.send_replace(Some(Arc::new(pod)));
            return;
        }
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        if node.is_some_and(|node| self.config.plan.node(&node).is_some()) {
            self.start(uid, pod);
        }
    }

    fn deleted(&self, pod: &Pod) {
        let entry = pod.metadata.uid.as_deref().and_then(|uid| self.entry(uid));
        if let Some(entry) = entry {
            entry.object.send_replace(None);
        }
    }

    fn start(self: &Arc<Self>, uid: String, pod: Pod) {
        let (object, objects) = watch::channel(Some(Arc::new(pod.clone())));
        let (state_sender, state) = watch::channel(PodState::default());
        let (commands, command_queue) = mpsc::channel(4);
        let entry = Entry {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            object,
            state,
            commands,
        };
        self.lock_pods().insert(uid.clone(), entry);
        let kubelet = Arc::clone(self);
        tokio::spawn(async move {
            pod::run(&kubelet, pod, objects, state_sender, command_queue).await;
            kubelet.lock_pods().remove(&uid);
        });
    }

    fn entry(&self, uid: &str) -> Option<Entry> {
        self.lock_pods().get(uid).cloned()
    }

    /// The pod of that name, if it has a task.
    fn find(&self, namespace: &str, name: &str) -> Option<Entry> {
        self.lock_pods()
            .values()
            // One that is going may still have the name.
            .find(|entry| {
                entry.namespace == namespace
                    && entry.name == name
                    && entry.object.borrow().is_some()
            })
            .cloned()
    }

    fn lock_pods(&self) -> std::sync::MutexGuard<'_, HashMap<String, Entry>> {
        // A panic elsewhere leaves the map whole: every change is one call.
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_address(&self, node: &str) -> Option<std::net::Ipv4Addr> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.get_mut(node)?.take()
    }

    fn release_address(&self, node: &str, ip: std::net::Ipv4Addr) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pool) = pools.get_mut(node) {
            pool.release(ip);
        }
    }

    /// Ends the processes of a pod and says whether they start again. Returns
    /// when they are gone; with `Held::No`, when they are ready again.
    ///
    /// # Errors
    /// When there is no such pod, or it does not come back within ten seconds.
    pub async fn stop(
        &self,
        namespace: &str,
        name: &str,
        kill: bool,
        hold: Held,
    ) -> anyhow::Result<()> {
        use anyhow::Context;
        let entry = self
            .find(namespace, name)
            .with_context(|| format!("no pod {namespace}/{name} runs here"))?;
        let (done, stopped) = oneshot::channel();
        let command = Command::Stop { kill, hold, done };
        entry
            .commands
            .send(command)
            .await
            .context("the pod ended")?;
        stopped.await.context("the pod ended")?;
        if hold == Held::No {
            let mut state = entry.state.clone();
            let ready = state.wait_for(|state| state.ready);
            tokio::time::timeout(std::time::Duration::from_secs(10), ready)
                .await
                .with_context(|| format!("{namespace}/{name} is not ready again after 10 s"))?
                .context("the pod ended")?;
        }
        Ok(())
    }

    /// State of the pod of that name.
    pub fn state(&self, namespace: &str, name: &str) -> Option<watch::Receiver<PodState>> {
        Some(self.find(namespace, name)?.state)
    }
}
