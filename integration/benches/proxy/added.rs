//! What a filter adds to a request, with peers that never sleep ([`awake`]).
//!
//! [`awake`]: super::awake

use weft_integration::bench::stats::median;
use weft_integration::bench::table::Table;
use weft_integration::bench::usage::Usage;

use crate::awake::Awake;
use crate::contenders::{Contender, ENVOY, Stage, WEFT};
use crate::filters::{ENVOY_PROXY_WASM, WEFT_PROXY_WASM, WEFT_SDK};
use crate::load::Protocol;
use crate::rounds::{Extent, order};

const CONNECTIONS: u32 = 32;

/// With a filter, and without.
const PAIRS: [(&str, &str); 3] = [
    (WEFT_SDK, WEFT),
    (WEFT_PROXY_WASM, WEFT),
    (ENVOY_PROXY_WASM, ENVOY),
];

/// CPU time of a request, in microseconds, by contender.
type Round = Vec<f64>;

/// Measures and prints it.
///
/// # Errors
/// When a contender does not start, or fails a request.
pub fn print(stage: &Stage<'_>, extent: Extent) -> anyhow::Result<()> {
    let peers = Awake::start()?;
    let contenders = stage.with_filters_and_without(peers.port())?;
    for contender in &contenders {
        flood(&peers, contender, extent.requests / 4)?;
    }
    let mut rounds = Vec::new();
    for turn in 0..extent.rounds {
        rounds.push(round(&peers, &contenders, extent.requests, turn)?);
    }
    let place = |name| contenders.iter().position(|one| one.name == name);
    let of = |value: &dyn Fn(&Round) -> Option<f64>| median(rounds.iter().filter_map(value));
    let added = |(with, without)| {
        let (with, without) = (place(with)?, place(without)?);
        of(&|round| Some(round.get(with)? - round.get(without)?))
    };
    println!(
        "\nwhat a filter adds: {CONNECTIONS} connections of HTTP/1.1, peers that never sleep; \
         {} rounds",
        rounds.len()
    );
    let mut table = Table::new([
        "",
        "CPU us/request",
        "a filter adds",
        "of what it adds to envoy",
    ]);
    let envoy = added((ENVOY_PROXY_WASM, ENVOY));
    for (index, contender) in contenders.iter().enumerate() {
        let pair = PAIRS.into_iter().find(|(with, _)| *with == contender.name);
        let adds = pair.and_then(&added);
        let share = adds.zip(envoy).map(|(adds, envoy)| adds / envoy);
        let cpu = of(&|round| round.get(index).copied());
        let texts = [(cpu, 2), (adds, 2), (share, 2)];
        table.row(
            contender.name,
            texts.map(|(value, digits)| value.map(|value| format!("{value:.digits$}"))),
        );
    }
    print!("{table}");
    Ok(())
}

fn round(
    peers: &Awake,
    contenders: &[Contender],
    requests: u64,
    turn: usize,
) -> anyhow::Result<Round> {
    let mut round = vec![0.0; contenders.len()];
    for index in order(contenders.len(), turn) {
        if let (Some(contender), Some(cpu)) = (contenders.get(index), round.get_mut(index)) {
            *cpu = flood(peers, contender, requests)?;
        }
    }
    Ok(round)
}

fn flood(peers: &Awake, contender: &Contender, requests: u64) -> anyhow::Result<f64> {
    let pid = contender.process.pid();
    let before = Usage::of(pid)?;
    peers.flood(contender.port(Protocol::Http1), CONNECTIONS, requests)?;
    let used = Usage::of(pid)? - before;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let requests = requests as f64;
    Ok(used.cpu.as_secs_f64() * 1e6 / requests)
}
