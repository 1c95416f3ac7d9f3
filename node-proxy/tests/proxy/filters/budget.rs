//! CPU time of namespaces: who takes too much is slowed, then stopped. How much
//! others notice of it is printed.

use std::time::{Duration, Instant};

use weft_api::node::{Filter, FilterPhase::AfterPolicy};
use weft_wasm_host::budget::BudgetLimits;

use super::{config, told};
use crate::support::client::Client;
use crate::support::guests::{filter, probe, step};
use crate::support::server::Server;
use crate::support::world::{Rules, STRANGER, World, open};

/// The tiefighter's requests meet a filter of another team, which burns CPU
/// time when it is told to.
fn greedy() -> Rules {
    let probe = probe();
    let filter = Filter {
        namespace: "greedy".into(),
        ..filter("burns", &probe, &config("x-do", ""))
    };
    Rules {
        filters: vec![filter],
        egress_chain: vec![step(AfterPolicy, 0)],
        modules: vec![probe],
        budget: Some(BudgetLimits::default()),
        ..open()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_greedy_namespace_is_slowed_and_then_stopped() {
    let server = Server::landing().await;
    let mut world = World::new(server.address, &greedy()).await;
    let mut other = Client::connect_from(world.address, STRANGER.into()).await;
    let alone = latencies(&mut other, Duration::from_secs(1)).await;
    let burners: Vec<_> = (0..8)
        .map(|_client| {
            let address = world.address;
            tokio::spawn(async move {
                let mut client = Client::connect(address).await;
                loop {
                    client.send(told("/x", "spin=3")).await;
                    client.answer().await;
                }
            })
        })
        .collect();
    let beside = latencies(&mut other, Duration::from_secs(4)).await;
    println!(
        "p99 of others: {:?} alone, {:?} beside",
        p99(&alone),
        p99(&beside)
    );
    // Within the deadline of a test: slowed since seconds, it is stopped now.
    let stopped = |reports: &weft_api::node::FilterReports| {
        reports
            .filters
            .iter()
            .any(|report| report.quarantined_until.is_some())
    };
    world.agent.reports(stopped).await;
    burners.iter().for_each(tokio::task::JoinHandle::abort);
    let mut client = Client::connect(world.address).await;
    assert_eq!(client.get("GET", "/x").await.status, 503);
    assert_eq!(other.get("GET", "/x").await.status, 200);
}

async fn latencies(client: &mut Client, time: Duration) -> Vec<Duration> {
    let end = Instant::now() + time;
    let mut all = Vec::new();
    while Instant::now() < end {
        let begin = Instant::now();
        assert_eq!(client.get("GET", "/x").await.status, 200);
        all.push(begin.elapsed());
    }
    all
}

fn p99(latencies: &[Duration]) -> Duration {
    let mut sorted = latencies.to_vec();
    sorted.sort();
    sorted[sorted.len() * 99 / 100]
}
