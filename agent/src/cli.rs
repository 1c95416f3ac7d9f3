//! Command line of the agent: one binary, four roles.

use std::net::SocketAddr;
use std::num::ParseIntError;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use weft_core::policy::Bounds;
use weft_datapath::{Marks, PROXY_RULE_PREFERENCE, PROXY_TABLE, TableSizes};

mod proxy;

pub use proxy::{ProxyArgs, ProxyArgsError};

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
    /// Directory on bpffs for pinned maps and links, in a folder for the
    /// version of their layout.
    #[arg(long, env = "WEFT_PIN_DIR", default_value = "/sys/fs/bpf/weft")]
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
    /// Entries of the kernel's policy map that the policies of one pod may take:
    /// peers times ports. A pod that is above it gets nothing that it did not
    /// have. The map has room for 262144.
    #[arg(
        long,
        env = "WEFT_POLICY_ENTRIES_PER_ENDPOINT",
        default_value_t = most_entries(),
        value_parser = clap::value_parser!(u32).range(256..=262_144)
    )]
    pub policy_entries_per_endpoint: u32,
    /// Packet marks, and how the node routes by them.
    #[command(flatten)]
    pub marks: MarkArgs,
    /// What the proxy is told.
    #[command(flatten)]
    pub proxy: ProxyArgs,
}

impl RunArgs {
    /// What the policies of one pod may come to.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        let entries = self.policy_entries_per_endpoint;
        Bounds {
            entries: usize::try_from(entries).unwrap_or(usize::MAX),
            ..Bounds::default()
        }
    }
}

fn most_entries() -> u32 {
    u32::try_from(Bounds::default().entries).unwrap_or(u32::MAX)
}

/// Packet marks and the node's routing by them. Change them where something
/// else on the node uses the usual ones; connections through the proxy end
/// when they change.
#[derive(Debug, Clone, Args, PartialEq, Eq)]
pub struct MarkArgs {
    /// Bits of packet marks that belong to weft; the three marks lie in them.
    #[arg(long, env = "WEFT_MARK_MASK", value_parser = number, default_value = "0xf00")]
    pub mark_mask: u32,
    /// Mark of packets on their way to the proxy.
    #[arg(long, env = "WEFT_MARK_TO_PROXY", value_parser = number, default_value = "0x200")]
    pub mark_to_proxy: u32,
    /// Mark of packets that the proxy sends; the proxy is told.
    #[arg(long, env = "WEFT_MARK_FROM_PROXY", value_parser = number, default_value = "0xa00")]
    pub mark_from_proxy: u32,
    /// Mark of pods' packets that leave the node as they are.
    #[arg(long, env = "WEFT_MARK_JUDGED", value_parser = number, default_value = "0xf00")]
    pub mark_judged: u32,
    /// Routing table that takes packets marked for the proxy to its socket.
    #[arg(long, env = "WEFT_PROXY_TABLE", default_value_t = PROXY_TABLE)]
    pub proxy_table: u32,
    /// Preference of the routing rule that leads there.
    #[arg(long, env = "WEFT_PROXY_RULE_PREFERENCE", default_value_t = PROXY_RULE_PREFERENCE)]
    pub proxy_rule_preference: u32,
}

impl MarkArgs {
    /// The marks.
    #[must_use]
    pub fn marks(&self) -> Marks {
        Marks {
            mask: self.mark_mask,
            to_proxy: self.mark_to_proxy,
            from_proxy: self.mark_from_proxy,
            judged: self.mark_judged,
        }
    }
}

/// A number as marks are written: `0xf00` or `3840`.
fn number(text: &str) -> Result<u32, ParseIntError> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    }
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
    /// Seconds without renewal after which another operator takes the lease;
    /// one that cannot renew it gives up after two thirds of them.
    #[arg(
        long,
        env = "WEFT_LEASE_DURATION",
        default_value_t = 15,
        value_parser = clap::value_parser!(u32).range(3..=3600)
    )]
    pub lease_duration: u32,
    /// Seconds for which an identity must be unused before it is removed.
    #[arg(long, env = "WEFT_IDENTITY_GRACE", default_value_t = 900)]
    pub identity_grace: u64,
}

/// Flags of `uninstall`.
#[derive(Debug, Clone, Args)]
pub struct UninstallArgs {
    /// Directory on bpffs for pinned maps and links, in a folder for the
    /// version of their layout.
    #[arg(long, env = "WEFT_PIN_DIR", default_value = "/sys/fs/bpf/weft")]
    pub pin_dir: PathBuf,
    /// The agent's state directory.
    #[arg(long, env = "WEFT_STATE_DIR", default_value = "/var/lib/weft")]
    pub state_dir: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(flags: &[&str]) -> Result<RunArgs, clap::Error> {
        let words = ["weft-agent", "run", "--node", "a"];
        let cli = Cli::try_parse_from(words.iter().chain(flags))?;
        match cli.role {
            Role::Run(args) => Ok(*args),
            other => panic!("{other:?}"),
        }
    }

    fn marks(flags: &[&str]) -> Result<MarkArgs, clap::Error> {
        run(flags).map(|args| args.marks)
    }

    #[test]
    fn entries_are_bounded_unless_told_otherwise() {
        assert_eq!(run(&[]).unwrap().bounds(), Bounds::default());
        let flag = "--policy-entries-per-endpoint";
        assert_eq!(run(&[flag, "1000"]).unwrap().bounds().entries, 1000);
        let wrong = run(&[flag, "0"]).unwrap_err().to_string();
        assert!(wrong.contains(flag) && wrong.contains("256"), "{wrong}");
    }

    #[test]
    fn marks_are_the_datapaths_unless_told_otherwise() {
        assert_eq!(marks(&[]).unwrap().marks(), Marks::default());
        let other = marks(&["--mark-mask", "0xf0000", "--mark-to-proxy", "65536"]).unwrap();
        assert_eq!((other.mark_mask, other.mark_to_proxy), (0xf_0000, 0x1_0000));
        let wrong = marks(&["--mark-mask", "0xyz"]).unwrap_err().to_string();
        assert!(wrong.contains("'0xyz' for '--mark-mask"), "{wrong}");
    }
}
