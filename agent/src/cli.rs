//! Command line of the agent: one binary, four roles.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use weft_api::node::MAX_SNAPSHOT;
use weft_core::policy::Bounds;
use weft_datapath::{CLOSED_PORT, POLICY_ENTRIES, TableSizes};

use crate::plan::HTTP_TABLES;

mod marks;
mod modules;
mod parse;
mod proxy;

pub use marks::{MarkArgs, MarkArgsError};
pub use modules::{ModuleArgs, OriginArgs};
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
    #[arg(
        long,
        env = "WEFT_PROXY_PORT",
        default_value_t = 15001,
        value_parser = clap::value_parser!(u16).range(PROXY_PORTS)
    )]
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
        default_value_t = TableSizes::default().conntrack,
        value_parser = clap::value_parser!(u32).range(TABLE_ENTRIES)
    )]
    pub conntrack_entries: u32,
    /// Room for so many ends of masqueraded connections, two for each, 96
    /// bytes each.
    #[arg(
        long,
        env = "WEFT_NAT_ENTRIES",
        default_value_t = TableSizes::default().nat,
        value_parser = clap::value_parser!(u32).range(TABLE_ENTRIES)
    )]
    pub nat_entries: u32,
    /// Entries of the kernel's policy map that the policies of one pod may take:
    /// peers times ports. A pod that is above it gets nothing that it did not
    /// have. The map has room for 262144, of all pods.
    #[arg(
        long,
        env = "WEFT_POLICY_ENTRIES_PER_ENDPOINT",
        default_value_t = most_entries(),
        value_parser = clap::value_parser!(u32).range(256..=i64::from(POLICY_ENTRIES))
    )]
    pub policy_entries_per_endpoint: u32,
    /// Packet marks, and how the node routes by them.
    #[command(flatten)]
    pub marks: MarkArgs,
    /// What the proxy is told.
    #[command(flatten)]
    pub proxy: ProxyArgs,
    /// Where modules of filters come from.
    #[command(flatten)]
    pub modules: ModuleArgs,
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

/// Not 0, and not what stands for closed in the kernel.
const PROXY_PORTS: RangeInclusive<i64> = CLOSED_PORT as i64 + 1..=u16::MAX as i64;
/// Room that tables may have.
const TABLE_ENTRIES: RangeInclusive<i64> = TableSizes::LEAST as i64..=TableSizes::MOST as i64;

fn most_entries() -> u32 {
    u32::try_from(Bounds::default().entries).unwrap_or(u32::MAX)
}

// What the bounds of one pod say of themselves. The core cannot: it knows neither
// the kernel's maps nor the wire.
const _: () = {
    assert!(Bounds::USUAL.entries * 16 == POLICY_ENTRIES as usize);
    assert!(Bounds::USUAL.http_bytes * 16 == MAX_SNAPSHOT);
    assert!(Bounds::USUAL.http_tables * 4 == HTTP_TABLES);
};

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
    /// Address on which the API server has filters checked before it accepts them;
    /// without it port 9443 of every address.
    #[arg(long, env = "WEFT_ADMISSION_LISTEN")]
    pub admission_listen: Option<SocketAddr>,
    /// The Service, in the namespace of the lease, whose port 443 leads there.
    #[arg(long, env = "WEFT_ADMISSION_SERVICE", default_value = "weft-operator")]
    pub admission_service: String,
    /// Where the modules are whose schemas filters are checked against.
    #[command(flatten)]
    pub origins: OriginArgs,
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

    #[test]
    fn entries_are_bounded_unless_told_otherwise() {
        assert_eq!(run(&[]).unwrap().bounds(), Bounds::default());
        let flag = "--policy-entries-per-endpoint";
        assert_eq!(run(&[flag, "1000"]).unwrap().bounds().entries, 1000);
        let wrong = run(&[flag, "0"]).unwrap_err().to_string();
        assert!(wrong.contains(flag) && wrong.contains("256"), "{wrong}");
    }

    #[test]
    fn ports_and_sizes_are_possible() {
        for (flag, wrong, range) in [
            ("--proxy-port", "0", "2..=65535"),
            ("--proxy-port", "1", "2..=65535"),
            ("--conntrack-entries", "1023", "1024..=16777216"),
            ("--nat-entries", "16777217", "1024..=16777216"),
        ] {
            let error = run(&[flag, wrong]).unwrap_err().to_string();
            assert!(error.contains(flag) && error.contains(range), "{error}");
        }
    }
}
