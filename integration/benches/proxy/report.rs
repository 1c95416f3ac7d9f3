//! What is printed.

use weft_integration::bench::stats::median;
use weft_integration::bench::table::Table;

use crate::contenders::{Contender, ENVOY, NGINX};
use crate::load::Case;
use crate::rounds::Measured;

const MIB: f64 = 1024.0 * 1024.0;

/// Prints one case.
pub fn print(case: Case, contenders: &[Contender], measured: &Measured) {
    let kept = measured.rounds.len();
    println!(
        "\n{}: {} connections, {} at once on each; {kept} rounds, {} thrown away; \
         direct {:.0} requests/s",
        case.name,
        case.connections,
        case.streams,
        measured.discarded,
        median(measured.direct.iter().copied()).unwrap_or_default(),
    );
    let at = format!("at {:.0}/s: p50 us", measured.rate);
    let mut table = Table::new([
        "",
        "CPU us/request",
        "in kernel",
        "/ envoy",
        "/ nginx",
        "requests/s",
        "switches/request",
        "RSS MiB",
        &at,
        "p99 us",
    ]);
    let place = |name| contenders.iter().position(|one| one.name == name);
    let (envoy, nginx) = (place(ENVOY), place(NGINX));
    for (index, contender) in contenders.iter().enumerate() {
        let to = |other: Option<usize>| measured.ratio(index, other?);
        table.row(
            contender.name,
            [
                text(measured.of(index, |sample| sample.cpu), 2),
                text(measured.of(index, |sample| sample.kernel), 2),
                text(to(envoy), 3),
                text(to(nginx), 3),
                text(measured.of(index, |sample| sample.rate), 0),
                text(measured.of(index, |sample| sample.switches), 3),
                text(measured.of(index, resident), 1),
                text(measured.latency(index, |latency| latency.p50), 0),
                text(measured.latency(index, |latency| latency.p99), 0),
            ],
        );
    }
    print!("{table}");
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn resident(sample: &crate::rounds::Sample) -> f64 {
    sample.resident as f64 / MIB
}

fn text(value: Option<f64>, digits: usize) -> Option<String> {
    value.map(|value| format!("{value:.digits$}"))
}
