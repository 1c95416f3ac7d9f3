//! The load: `h2load`, which speaks both protocols and can keep a rate.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use weft_integration::bench::cores::Cores;
use weft_integration::bench::stats::quantile;

/// What clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, one request at a time on each connection.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// A shape of load.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// What the command line and tables call it.
    pub name: &'static str,
    /// What clients speak.
    pub protocol: Protocol,
    /// Connections.
    pub connections: u32,
    /// Requests at once on each.
    pub streams: u32,
}

/// All that are measured.
pub const CASES: [Case; 3] = [
    Case {
        name: "h1-32",
        protocol: Protocol::Http1,
        connections: 32,
        streams: 1,
    },
    Case {
        name: "h1-256",
        protocol: Protocol::Http1,
        connections: 256,
        streams: 1,
    },
    Case {
        name: "h2-32x8",
        protocol: Protocol::Http2,
        connections: 32,
        streams: 8,
    },
];

/// Latencies in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Latency {
    /// Half of the requests took no longer.
    pub p50: u64,
    /// Of a hundred requests 99 took no longer.
    pub p99: u64,
}

/// Sends requests.
#[derive(Debug)]
pub struct Load<'a> {
    /// The program.
    pub h2load: PathBuf,
    /// Where it runs.
    pub cores: &'a Cores,
    /// Its files.
    pub directory: &'a Path,
}

impl Load<'_> {
    /// Sends so many requests as fast as they are answered. Returns requests
    /// per second.
    ///
    /// # Errors
    /// When a single one is not answered with a 2xx.
    pub fn flood(&self, port: u16, case: Case, requests: u64) -> anyhow::Result<f64> {
        let report = self.run(port, case, requests, &[])?;
        report.rate(requests)
    }

    /// Sends so many requests at this rate a second.
    ///
    /// # Errors
    /// When a single one is not answered with a 2xx.
    pub fn steady(
        &self,
        port: u16,
        case: Case,
        requests: u64,
        rate: f64,
    ) -> anyhow::Result<Latency> {
        let log = self.directory.join("latencies");
        let of_each = format!("--rps={:.2}", rate / f64::from(case.connections));
        let into = format!("--log-file={}", log.display());
        // Clients start one after the other, or all would send in one burst.
        let apart = ["-r1", "--rate-period=1ms"];
        self.run(port, case, requests, &[&of_each, &into, apart[0], apart[1]])?
            .rate(requests)?;
        let text = fs::read_to_string(&log)?;
        fs::remove_file(&log)?;
        latency(&text).context("h2load wrote no latencies")
    }

    fn run(&self, port: u16, case: Case, requests: u64, more: &[&str]) -> anyhow::Result<Report> {
        let mut command = Command::new(&self.h2load);
        if case.protocol == Protocol::Http1 {
            command.arg("--h1");
        }
        command
            .arg(format!("-n{requests}"))
            .arg(format!("-c{}", case.connections))
            .arg(format!("-m{}", case.streams))
            .args(["-t1", "-H:method: POST", "-Hcontent-length: 0"])
            .args(more)
            .arg(format!("http://127.0.0.1:{port}/v1/request-landing"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let output = self.cores.load(&mut command)?.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("h2load ended ({}): {text}{said}", output.status);
        }
        Ok(Report(text))
    }
}

/// What `h2load` printed.
struct Report(String);

impl Report {
    fn rate(&self, requests: u64) -> anyhow::Result<f64> {
        let succeeded = number_before(&self.0, "requests: ", " succeeded");
        let good = number_before(&self.0, "status codes: ", " 2xx");
        if succeeded != Some(requests) || good != Some(requests) {
            bail!(
                "not all of {requests} requests were answered with 2xx:\n{}",
                self.0
            );
        }
        self.0
            .lines()
            .find_map(|line| line.strip_prefix("finished in "))
            .and_then(|line| {
                line.split(", ")
                    .nth(1)?
                    .strip_suffix(" req/s")?
                    .parse()
                    .ok()
            })
            .with_context(|| format!("h2load gave no rate:\n{}", self.0))
    }
}

/// The number right before `unit` on the line that starts with `line`.
fn number_before(text: &str, line: &str, unit: &str) -> Option<u64> {
    let line = text.lines().find_map(|one| one.strip_prefix(line))?;
    let (before, _) = line.split_once(unit)?;
    before.rsplit(' ').next()?.parse().ok()
}

/// From lines of start, status and duration in microseconds.
fn latency(log: &str) -> Option<Latency> {
    let mut taken: Vec<u64> = log
        .lines()
        .filter_map(|line| line.split('\t').nth(2)?.parse().ok())
        .collect();
    taken.sort_unstable();
    Some(Latency {
        p50: quantile(&taken, 0.5)?,
        p99: quantile(&taken, 0.99)?,
    })
}
