//! Command line.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Parser};
use weft_wasm_host::Compiler;
use weft_wasm_host::budget::BudgetLimits;

use crate::app::{Options, Origin};
use crate::telemetry::spans::Otlp;

/// Also when its file was replaced meanwhile.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// The node proxy: HTTP policy for the pods of one node.
#[derive(Debug, Parser)]
#[command(name = "weft-proxy", version, about)]
#[command(group = ArgGroup::new("origin").required(true).args(["control_socket", "snapshot"]))]
pub struct Args {
    /// Name of the node, for spans.
    #[arg(long, env = "WEFT_NODE")]
    pub node: Option<String>,

    /// Unix socket of the agent, which sends snapshots and takes records.
    #[arg(long, env = "WEFT_CONTROL_SOCKET")]
    pub control_socket: Option<PathBuf>,

    /// Where the last good snapshot is kept, to start from while the agent is
    /// away, and the modules of its filters with what was compiled of them.
    #[arg(long, env = "WEFT_STATE_DIR")]
    pub state_dir: Option<PathBuf>,

    /// Run from this file (a snapshot in JSON) in place of an agent. SIGHUP
    /// reads it again.
    #[arg(long)]
    pub snapshot: Option<PathBuf>,

    /// Where the modules of that file's filters are: all `*.wasm` in this folder,
    /// whatever they are called. SIGHUP looks anew.
    #[arg(long, requires = "snapshot", conflicts_with = "control_socket")]
    pub module_dir: Option<PathBuf>,

    /// Unix socket of the admin page.
    #[arg(long, env = "WEFT_ADMIN_SOCKET")]
    pub admin_socket: Option<PathBuf>,

    /// Loopback address of the admin page.
    #[arg(long, env = "WEFT_ADMIN_LISTEN")]
    pub admin_listen: Option<SocketAddr>,

    /// Worker threads. Default: as many as the process may use processors.
    #[arg(long, env = "WEFT_WORKERS")]
    pub workers: Option<NonZeroUsize>,

    /// CPU time that a filter may use, and all of one namespace together, in
    /// percent of each worker's. Calls of over 60 microseconds count for more than they last.
    #[arg(long, env = "WEFT_FILTER_CPU", default_value_t = 50, value_name = "PERCENT",
          value_parser = clap::value_parser!(u64).range(1..=100))]
    pub filter_cpu: u64,

    /// Memory that the filters of one namespace may have for each worker, in
    /// MiB.
    #[arg(long, env = "WEFT_FILTER_MEMORY", default_value_t = 64, value_name = "MIB",
          value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub filter_memory: u64,

    /// Longest wait for requests that are being served when the process is
    /// told to stop, in seconds.
    #[arg(long, env = "WEFT_DRAIN_SECONDS", default_value_t = 10)]
    pub drain_seconds: u64,

    /// gRPC address of an OpenTelemetry collector.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,

    /// `gzip` or `none`.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_COMPRESSION", default_value = "gzip",
          value_parser = ["gzip", "none"])]
    pub otlp_compression: String,
}

/// A combination of flags that makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ArgsError {
    /// Neither a file nor an agent.
    #[error("one of --control-socket and --snapshot is needed")]
    NoOrigin,
    /// The admin page would be open to the network.
    #[error("--admin-listen must be a loopback address")]
    AdminNotLoopback,
}

impl Args {
    /// What the application is started with.
    ///
    /// # Errors
    /// Flags that contradict each other.
    pub fn options(self) -> Result<Options, ArgsError> {
        let origin = match (self.snapshot, self.control_socket) {
            (Some(snapshot), _) => Origin::File {
                snapshot,
                modules: self.module_dir,
                state: self.state_dir,
            },
            (None, Some(socket)) => Origin::Agent {
                socket,
                state: self.state_dir,
            },
            (None, None) => return Err(ArgsError::NoOrigin),
        };
        if self
            .admin_listen
            .is_some_and(|address| !address.ip().is_loopback())
        {
            return Err(ArgsError::AdminNotLoopback);
        }
        let gzip = self.otlp_compression == "gzip";
        Ok(Options {
            node: self.node,
            origin,
            workers: self.workers.map_or_else(processors, NonZeroUsize::get),
            compiler: Compiler::Apart(THIS_PROGRAM.into()),
            filters: filters(self.filter_cpu, self.filter_memory),
            admin_socket: self.admin_socket,
            admin_listen: self.admin_listen,
            otlp: self
                .otlp_endpoint
                .filter(|endpoint| !endpoint.is_empty())
                .map(|endpoint| Otlp { endpoint, gzip }),
        })
    }
}

/// What the filters of one namespace may use of a worker.
fn filters(percent: u64, mib: u64) -> BudgetLimits {
    let cpu = Duration::from_millis(10 * percent);
    BudgetLimits {
        per_second: cpu,
        reserve: 2 * cpu,
        memory: usize::try_from(mib << 20).unwrap_or(usize::MAX),
        ..BudgetLimits::default()
    }
}

/// Processors that the process may use: affinity and cgroup quota counted.
fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::{Args, ArgsError, BudgetLimits};

    #[test]
    fn flags_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn what_filters_may_use_can_be_set() {
        let limits = |flags: &[&str]| {
            let args = ["weft-proxy", "--snapshot", "x.json"].into_iter();
            let args = Args::try_parse_from(args.chain(flags.iter().copied()))?;
            Ok::<_, clap::Error>(args.options().expect("taken").filters)
        };
        assert_eq!(limits(&[]).expect("taken"), BudgetLimits::default());
        let more = limits(&["--filter-cpu", "20", "--filter-memory", "256"]).expect("taken");
        assert_eq!(more.per_second.as_millis(), 200);
        assert_eq!(more.memory, 256 << 20);
        for wrong in [
            ["--filter-cpu", "0"],
            ["--filter-cpu", "101"],
            ["--filter-memory", "0"],
        ] {
            let said = limits(&wrong).expect_err("refused").to_string();
            assert!(said.contains(wrong[0]), "{said}");
        }
    }

    #[test]
    fn the_admin_page_stays_on_the_machine() {
        let args = Args::parse_from([
            "weft-proxy",
            "--snapshot",
            "x.json",
            "--admin-listen",
            "0.0.0.0:9901",
        ]);
        assert_eq!(
            args.options().expect_err("refused"),
            ArgsError::AdminNotLoopback
        );
    }

    #[test]
    fn a_file_and_an_agent_exclude_each_other() {
        let both = [
            "weft-proxy",
            "--snapshot",
            "x.json",
            "--control-socket",
            "x.sock",
        ];
        assert!(Args::try_parse_from(both).is_err());
        let modules = [
            "weft-proxy",
            "--control-socket",
            "x.sock",
            "--module-dir",
            "x",
        ];
        assert!(
            Args::try_parse_from(modules).is_err(),
            "the agent has its modules"
        );
        let none = Args::try_parse_from(["weft-proxy"]).expect_err("neither");
        let said = none.to_string();
        assert!(
            said.contains("--control-socket") && said.contains("--snapshot"),
            "{said}"
        );
    }
}
