//! Measuring in rounds: each contender once a round, in another order each
//! time, between two looks at the backend without a proxy.

use std::time::Duration;

use weft_integration::bench::stats::{median, moved};
use weft_integration::bench::usage::Usage;

use crate::contenders::Contender;
use crate::load::{Case, Latency, Load};

/// A round says nothing when the machine itself changed by more than this
/// share while it ran.
const STEADY: f64 = 0.1;

/// What one contender used for one flood.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// CPU time of a request, in microseconds.
    pub cpu: f64,
    /// How much of it was spent in the kernel.
    pub kernel: f64,
    /// Context switches of a request.
    pub switches: f64,
    /// Requests a second.
    pub rate: f64,
    /// Resident memory afterwards, in bytes.
    pub resident: u64,
}

/// Samples by contender, in the contenders' order.
pub type Round = Vec<Sample>;

/// What was measured of one case.
#[derive(Debug)]
pub struct Measured {
    /// Rounds in which the machine held still; all of them when it never did.
    pub rounds: Vec<Round>,
    /// Rounds that were thrown away.
    pub discarded: usize,
    /// Requests a second without a proxy, in those rounds.
    pub direct: Vec<f64>,
    /// Latencies by contender, several of each.
    pub latencies: Vec<Vec<Latency>>,
    /// The rate at which latencies were taken.
    pub rate: f64,
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Rounds that are wanted of each case.
    pub rounds: usize,
    /// Requests of one flood.
    pub requests: u64,
    /// Duration of one measurement of latencies.
    pub steady: Duration,
}

/// Measures one case.
///
/// # Errors
/// When a contender fails a request.
pub fn measure(
    load: &Load<'_>,
    case: Case,
    backend: &Contender,
    contenders: &[Contender],
    extent: Extent,
) -> anyhow::Result<Measured> {
    // Connections to the backend, caches, branch predictors.
    for contender in contenders {
        load.flood(contender.port(case.protocol), case, extent.requests / 4)?;
    }
    let mut kept = Vec::new();
    let mut thrown = Vec::new();
    // On a machine that never holds still it must end all the same.
    for turn in 0..extent.rounds * 2 {
        if kept.len() == extent.rounds {
            break;
        }
        let control = || load.flood(backend.port(case.protocol), case, extent.requests);
        let before = control()?;
        let round = round(load, case, contenders, extent.requests, turn)?;
        let after = control()?;
        let of = if moved(before, after, STEADY) {
            eprintln!(
                "  {}: round thrown away, direct {before:.0} then {after:.0}/s",
                case.name
            );
            &mut thrown
        } else {
            &mut kept
        };
        of.push((round, f64::midpoint(before, after)));
    }
    let discarded = thrown.len();
    let (rounds, direct) = if kept.is_empty() { thrown } else { kept }
        .into_iter()
        .unzip();
    let mut measured = Measured {
        rounds,
        discarded,
        direct,
        latencies: vec![Vec::new(); contenders.len()],
        rate: 0.0,
    };
    latencies(load, case, contenders, extent, &mut measured)?;
    Ok(measured)
}

fn round(
    load: &Load<'_>,
    case: Case,
    contenders: &[Contender],
    requests: u64,
    turn: usize,
) -> anyhow::Result<Round> {
    let mut samples = Vec::new();
    for index in order(contenders.len(), turn) {
        if let Some(contender) = contenders.get(index) {
            samples.push((index, sample(load, case, contender, requests)?));
        }
    }
    samples.sort_by_key(|(index, _)| *index);
    Ok(samples.into_iter().map(|(_, sample)| sample).collect())
}

/// Each one first in its turn, and every other time the other way round.
pub fn order(count: usize, turn: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.rotate_left(turn / 2 % count.max(1));
    if turn % 2 == 1 {
        order.reverse();
    }
    order
}

fn sample(
    load: &Load<'_>,
    case: Case,
    contender: &Contender,
    requests: u64,
) -> anyhow::Result<Sample> {
    let pid = contender.process.pid();
    let before = Usage::of(pid)?;
    let rate = load.flood(contender.port(case.protocol), case, requests)?;
    let used = Usage::of(pid)? - before;
    let cpu = used.cpu.as_secs_f64() * 1e6 / count(requests);
    Ok(Sample {
        cpu,
        kernel: cpu * count(used.kernel) / count((used.user + used.kernel).max(1)),
        switches: count(used.switches) / count(requests),
        rate,
        resident: used.resident,
    })
}

/// At half of what the slowest contender can do, so that it is the contender
/// that is measured and not its queue.
fn latencies(
    load: &Load<'_>,
    case: Case,
    contenders: &[Contender],
    extent: Extent,
    measured: &mut Measured,
) -> anyhow::Result<()> {
    let slowest = (0..contenders.len())
        .filter_map(|index| measured.of(index, |sample| sample.rate))
        .fold(f64::INFINITY, f64::min);
    measured.rate = (slowest / 2.0).floor();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive number of requests"
    )]
    let requests = (measured.rate * extent.steady.as_secs_f64()) as u64;
    // Clients send the same number each.
    let requests = requests - requests % u64::from(case.connections);
    for turn in 0..extent.rounds.min(3) {
        for index in order(contenders.len(), turn) {
            if let (Some(contender), Some(taken)) =
                (contenders.get(index), measured.latencies.get_mut(index))
            {
                let port = contender.port(case.protocol);
                taken.push(load.steady(port, case, requests, measured.rate)?);
            }
        }
    }
    Ok(())
}

impl Measured {
    /// Median of one value of a contender.
    pub fn of(&self, index: usize, value: impl Fn(&Sample) -> f64) -> Option<f64> {
        median(
            self.rounds
                .iter()
                .filter_map(|round| round.get(index))
                .map(value),
        )
    }

    /// Median over the rounds of one contender's CPU time to another's of the
    /// same round.
    #[must_use]
    pub fn ratio(&self, index: usize, to: usize) -> Option<f64> {
        let of_round = |round: &Round| Some(round.get(index)?.cpu / round.get(to)?.cpu);
        median(self.rounds.iter().filter_map(of_round))
    }

    /// Median of one quantile of a contender's latency.
    pub fn latency(&self, index: usize, value: impl Fn(&Latency) -> u64) -> Option<f64> {
        let taken = self.latencies.get(index)?;
        median(taken.iter().map(|latency| count(value(latency))))
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn count(number: u64) -> f64 {
    number as f64
}
