//! What an image means here. Pure.
//!
//! The last part of an image's name picks a built-in program, whatever registry
//! and tag it has, so that manifests written for real clusters run unchanged.
//! A container with a command runs that from the machine's file system.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, ContainerPort, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::net::plan::VXLAN_DEVICE;
use crate::net::{NodePlan, Plan, Routing};
use crate::state::StateDir;

/// Image of the node agent.
pub const AGENT_IMAGE: &str = "weft/agent";
/// Image of the node proxy.
pub const PROXY_IMAGE: &str = "weft/proxy";
/// Image of the relay.
pub const RELAY_IMAGE: &str = "weft/relay";
/// Image of the operator.
pub const OPERATOR_IMAGE: &str = "weft/operator";
/// Image of the cluster's DNS server.
pub const DNS_IMAGE: &str = "registry.k8s.io/coredns/coredns:v1.11.3";

/// Port of the node proxy's listener.
const PROXY_PORT: u16 = 15001;
/// Where the node proxy's page for humans is, on loopback of its node: what
/// `kubectl port-forward` to its pod reaches.
const PROXY_ADMIN: &str = "127.0.0.1:9901";
/// Room in the tables of a lab's node: the usual ones hold a busy machine's
/// connections, and a lab has several nodes on one.
const CONNTRACK_ENTRIES: &str = "16384";
/// Likewise for masquerading.
const NAT_ENTRIES: &str = "8192";

/// What a container runs.
#[derive(Debug, PartialEq)]
pub(super) enum Program {
    /// A process.
    Process {
        /// Program and arguments.
        argv: Vec<OsString>,
        /// How it is known to serve.
        ready: ReadyWhen,
    },
    /// The cluster's DNS, answered by the lab itself on a socket of the pod.
    Dns,
}

/// How a container is known to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ReadyWhen {
    /// As soon as its process runs.
    Started,
    /// When it says so at NOTIFY_SOCKET.
    Notified,
    /// When `GET /healthz` on this socket answers 200.
    Healthy(PathBuf),
    /// When this port of its pod takes connections and, with a path, answers
    /// `GET path` with a success.
    Serves {
        /// Port of 127.0.0.1.
        port: u16,
        /// Path and query, for HTTP.
        path: Option<String>,
    },
}

/// The network that a host-network pod joins.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HostNetwork {
    /// That of its node.
    Node,
    /// The machine's: what users of the lab dial.
    Machine,
}

/// An image that means nothing here, in a container without a command.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "image {0:?} is not built into the lab and the container names no command to run from the \
     machine's file system"
)]
pub(super) struct UnknownImage(String);

/// What the mapping needs to know of the lab.
pub(super) struct Machine<'a> {
    pub plan: &'a Plan,
    pub state: &'a StateDir,
    pub exe: &'a Path,
    pub bin_dir: &'a Path,
    pub relay: SocketAddr,
}

impl Machine<'_> {
    /// What a container on a node runs, ready when its probe says so, if it
    /// has one that can be asked.
    pub fn program(&self, container: &Container, node: &NodePlan) -> Result<Program, UnknownImage> {
        let program = self.image(container, node)?;
        Ok(match (program, probe_of(container)) {
            (Program::Process { argv, .. }, Some(ready)) => Program::Process { argv, ready },
            (program, _) => program,
        })
    }

    fn image(&self, container: &Container, node: &NodePlan) -> Result<Program, UnknownImage> {
        let image = container.image.as_deref().unwrap_or_default();
        let command = container.command.as_deref().unwrap_or_default();
        let args = container.args.as_deref().unwrap_or_default();
        if !command.is_empty() {
            let argv = command.iter().chain(args).map(OsString::from).collect();
            let ready = ReadyWhen::Started;
            return Ok(Program::Process { argv, ready });
        }
        if let Some(program) = self.own(image, node) {
            return Ok(program);
        }
        let port = |default| format!("0.0.0.0:{}", port_of(container).unwrap_or(default));
        match short_name(image) {
            "starwars" | "deathstar" => Ok(self.app(&["deathstar", "--listen", &port(80)])),
            "json-mock" | "echo" | "echoserver" | "echo-server" | "http-echo" => {
                Ok(self.app(&["echo", "--listen", &port(8080)]))
            }
            "fortio" => {
                let mut words = vec!["fortio"];
                words.extend(args.iter().map(String::as_str));
                if args.is_empty() {
                    words.push("server");
                }
                Ok(self.app(&words))
            }
            "netshoot" | "curl" | "alpine-curl" | "alpine" | "busybox" | "debian" | "ubuntu"
            | "pause" => match args {
                [] => Ok(self.app(&["sleep"])),
                args => Ok(Program::Process {
                    argv: args.iter().map(OsString::from).collect(),
                    ready: ReadyWhen::Started,
                }),
            },
            "coredns" => Ok(Program::Dns),
            _ => Err(UnknownImage(image.to_owned())),
        }
    }

    fn app(&self, words: &[&str]) -> Program {
        let mut argv = vec![OsString::from(self.exe), OsString::from("app")];
        argv.extend(words.iter().map(OsString::from));
        Program::Process {
            argv,
            ready: ReadyWhen::Notified,
        }
    }

    /// The mesh's own processes.
    fn own(&self, image: &str, node: &NodePlan) -> Option<Program> {
        let kubeconfig = self.state.kubeconfig();
        let dir = self.state.node(&node.name);
        let agent = self.bin_dir.join("weft-agent");
        let (argv, ready) = match image {
            AGENT_IMAGE => (
                self.agent_argv(agent, node),
                ReadyWhen::Healthy(dir.join("agent-admin.sock")),
            ),
            PROXY_IMAGE => {
                let admin = dir.join("proxy-admin.sock");
                let argv = words(self.bin_dir.join("weft-proxy"), &["--node", &node.name])
                    .path("--control-socket", &dir.join("control.sock"))
                    .path("--state-dir", &dir.join("proxy"))
                    .path("--admin-socket", &admin)
                    .pair("--admin-listen", PROXY_ADMIN);
                (argv, ReadyWhen::Healthy(admin))
            }
            RELAY_IMAGE => {
                // `{node}` is the relay's own placeholder.
                let template = format!(
                    "unix://{}/{{node}}/hubble.sock",
                    self.state.root().display()
                );
                let argv = words(agent, &["relay", "--listen", &self.relay.to_string()])
                    .path("--kubeconfig", &kubeconfig)
                    .pair("--peer-address", &template);
                let port = self.relay.port();
                (argv, ReadyWhen::Serves { port, path: None })
            }
            OPERATOR_IMAGE => {
                let argv = words(agent, &["operator"])
                    .path("--kubeconfig", &kubeconfig)
                    .path("--module-dir", &module_dir(self.bin_dir));
                (argv, ReadyWhen::Started)
            }
            _ => return None,
        };
        Some(Program::Process {
            argv: argv.0,
            ready,
        })
    }

    fn agent_argv(&self, agent: PathBuf, node: &NodePlan) -> Words {
        let dir = self.state.node(&node.name);
        let argv = words(agent, &["run", "--node", &node.name])
            .path("--kubeconfig", &self.state.kubeconfig())
            .path("--pin-dir", &pin_dir(self.plan, &node.name))
            .path("--state-dir", &dir.join("agent"))
            .path("--control-socket", &dir.join("control.sock"))
            .path("--module-dir", &module_dir(self.bin_dir))
            .path("--admin-socket", &dir.join("agent-admin.sock"))
            .path("--hubble-socket", &dir.join("hubble.sock"))
            .pair("--proxy-port", &PROXY_PORT.to_string())
            .pair("--uplink", "eth0")
            .pair("--conntrack-entries", CONNTRACK_ENTRIES)
            .pair("--nat-entries", NAT_ENTRIES);
        match self.plan.routing {
            Routing::Vxlan => argv.pair("--overlay", VXLAN_DEVICE),
            Routing::Native => argv,
        }
    }
}

/// Where `file://` modules of filters are: beside the folder of the programs,
/// where `make filters` puts them.
fn module_dir(bin_dir: &Path) -> PathBuf {
    bin_dir.with_file_name("filters")
}

/// Directory of a node's pins: interface numbers are a namespace's own, so no
/// two nodes may share one.
fn pin_dir(plan: &Plan, node: &str) -> PathBuf {
    Path::new(crate::host::PIN_ROOT).join(format!("{}-{node}", plan.lab))
}

/// Whether a pod has a network of its own, and if not, whose it joins.
pub(super) fn host_network(pod: &Pod) -> Option<HostNetwork> {
    let spec = pod.spec.as_ref()?;
    if spec.host_network != Some(true) {
        return None;
    }
    let on_machine = spec
        .containers
        .iter()
        .any(|c| c.image.as_deref() == Some(RELAY_IMAGE));
    Some(match on_machine {
        true => HostNetwork::Machine,
        false => HostNetwork::Node,
    })
}

/// `docker.io/cilium/starwars:v2.1@sha256:...` -> `starwars`
fn short_name(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split(':').next().unwrap_or_default()
}

/// The port a container declares, in its ports or as PORT.
fn port_of(container: &Container) -> Option<u16> {
    let declared = container.ports.iter().flatten().next();
    let env = container.env.iter().flatten();
    let named = env.filter(|var| var.name == "PORT").find_map(|var| {
        let value = var.value.as_deref()?;
        value.parse().ok()
    });
    named.or_else(|| declared.and_then(|port| u16::try_from(port.container_port).ok()))
}

/// A container's readiness probe; exec and gRPC probes are not asked.
fn probe_of(container: &Container) -> Option<ReadyWhen> {
    let probe = container.readiness_probe.as_ref()?;
    let (port, path) = match (&probe.http_get, &probe.tcp_socket) {
        (Some(get), _) => (&get.port, get.path.clone().or_else(|| Some("/".to_owned()))),
        (None, Some(socket)) => (&socket.port, None),
        (None, None) => return None,
    };
    let port = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let ports = container.ports.iter().flatten();
            let named = |port: &&ContainerPort| port.name.as_deref() == Some(name);
            ports.clone().find(named)?.container_port
        }
    };
    let port = u16::try_from(port).ok()?;
    Some(ReadyWhen::Serves { port, path })
}

/// What of a pod's spec has no effect here, to be told.
pub(super) fn not_provided(pod: &Pod) -> Vec<&'static str> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let any = |has: fn(&Container) -> bool| spec.containers.iter().any(has);
    let odd_probe = |c: &Container| {
        let probe = c.readiness_probe.as_ref();
        probe.is_some_and(|probe| probe.http_get.is_none() && probe.tcp_socket.is_none())
    };
    [
        (
            "initContainers",
            spec.init_containers
                .as_ref()
                .is_some_and(|list| !list.is_empty()),
        ),
        (
            "volumeMounts",
            any(|c| {
                c.volume_mounts
                    .as_ref()
                    .is_some_and(|list| !list.is_empty())
            }),
        ),
        (
            "envFrom",
            any(|c| c.env_from.as_ref().is_some_and(|list| !list.is_empty())),
        ),
        ("livenessProbe", any(|c| c.liveness_probe.is_some())),
        ("startupProbe", any(|c| c.startup_probe.is_some())),
        ("exec and gRPC readinessProbe", any(odd_probe)),
    ]
    .into_iter()
    .filter_map(|(name, used)| used.then_some(name))
    .collect()
}

/// A command line under construction.
struct Words(Vec<OsString>);

fn words(program: PathBuf, arguments: &[&str]) -> Words {
    let mut argv = vec![program.into_os_string()];
    argv.extend(arguments.iter().map(OsString::from));
    Words(argv)
}

impl Words {
    fn pair(mut self, flag: &str, value: &str) -> Self {
        self.0.extend([OsString::from(flag), OsString::from(value)]);
        self
    }

    fn path(mut self, flag: &str, value: &Path) -> Self {
        self.0.extend([OsString::from(flag), OsString::from(value)]);
        self
    }
}

#[cfg(test)]
mod tests;
