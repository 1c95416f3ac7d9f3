//! From pod to pod: round trips and throughput of plain routed pods, of the
//! mesh without a policy, with an L4 policy, and through the proxy with an L7
//! policy; on one node and between two. Prints tables; no number makes it
//! fail. Needs root, as the lab does. See docs/PERFORMANCE.md.
#![forbid(unsafe_code)]

mod lab;
mod manifests;
mod measure;
mod wire;

use anyhow::bail;
use clap::Parser;
use weft_integration::bench::machine;

use self::lab::{Lab, Routing};
use self::measure::Extent;
use self::wire::Role;

/// Measures pods that talk to each other.
#[derive(Debug, Parser)]
struct Args {
    /// Rounds of each measurement.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Round trips of one measurement.
    #[arg(long, default_value_t = 20_000)]
    round_trips: usize,
    /// Bytes of one transfer.
    #[arg(long, default_value_t = 1 << 30)]
    bytes: u64,
    /// How packets between nodes travel.
    #[arg(long, value_enum, default_value_t = Routing::Vxlan)]
    routing: Routing,
    /// What `cargo bench` passes.
    #[arg(long, hide = true)]
    bench: bool,
    /// What the pods run.
    #[command(subcommand)]
    role: Option<Role>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(role) = args.role {
        return role.run();
    }
    if !rustix::process::geteuid().is_root() {
        bail!("pods need root: the lab makes network namespaces and loads eBPF programs");
    }
    let extent = Extent {
        rounds: args.rounds.max(1),
        round_trips: args.round_trips.max(100),
        bytes: args.bytes.max(1 << 20),
    };
    let plain = Lab::up("bench-plain", args.routing, false)?;
    let mesh = Lab::up("bench-mesh", args.routing, true)?;
    println!("{}", machine::describe());
    let results = measure::measure(&plain, &mesh, extent)?;
    print!("{results}");
    Ok(())
}
