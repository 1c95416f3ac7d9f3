//! Command line of the agent: one binary, four roles.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use weft_datapath::TableSizes;

/// A node's control plane, the relay and the operator.
#[derive(Debug, Parser)]
#[command(name = "weft-agent", version)]
pub struct Cli {
    /// What to be; there is no default.
    #[command(subcommand)]
    pub role: Role,
}

/// The roles of the binary.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// The agent of one node (runs inside the node's network namespace).
    Run(Box<RunArgs>),
    /// Cluster-wide work: resource definitions, status, unused identities.
    Operator(OperatorArgs),
    /// Merges every node's flows and serves them from one place.
    Relay(crate::relay::RelayArgs),
    /// Detaches and unpins everything and restores the node's settings.
    Uninstall(UninstallArgs),
}

/// Flags of `run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Name of this node's Node object.
    #[arg(long, env = "WEFT_NODE")]
    pub node: String,
    /// Kubeconfig file; without it the pod's service account is used.
    #[arg(long, env = "WEFT_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Directory on bpffs for pinned maps and links.
    #[arg(long, env = "WEFT_PIN_DIR", default_value = "/sys/fs/bpf/weft/v1")]
    pub pin_dir: PathBuf,
    /// Directory that survives restarts (last good policies, node settings).
    #[arg(long, env = "WEFT_STATE_DIR", default_value = "/var/lib/weft")]
    pub state_dir: PathBuf,
    /// Unix socket on which the proxy gets its snapshots.
    #[arg(
        long,
        env = "WEFT_CONTROL_SOCKET",
        default_value = "/run/weft/control.sock"
    )]
    pub control_socket: PathBuf,
    /// Unix socket for health, status and endpoint readiness.
    #[arg(
        long,
        env = "WEFT_ADMIN_SOCKET",
        default_value = "/run/weft/agent.sock"
    )]
    pub admin_socket: PathBuf,
    /// Unix socket of the flow observer.
    #[arg(
        long,
        env = "WEFT_HUBBLE_SOCKET",
        default_value = "/run/weft/hubble.sock"
    )]
    pub hubble_socket: PathBuf,
    /// TCP addresses of the flow observer, separated by commas; without any,
    /// port 4244 of the node's own address and of loopback. Pods are refused.
    #[arg(long, env = "WEFT_HUBBLE_LISTEN", value_delimiter = ',')]
    pub hubble_listen: Vec<SocketAddr>,
    /// Port of the proxy's transparent listener on loopback.
    #[arg(long, env = "WEFT_PROXY_PORT", default_value_t = 15001)]
    pub proxy_port: u16,
    /// Interface towards the other nodes and the world.
    #[arg(long, env = "WEFT_UPLINK", default_value = "eth0")]
    pub uplink: String,
    /// Overlay interface towards other nodes' pods, when the cluster has one.
    #[arg(long, env = "WEFT_OVERLAY")]
    pub overlay: Option<String>,
    /// Name of the cluster, as flows and identities carry it.
    #[arg(long, env = "WEFT_CLUSTER", default_value = "default")]
    pub cluster: String,
    /// Room for so many connections in the kernel, 120 bytes each.
    #[arg(
        long,
        env = "WEFT_CONNTRACK_ENTRIES",
        default_value_t = TableSizes::default().conntrack
    )]
    pub conntrack_entries: u32,
    /// Room for so many ends of masqueraded connections, two for each, 96
    /// bytes each.
    #[arg(
        long,
        env = "WEFT_NAT_ENTRIES",
        default_value_t = TableSizes::default().nat
    )]
    pub nat_entries: u32,
}

/// Flags of `operator`.
#[derive(Debug, Clone, Args)]
pub struct OperatorArgs {
    /// Kubeconfig file; without it the pod's service account is used.
    #[arg(long, env = "WEFT_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Name of the cluster, as identities carry it.
    #[arg(long, env = "WEFT_CLUSTER", default_value = "default")]
    pub cluster: String,
    /// Namespace of the lease that the working operator holds.
    #[arg(long, env = "WEFT_LEASE_NAMESPACE", default_value = "kube-system")]
    pub lease_namespace: String,
    /// Seconds for which an identity must be unused before it is removed.
    #[arg(long, env = "WEFT_IDENTITY_GRACE", default_value_t = 900)]
    pub identity_grace: u64,
}

/// Flags of `uninstall`.
#[derive(Debug, Clone, Args)]
pub struct UninstallArgs {
    /// Directory on bpffs for pinned maps and links.
    #[arg(long, env = "WEFT_PIN_DIR", default_value = "/sys/fs/bpf/weft/v1")]
    pub pin_dir: PathBuf,
    /// The agent's state directory.
    #[arg(long, env = "WEFT_STATE_DIR", default_value = "/var/lib/weft")]
    pub state_dir: PathBuf,
}
