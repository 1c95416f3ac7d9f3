//! Ours against Envoy, nginx and HAProxy, on the same work and the same
//! machine. Prints tables; no number makes it fail. See docs/PERFORMANCE.md.
#![forbid(unsafe_code)]

mod added;
mod awake;
mod compiling;
mod contenders;
mod fairness;
mod filters;
mod load;
mod report;
mod rounds;

use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use weft_integration::bench::cores::Cores;
use weft_integration::bench::machine;
use weft_integration::bench::peers::Peers;

use self::contenders::{Contender, Stage};
use self::load::{CASES, Load, Protocol};
use self::rounds::Extent;

/// Measures the node proxy against its peers.
#[derive(Debug, Parser)]
struct Args {
    /// Only cases whose name contains this: h1-32, h1-256, h2-32x8.
    case: Option<String>,
    /// Rounds that count, of each case.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Requests of each contender in each round.
    #[arg(long, default_value_t = 60_000)]
    requests: u64,
    /// Seconds of each measurement of latencies.
    #[arg(long, default_value_t = 3.0)]
    steady: f64,
    /// Only contenders whose name contains this, beside envoy and nginx.
    #[arg(long)]
    only: Option<String>,
    /// Also ours and Envoy with a filter that adds a header: through the SDK, and
    /// for proxy-wasm. Then, whatever the case: what the filter adds with peers
    /// that never sleep, and what others notice of modules that are compiled and of
    /// a filter that burns CPU time.
    /// Wants `make filters`.
    #[arg(long)]
    filters: bool,
    /// Measure nothing: give ours the load of all cases once, with filters and
    /// without, for the profile of an instrumented build.
    #[arg(long)]
    train: bool,
    /// What `cargo bench` passes.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let cores = Cores::divide()?;
    cores.stay_with_load()?;
    let peers = Peers::find();
    // For the stand-in of the agent; the rest needs none.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let _entered = runtime.enter();
    let directory = tempfile::tempdir()?;
    let stage = Stage {
        directory: directory.path(),
        cores: &cores,
        peers: &peers,
    };
    let load = Load {
        h2load: peers
            .path("h2load")
            .context("h2load is not installed: run scripts/bench-peers")?,
        cores: &cores,
        directory: directory.path(),
    };
    let backend = stage.backend()?;
    if args.train {
        let mut ours = stage.ours(&backend)?;
        ours.extend(stage.ours_filtered(backend.port(Protocol::Http1))?);
        return train(&load, &ours, args.requests);
    }
    let mut contenders = stage.contenders(&backend, args.only.as_deref())?;
    if args.filters {
        contenders.extend(stage.filtered(backend.port(Protocol::Http1))?);
    }
    let extent = Extent {
        rounds: args.rounds.max(1),
        requests: args.requests.max(1000),
        steady: Duration::from_secs_f64(args.steady.max(0.1)),
    };
    println!("{}", machine::describe());
    println!("medians of rounds; ratios are of CPU time, within a round");
    let wanted = args.case.unwrap_or_default();
    for case in CASES.into_iter().filter(|case| case.name.contains(&wanted)) {
        let measured = rounds::measure(&load, case, &backend, &contenders, extent)?;
        report::print(case, &contenders, &measured);
    }
    for contender in &contenders {
        if let Some((records, lost)) = contender.records() {
            println!(
                "\n{}: {records} records received, {lost} lost",
                contender.name
            );
        }
    }
    if args.filters {
        drop(contenders);
        let in_its_folder = Stage {
            directory: &stage.folder("added")?,
            ..stage
        };
        added::print(&in_its_folder, extent)?;
        compiling::print(&stage, &load, &backend)?;
        fairness::print(&stage, &load, &backend)?;
    }
    Ok(())
}

fn train(load: &Load<'_>, ours: &[Contender], requests: u64) -> anyhow::Result<()> {
    for case in CASES {
        for contender in ours {
            load.flood(contender.port(case.protocol), case, requests)?;
        }
    }
    Ok(())
}
