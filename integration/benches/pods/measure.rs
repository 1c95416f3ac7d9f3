//! The measurements, in rounds.

use std::fmt;
use std::net::SocketAddr;

use anyhow::bail;
use serde::de::DeserializeOwned;
use weft_integration::bench::stats::median;
use weft_integration::bench::table::Table;

use crate::lab::Lab;
use crate::manifests::{self, CLIENT, L4_PORT, L7_PORT, Place, STRANGER};
use crate::wire::{Moved, Pinged};

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Measurements of each kind.
    pub rounds: usize,
    /// Round trips of one.
    pub round_trips: usize,
    /// Bytes of one.
    pub bytes: u64,
}

/// What lies between two pods.
#[derive(Debug)]
struct Way<'a> {
    name: &'static str,
    lab: &'a Lab,
    server: SocketAddr,
    proxied: bool,
    pings: Vec<Pinged>,
    transfers: Vec<Moved>,
}

/// All ways between two places.
#[derive(Debug)]
struct Between<'a> {
    name: &'static str,
    ways: Vec<Way<'a>>,
}

/// What was measured; prints as tables.
#[derive(Debug)]
pub struct Results<'a>(Vec<Between<'a>>);

/// Starts the pods and measures.
///
/// # Errors
/// When a pod does not run, a request fails, or a policy is not in force.
pub fn measure<'a>(plain: &'a Lab, mesh: &'a Lab, extent: Extent) -> anyhow::Result<Results<'a>> {
    plain.apply(&manifests::objects(false)?)?;
    mesh.apply(&manifests::objects(true)?)?;
    for lab in [plain, mesh] {
        lab.address(CLIENT)?;
        lab.address(STRANGER)?;
    }
    let mut results = Vec::new();
    for (name, place) in [("same node", Place::Near), ("across nodes", Place::Far)] {
        let ways = ways(plain, mesh, place)?;
        results.push(Between { name, ways });
    }
    for turn in 0..extent.rounds {
        for between in &mut results {
            // Every other time the other way round.
            if turn % 2 == 0 {
                between
                    .ways
                    .iter_mut()
                    .try_for_each(|way| way.measure(extent))?;
            } else {
                between
                    .ways
                    .iter_mut()
                    .rev()
                    .try_for_each(|way| way.measure(extent))?;
            }
        }
    }
    Ok(Results(results))
}

fn ways<'a>(plain: &'a Lab, mesh: &'a Lab, place: Place) -> anyhow::Result<Vec<Way<'a>>> {
    let way = |name, lab: &'a Lab, policed, port, proxied| {
        let address = lab.address(place.server(policed))?;
        anyhow::Ok(Way {
            name,
            lab,
            server: SocketAddr::from((address, port)),
            proxied,
            pings: Vec::new(),
            transfers: Vec::new(),
        })
    };
    let ways = vec![
        way("plain", plain, false, L4_PORT, false)?,
        way("mesh, no policy", mesh, false, L4_PORT, false)?,
        way("mesh, L4 policy", mesh, true, L4_PORT, false)?,
        way("mesh, L7 policy", mesh, true, L7_PORT, true)?,
    ];
    for way in &ways {
        // That the server listens at all is the client's to find out, before
        // it means anything that a stranger is refused.
        way.ping(100)?;
        if way.name.contains("L4") {
            let server = way.server.to_string();
            mesh.exec(STRANGER, &["refused", &server])?;
        }
    }
    Ok(ways)
}

impl Way<'_> {
    fn measure(&mut self, extent: Extent) -> anyhow::Result<()> {
        let pinged = self.ping(extent.round_trips)?;
        self.pings.push(pinged);
        let bytes = extent.bytes.to_string();
        let moved: Moved = self.ask(&["bulk", &self.server.to_string(), &bytes])?;
        self.check(moved.proxied)?;
        self.transfers.push(moved);
        Ok(())
    }

    fn ping(&self, count: usize) -> anyhow::Result<Pinged> {
        let server = self.server.to_string();
        let pinged: Pinged = self.ask(&["ping", &server, &count.to_string()])?;
        self.check(pinged.proxied)?;
        Ok(pinged)
    }

    fn ask<T: DeserializeOwned>(&self, words: &[&str]) -> anyhow::Result<T> {
        Ok(serde_json::from_str(&self.lab.exec(CLIENT, words)?)?)
    }

    /// The proxy is where it should be, and nowhere else.
    fn check(&self, proxied: bool) -> anyhow::Result<()> {
        if proxied != self.proxied {
            bail!(
                "{}: the proxy was{} on the way",
                self.name,
                if proxied { "" } else { " not" }
            );
        }
        Ok(())
    }

    fn trip(&self, value: impl Fn(&Pinged) -> u64) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let micros = |pinged| value(pinged) as f64 / 1e3;
        median(self.pings.iter().map(micros))
    }

    fn rate(&self) -> Option<f64> {
        median(self.transfers.iter().map(|moved| moved.rate))
    }
}

impl fmt::Display for Results<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for between in &self.0 {
            writeln!(formatter, "\n{}", between.name)?;
            let mut table = Table::new([
                "",
                "round trip p50 us",
                "/ plain",
                "p99 us",
                "Gbit/s",
                "/ plain",
            ]);
            let plain = between.ways.first();
            for way in &between.ways {
                let p50 = way.trip(|pinged| pinged.p50);
                let plain_p50 = plain.and_then(|plain| plain.trip(|pinged| pinged.p50));
                let plain_rate = plain.and_then(Way::rate);
                let over = |one: Option<f64>, other: Option<f64>| Some(one? / other?);
                table.row(
                    way.name,
                    [
                        text(p50, 1),
                        text(over(p50, plain_p50), 2),
                        text(way.trip(|pinged| pinged.p99), 1),
                        text(way.rate().map(|rate| rate * 8.0 / 1e9), 2),
                        text(over(way.rate(), plain_rate), 2),
                    ],
                );
            }
            write!(formatter, "{table}")?;
        }
        Ok(())
    }
}

fn text(value: Option<f64>, digits: usize) -> Option<String> {
    value.map(|value| format!("{value:.digits$}"))
}
