//! What users have: a filter of headers, requests that wait for an answer, a module that is there
//! already.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_wasm_host::exchange::Exchange;
use weft_wasm_host::{Command, Effect, Loader, Slot, Step};

use super::{BATCHES, Bench, HEAD, Result, guests, report, request, whole};

/// As in `examples/filters`.
const HEADER_TRANSFORM: &str = r#"{"request": {"remove": ["x-debug"],
    "set": {"x-caller": "${source.namespace}/${source.pod}"}},
  "response": {"remove": ["server"], "set": {"x-frame-options": "DENY"}}}"#;
/// The same without a variable: one header is set.
const HEADER_SET: &str = r#"{"request": {"set": {"x-out": "value"}}}"#;
const EXT_AUTH: &str = r#"{"service": "authz.default:80", "path_prefix": "/check",
  "send_headers": ["authorization", "cookie"], "accept_headers": ["x-user"],
  "timeout_ms": 300}"#;

const PARKED: usize = 10_000;
const MIB: f64 = 1024.0 * 1024.0;

/// A filter that `weft-filter-build` has made; none where it has not.
fn built(name: &str) -> Option<Vec<u8>> {
    let of_target = || {
        let me = std::env::current_exe().ok()?;
        // target/PROFILE/deps/this
        Some(me.ancestors().nth(3)?.join("filters"))
    };
    let folder = std::env::var_os("WEFT_FILTERS_DIR").map(PathBuf::from);
    let file = folder.or_else(of_target)?.join(format!("{name}.wasm"));
    std::fs::read(file).ok()
}

/// That filter with this configuration, or another guest where it was not built.
fn guest(
    name: &str,
    config: &'static str,
    instead: fn() -> Vec<u8>,
) -> (String, Vec<u8>, &'static str) {
    match built(name) {
        Some(wasm) => (name.to_owned(), wasm, config),
        None => (
            format!("a guest written by hand ({name} is not built)"),
            instead(),
            "{}",
        ),
    }
}

impl Bench {
    /// Requests that wait for the answer to a fetch, and the memory that all of them take.
    pub(crate) fn parked(&self) -> Result<()> {
        let (name, wasm, config) = guest("ext-auth", EXT_AUTH, guests::asking);
        let mut slot = Slot::new(self.filter(&wasm, config)?);
        slot.settle();
        let mut exchange: Option<Box<dyn Exchange>> = Some(Box::new(request()));
        let mut park = |slot: &mut Slot| -> Result<()> {
            let ticket = slot.open()?;
            slot.lend(ticket, exchange.take().ok_or("no exchange")?);
            let step = slot.on_event(ticket, HEAD).step?;
            exchange = slot.reclaim(ticket);
            // What is asked for is the driver's to keep.
            let asked = slot
                .effects()
                .any(|(_, effect)| matches!(effect, Effect::Command(Command::StartFetch { .. })));
            assert!(asked && step == Step::Pending, "it waits for its fetch");
            Ok(())
        };
        // What the first ones bring is there anyway.
        for _request in 0..10 {
            park(&mut slot)?;
        }
        let (before, of_guest) = (resident()?, slot.memory());
        for _request in 0..PARKED {
            park(&mut slot)?;
        }
        let used = resident()?.saturating_sub(before);
        let of_guest = slot.memory() - of_guest;
        println!("{PARKED} requests that wait for a fetch in {name}");
        print_memory("resident memory", used);
        print_memory("of it the filter's own memory", of_guest);
        println!("{:>62}  {:>10} bytes", "a request", used / PARKED);
        Ok(())
    }

    /// A request in the filter of headers, from its begin to its end.
    pub(crate) fn header_filter(&self) -> Result<()> {
        for (what, config) in [
            ("sets one header", HEADER_SET),
            ("removes one, sets one of two attributes", HEADER_TRANSFORM),
        ] {
            let (name, wasm, config) = guest("header-transform", config, guests::component);
            let mut slot = Slot::new(self.filter(&wasm, config)?);
            let mut exchange: Option<Box<dyn Exchange>> = Some(Box::new(request()));
            let name = format!("{name}, {what}: a request");
            report(&name, 20_000, || whole(&mut slot, &mut exchange));
        }
        Ok(())
    }

    /// A large module, on all processors.
    pub(crate) fn compiling(&self) -> Result<()> {
        let large = guests::large();
        let module = Loader::new(Arc::clone(&self.runtime)).load(&large, None)?;
        let what = format!("compile {:.1} MiB", large.len() as f64 / MIB);
        println!("{what:>62}  {:>10.1} ms", millis(module.took()));
        Ok(())
    }

    /// From the bytes of a module that this node has compiled before to its first request.
    pub(crate) fn cold_start(&self) -> Result<()> {
        let (name, wasm, config) = guest("header-transform", HEADER_TRANSFORM, guests::component);
        let folder = tempfile::tempdir()?;
        let loader = || Loader::with_cache(Arc::clone(&self.runtime), folder.path().join("aot"));
        let compiled = loader()?.load(&wasm, None)?;
        let kib = wasm.len() / 1024;
        let what = format!("{name} ({kib} KiB): compile and keep");
        println!("{what:>62}  {:>10.2} ms", millis(compiled.took()));
        let (mut whole_way, mut loads) = (Vec::new(), Vec::new());
        for _time in 0..BATCHES {
            let loader = loader()?;
            let start = Instant::now();
            let filter = self.configured(&loader, &wasm, config)?;
            let mut slot = Slot::new(filter);
            let ticket = slot.open()?;
            slot.lend(ticket, Box::new(request()));
            slot.on_event(ticket, HEAD).step?;
            whole_way.push(start.elapsed());
            assert!(slot.filter().module().cached(), "it was compiled before");
            loads.push(slot.filter().module().took());
        }
        print_median("load what was compiled before", &mut loads);
        print_median(
            "cold start: load, configure, instance, first request",
            &mut whole_way,
        );
        Ok(())
    }
}

fn print_memory(what: &str, bytes: usize) {
    println!("{what:>62}  {:>10.2} MiB", bytes as f64 / MIB);
}

fn print_median(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let (median, most) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "{what:>62}  {:>10.2} ms, at most {:.2} ms",
        millis(median),
        millis(most)
    );
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn resident() -> Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: usize = line
        .and_then(|line| line.trim().split(' ').next())
        .ok_or("no VmRSS")?
        .parse()?;
    Ok(kib * 1024)
}
