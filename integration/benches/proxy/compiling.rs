//! What requests notice while the proxy compiles modules.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use weft_api::node::{Direction, Filter, Snapshot};
use weft_integration::bench::process::Process;

use super::contenders::{Contender, Ports, Stage, ready, weft_command, write};
use super::filters;
use super::load::{CASES, Load, Protocol};

const NAME: &str = "weft that compiles";
/// The filter that serves, and those that are compiled: 2.2 MiB.
const SERVES: &str = "header-transform";
const COMPILED: [&str; 3] = ["jwt-auth", "request-inspect", "access-log-redact"];
/// Requests a second: a fraction of what a worker serves.
const RATE: f64 = 4000.0;
/// Seconds of a window; compiling takes longer.
const SECONDS: u32 = 3;
/// Windows of each kind, in turn.
const ROUNDS: usize = 20;
/// How long compiling may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What there is beside the requests of a window.
#[derive(Clone, Copy)]
enum Beside {
    /// Nothing.
    Nothing,
    /// Somebody else's process, on the worker's processor: it takes idle time and counts.
    Idler,
    /// The proxy compiles three new modules that a snapshot brings.
    Compiler,
}

/// The second one says how much two windows of one kind differ.
const KINDS: [(Beside, &str); 4] = [
    (Beside::Nothing, "nothing"),
    (Beside::Nothing, "nothing, again"),
    (Beside::Idler, "another's idle loop"),
    (Beside::Compiler, "compiling"),
];

/// Prints the latencies of requests in windows in which nothing is compiled, twice, in those in
/// between in which another process takes the time that nobody wants, and in those in which the proxy
/// compiles, from their beginning to their end. At last, how long compiling takes meanwhile.
///
/// # Errors
/// When something does not start, or a request fails.
pub fn print(stage: &Stage<'_>, load: &Load<'_>, backend: &Contender) -> anyhow::Result<()> {
    let subject = Subject::start(stage, backend.port(Protocol::Http1))?;
    let port = subject.contender.port(Protocol::Http1);
    let [case, ..] = CASES;
    let window = || load.steady(port, case, u64::from(SECONDS) * RATE as u64, RATE);
    window()?;
    let mut rounds = Vec::with_capacity(ROUNDS);
    for round in 0..ROUNDS {
        let mut p99 = [0; KINDS.len()];
        for (place, (beside, _name)) in p99.iter_mut().zip(KINDS) {
            let _idler = subject.begin(stage, beside, round)?;
            *place = window()?.p99;
            if let Beside::Compiler = beside {
                if subject.has_compiled(round) {
                    println!("modules were compiled before the window was over");
                }
                subject.await_compiled(round)?;
            }
        }
        rounds.push(p99);
    }
    println!(
        "\nrequests while 2.2 MiB of modules are compiled, {RATE} a second on one worker, \
         {ROUNDS} windows of {SECONDS} s each"
    );
    for (kind, (_beside, name)) in KINDS.iter().enumerate() {
        line(name, &rounds, kind);
    }
    let begin = Instant::now();
    subject.bring(ROUNDS)?;
    while !subject.has_compiled(ROUNDS) {
        window()?;
    }
    let (under_load, begin) = (begin.elapsed(), Instant::now());
    subject.bring(ROUNDS + 1)?;
    subject.await_compiled(ROUNDS + 1)?;
    println!(
        "  in force after {:.0} s, to {SECONDS} s; beside no request after {:.1} s",
        under_load.as_secs_f64(),
        begin.elapsed().as_secs_f64()
    );
    Ok(())
}

/// The windows of one kind, and in how many rounds another kind has the higher p99 than the first.
fn line(beside: &str, rounds: &[[u64; KINDS.len()]], kind: usize) {
    let higher = rounds.iter().filter(|p99| p99[kind] > p99[0]).count();
    let mut p99: Vec<u64> = rounds.iter().map(|p99| p99[kind]).collect();
    p99.sort_unstable();
    if let [first, .., last] = p99[..] {
        let median = p99[p99.len() / 2];
        println!(
            "  {beside:<20} p99 {median:>6} us, median of windows from {first} to {last}; \
             higher than beside nothing in {higher}"
        );
    }
}

struct Subject {
    contender: Contender,
    directory: PathBuf,
    snapshot: Snapshot,
}

impl Subject {
    fn start(stage: &Stage<'_>, backend: u16) -> anyhow::Result<Self> {
        let mut ports = Ports::choose(backend)?;
        ports.one();
        let directory = stage.folder("compiling")?;
        fs::create_dir(directory.join("modules"))?;
        let text = ports.fill(include_str!("config/snapshot.json"), &directory)?;
        let mut snapshot: Snapshot = serde_json::from_str(&text)?;
        let serves = filter(&directory, SERVES, None)?;
        filters::attach(&mut snapshot, serves, (1, Direction::Egress), backend);
        let mut command = weft_command()?;
        // It says when filters are in force.
        command.env("RUST_LOG", "info");
        command.arg("--module-dir").arg(directory.join("modules"));
        command.arg("--snapshot");
        let text = serde_json::to_string(&snapshot)?;
        command.arg(write(&directory, "snapshot.json", &text)?);
        let process = Process::start(NAME, &mut command, &directory, |c| stage.cores.measured(c))?;
        let contender = ready(process, NAME, ports, None)?;
        filters::await_filter(|| TcpStream::connect(("127.0.0.1", ports.http1)))?;
        Ok(Self {
            contender,
            directory,
            snapshot,
        })
    }

    /// What there is beside a window begins, and ends with what is returned.
    fn begin(
        &self,
        stage: &Stage<'_>,
        beside: Beside,
        round: usize,
    ) -> anyhow::Result<Option<Process>> {
        match beside {
            Beside::Nothing => Ok(None),
            Beside::Compiler => self.bring(round).map(|()| None),
            Beside::Idler => {
                let mut command = Command::new("chrt");
                command.args(["--idle", "0", "sh", "-c", "while :; do :; done"]);
                let measured = |command: &mut Command| stage.cores.measured(command);
                Process::start("idler", &mut command, &self.directory, measured).map(Some)
            }
        }
    }

    /// Whether all that was brought so far is in force.
    fn has_compiled(&self, round: usize) -> bool {
        let log = self.contender.process.log();
        log.matches("filter in force").count() > COMPILED.len() * (round + 1)
    }

    fn await_compiled(&self, round: usize) -> anyhow::Result<()> {
        let begin = Instant::now();
        while !self.has_compiled(round) {
            let last_words = || self.contender.process.last_words();
            anyhow::ensure!(begin.elapsed() < PATIENCE, "not in force: {}", last_words());
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// A snapshot with modules that the proxy has not compiled yet comes into force.
    fn bring(&self, round: usize) -> anyhow::Result<()> {
        // The proxy looks through its folder: those of the round before are not to take it longer.
        let serves = self.snapshot.filters.iter().map(|filter| &filter.sha256);
        let serves: Vec<_> = serves.map(|sha256| format!("{sha256}.wasm")).collect();
        for entry in fs::read_dir(self.directory.join("modules"))? {
            let entry = entry?;
            if !serves.iter().any(|name| entry.file_name() == **name) {
                fs::remove_file(entry.path())?;
            }
        }
        let mut snapshot = self.snapshot.clone();
        snapshot.version = format!("bench-{round}");
        for name in COMPILED {
            snapshot
                .filters
                .push(filter(&self.directory, name, Some(round))?);
        }
        let text = serde_json::to_string(&snapshot)?;
        write(&self.directory, "snapshot.json", &text)?;
        let pid = i32::try_from(self.contender.process.pid())?;
        let pid = Pid::from_raw(pid).context("a process")?;
        Ok(kill_process(pid, Signal::HUP)?)
    }
}

/// A filter whose module differs from that of others by a custom section.
fn filter(directory: &Path, name: &str, differs: Option<usize>) -> anyhow::Result<Filter> {
    let mut module = fs::read(filters::modules()?.join(format!("{name}.wasm")))?;
    if let Some(number) = differs {
        let number = u32::try_from(number)?.to_le_bytes();
        module.extend([0, 6, 1, b'n']);
        module.extend(number);
    }
    let digest = Sha256::digest(&module);
    let sha256: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(
        directory.join("modules").join(format!("{sha256}.wasm")),
        module,
    )?;
    Ok(Filter {
        kind: "WeftFilter".into(),
        namespace: "default".into(),
        name: name.into(),
        sha256,
        config: config(name).to_string().into_bytes(),
        ..Filter::default()
    })
}

fn config(name: &str) -> Value {
    match name {
        SERVES => json!({ "request": { "set": { "x-env": "production" } } }),
        "jwt-auth" => json!({ "keys": { "inline": { "keys": [{
            "kty": "OKP",
            "kid": "empire-1",
            "crv": "Ed25519",
            "x": "AYHOXPIfRzTu-ltqiFcPjwHkHz1ZClLD2jKz8ysaNI0",
        }] } } }),
        _ => json!({}),
    }
}
