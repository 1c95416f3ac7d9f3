//! What requests notice of a module that is compiled: one processor has the worker that serves
//! them and the threads that compile, another one whoever makes the requests.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use weft_wasm_host::exchange::Exchange;
use weft_wasm_host::{Loader, Runtime, RuntimeSettings, Slot};

use super::real::{HEADER_SET, MIB, guest, millis};
use super::{Bench, Result, guests, request, whole};

/// Between two requests: 4,000 a second.
const PACE: Duration = Duration::from_micros(250);
/// How much later than that a request comes at most, so that no timer keeps time with them.
const JITTER: u32 = 97;
const QUIET: Duration = Duration::from_secs(1);

impl Bench {
    /// How long a large module takes, and how long requests do meanwhile.
    pub(crate) fn compiling(&self) -> Result<()> {
        let all = sched_getaffinity(None)?;
        let Some((of_client, of_worker)) = two_of(&all) else {
            println!("what requests notice of compiling: it takes two processors to see it");
            return Ok(());
        };
        // What the runtime starts stays where this thread is.
        sched_setaffinity(None, &of_worker)?;
        let runtime = Arc::new(Runtime::new(RuntimeSettings {
            instances: 4,
            ..RuntimeSettings::default()
        })?);
        let bench = Self { runtime };
        let result = bench.beside(&of_client);
        sched_setaffinity(None, &all)?;
        result
    }

    fn beside(&self, of_client: &CpuSet) -> Result<()> {
        let (name, wasm, config) = guest("header-transform", HEADER_SET, guests::component);
        let mut slot = Slot::new(self.filter(&wasm, config)?);
        let loader = Loader::new(Arc::clone(&self.runtime));
        let large = guests::large();
        let alone = loader.load(&large, None)?.took();
        let begin = Instant::now();
        let quiet = served(&mut slot, of_client, || begin.elapsed() < QUIET)?;
        let size = large.len();
        let compiling = thread::spawn(move || loader.load(&large, None));
        let busy = served(&mut slot, of_client, || !compiling.is_finished())?;
        let took = compiling.join().map_err(|_panic| "a panic")??.took();
        for (how, took) in [("", alone), (", beside a worker", took)] {
            let what = format!("compile {:.1} MiB{how}", size as f64 / MIB);
            println!("{what:>62}  {:>10.1} ms", millis(took));
        }
        println!("requests in {name} to a worker that sleeps between them");
        for (when, mut latencies) in [("before", quiet), ("meanwhile", busy)] {
            latencies.sort_unstable();
            for (name, of) in [("p50", 0.5), ("p99", 0.99)] {
                let at = (latencies.len() as f64 * of) as usize;
                let took = latencies.get(at).copied().unwrap_or_default();
                let what = format!("{name} {when}");
                println!("{what:>62}  {:>10.1} us", took.as_secs_f64() * 1e6);
            }
        }
        Ok(())
    }
}

/// One processor for each side: the client never rests.
fn two_of(all: &CpuSet) -> Option<(CpuSet, CpuSet)> {
    let mut numbers = (0..CpuSet::MAX_CPU).filter(|number| all.is_set(*number));
    let (first, second) = numbers.next().zip(numbers.next())?;
    let only = |number| {
        let mut set = CpuSet::new();
        set.set(number);
        set
    };
    Some((only(first), only(second)))
}

/// This thread is the worker: it sleeps until a request comes, and answers it. Returns how long
/// each took, as the client sees it, for as long as `go_on` says.
fn served(slot: &mut Slot, of_client: &CpuSet, go_on: impl Fn() -> bool) -> Result<Vec<Duration>> {
    let (mut worker, client) = UnixStream::pair()?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let requests = scope.spawn(|| requests(client, of_client, &over));
        let mut exchange: Option<Box<dyn Exchange>> = Some(Box::new(request()));
        let mut byte = [0];
        // Until the client has gone.
        while worker.read(&mut byte)? > 0 {
            assert!(whole(slot, &mut exchange), "it goes on");
            worker.write_all(&byte)?;
            over.store(!go_on(), Ordering::Relaxed);
        }
        Ok(requests.join().map_err(|_panic| "a panic")??)
    })
}

/// Never sleeps, so that only what the other side does is seen.
fn requests(mut stream: UnixStream, here: &CpuSet, over: &AtomicBool) -> io::Result<Vec<Duration>> {
    sched_setaffinity(None, here)?;
    stream.set_nonblocking(true)?;
    let mut latencies = Vec::new();
    let mut next = Instant::now();
    while !over.load(Ordering::Relaxed) {
        let number = u32::try_from(latencies.len()).unwrap_or_default();
        next += PACE + Duration::from_micros(u64::from(number.wrapping_mul(31) % JITTER));
        while Instant::now() < next {
            std::hint::spin_loop();
        }
        let start = Instant::now();
        stream.write_all(&[0])?;
        let mut byte = [0];
        while stream.read(&mut byte).is_err() {
            std::hint::spin_loop();
        }
        latencies.push(start.elapsed());
    }
    Ok(latencies)
}
