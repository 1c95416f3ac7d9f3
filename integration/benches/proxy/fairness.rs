//! What others notice of a filter that burns just under its deadline on every request.

use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use serde_json::{Value, json};
use weft_api::node::{Direction, Snapshot};
use weft_integration::bench::process::Process;

use super::contenders::{Contender, Ports, Stage, ready, weft_command, write};
use super::filters;
use super::load::{CASES, Latency, Load, Protocol};

const NAME: &str = "weft + greedy filter";
/// Whose filter burns.
const GREEDY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Connections of the greedy one, each of which asks again at once.
const BURNERS: usize = 8;
/// Of a deadline of 5 ms.
const BURNS: &str = "spin=3";
/// Requests a second of the others: a fraction of what a worker serves.
const RATE: f64 = 4000.0;
/// Seconds of each measurement. The greedy one is slowed at once, and in quarantine after five.
const SECONDS: u64 = 4;

/// Rounds, each with a proxy of its own: a single p99 differs too much from one time to the next.
const ROUNDS: usize = 5;

/// Latencies in one round.
struct Round {
    alone: Latency,
    slowed: Latency,
    stopped: Latency,
    /// Requests of the greedy one, and those of them that were served.
    greedy: (u64, u64),
}

/// Prints the latencies of requests of one namespace, alone and beside requests of another one whose
/// filter burns.
///
/// # Errors
/// When something does not start, or a request of the others fails.
pub fn print(stage: &Stage<'_>, load: &Load<'_>, backend: &Contender) -> anyhow::Result<()> {
    let rounds = (0..ROUNDS).map(|round| Round::run(stage, load, backend, round));
    let rounds: Vec<Round> = rounds.collect::<anyhow::Result<_>>()?;
    println!(
        "\nothers' requests beside a filter that burns 3 ms on each, {RATE} a second on one worker, \
         medians of {ROUNDS} rounds"
    );
    line("alone", &rounds, |round| round.alone);
    line("beside it, slowed", &rounds, |round| round.slowed);
    line("beside it, in quarantine at last", &rounds, |round| {
        round.stopped
    });
    let (served, refused): (Vec<u64>, Vec<u64>) = rounds.iter().map(|round| round.greedy).unzip();
    println!(
        "requests of the greedy one in a round: {} served, {} refused",
        median(served),
        median(refused)
    );
    Ok(())
}

impl Round {
    fn run(
        stage: &Stage<'_>,
        load: &Load<'_>,
        backend: &Contender,
        round: usize,
    ) -> anyhow::Result<Self> {
        let contender = start(stage, backend.port(Protocol::Http1), round)?;
        let port = contender.port(Protocol::Http1);
        let [case, ..] = CASES;
        let steady = |seconds| load.steady(port, case, seconds * RATE as u64, RATE);
        steady(1)?;
        let alone = steady(SECONDS)?;
        let crowd = Crowd::start(port);
        Ok(Self {
            alone,
            slowed: steady(SECONDS)?,
            stopped: steady(SECONDS)?,
            greedy: crowd.stop(),
        })
    }
}

fn line(what: &str, rounds: &[Round], latency: impl Fn(&Round) -> Latency) {
    let p50 = median(rounds.iter().map(|round| latency(round).p50).collect());
    let p99 = median(rounds.iter().map(|round| latency(round).p99).collect());
    let hundredths = |round: &Round| 100 * latency(round).p99 / round.alone.p99.max(1);
    let mut times: Vec<u64> = rounds.iter().map(hundredths).collect();
    times.sort_unstable();
    let of_alone = |times: Option<&u64>| *times.unwrap_or(&0) as f64 / 100.0;
    println!(
        "  {what:<34} p50 {p50:>6} us  p99 {p99:>6} us  x {:.2} ({:.2} to {:.2})",
        of_alone(times.get(times.len() / 2)),
        of_alone(times.first()),
        of_alone(times.last())
    );
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

fn start(stage: &Stage<'_>, backend: u16, round: usize) -> anyhow::Result<Contender> {
    let mut ports = Ports::choose(backend)?;
    ports.one();
    let directory = stage.folder(&format!("greedy-{round}"))?;
    let text = ports.fill(include_str!("config/snapshot.json"), &directory)?;
    let mut snapshot: Value = serde_json::from_str(&text)?;
    let greedy = [
        (
            "endpoints",
            json!({ "id": 2, "namespace": "greedy", "pod": "burner",
            "ip": GREEDY, "identity": 1624 }),
        ),
        (
            "identities",
            json!({ "id": 1624, "labels": ["k8s:class=burner"] }),
        ),
        (
            "addresses",
            json!({ "cidr": format!("{GREEDY}/32"), "identity": 1624 }),
        ),
        (
            "policies",
            json!({ "endpoint_id": 2, "direction": "EGRESS", "port_first": backend,
            "port_last": backend, "rules": [{ "http": [{ "path": "/.*" }] }] }),
        ),
    ];
    for (list, one) in greedy {
        if let Some(list) = snapshot[list].as_array_mut() {
            list.push(one);
        }
    }
    let mut snapshot: Snapshot = serde_json::from_value(snapshot)?;
    let config = json!({ "header": "x-do", "usual": BURNS });
    let filter = filters::filter("greedy", "guest-probe", &config)?;
    let burner = (2, Direction::Egress);
    filters::attach(&mut snapshot, filter, burner, backend);
    let mut command = weft_command()?;
    command.arg("--module-dir").arg(filters::modules()?);
    command.arg("--snapshot");
    let text = serde_json::to_string(&snapshot)?;
    command.arg(write(&directory, "snapshot.json", &text)?);
    let process = Process::start(NAME, &mut command, &directory, |c| stage.cores.measured(c))?;
    let contender = ready(process, NAME, ports, None)?;
    filters::await_filter(|| from(GREEDY, ports.http1))?;
    Ok(contender)
}

/// Connects from one of this machine's own addresses.
fn from(source: Ipv4Addr, port: u16) -> std::io::Result<TcpStream> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddrV4::new(source, 0))?;
    connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    Ok(socket.into())
}

/// Clients of the greedy one.
struct Crowd {
    over: Arc<AtomicBool>,
    counts: Arc<[AtomicU64; 2]>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Crowd {
    fn start(port: u16) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let counts = Arc::new([const { AtomicU64::new(0) }; 2]);
        let threads = (0..BURNERS).map(|_| {
            let (over, counts) = (Arc::clone(&over), Arc::clone(&counts));
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let answer = from(GREEDY, port).and_then(filters::land);
                    let good = answer.is_ok_and(|answer| filters::is_good(&answer));
                    counts[usize::from(!good)].fetch_add(1, Ordering::Relaxed);
                    if !good {
                        // Who is refused asks ten times a second, as a client with some sense
                        // does: what is measured is the filter, not a flood of refusals.
                        thread::sleep(Duration::from_millis(100));
                    }
                }
            })
        });
        Self {
            threads: threads.collect(),
            over,
            counts,
        }
    }

    /// Requests that were served, and others.
    fn stop(self) -> (u64, u64) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            // It does nothing that could panic.
            let _ended = thread.join();
        }
        let [served, refused] = &*self.counts;
        (
            served.load(Ordering::Relaxed),
            refused.load(Ordering::Relaxed),
        )
    }
}
