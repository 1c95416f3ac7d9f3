//! What the host costs: nanoseconds for each call, the best of several batches.
//!
//! `cargo bench -p weft-wasm-host`. Guests are written by hand, so what is measured is the host and
//! not an SDK.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "benchmark")]

#[path = "../tests/host/support/exchange.rs"]
#[expect(dead_code, reason = "tests use more of it")]
mod exchange;
#[path = "../tests/host/support/guest.rs"]
#[expect(dead_code, reason = "tests use more of it")]
mod guest;

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use exchange::FakeExchange;
use guest::{Component, EMIT, PROCEED, ProxyWasm};
use weft_wasm_host::{
    Event, Filter, FilterSpec, Isolation, Limits, Loader, NoLog, OnError, Plugin, Runtime,
    RuntimeSettings, Shared, Slot,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const BATCHES: usize = 12;
const HEAD: Event = Event::RequestHeaders { end: true };

struct Bench {
    runtime: Arc<Runtime>,
}

fn main() -> Result<()> {
    let settings = RuntimeSettings {
        instances: 1100,
        compilers: 2,
    };
    let bench = Bench {
        runtime: Arc::new(Runtime::new(settings)?),
    };
    let component_nop = Component::step(PROCEED).wasm();
    let module_nop = ProxyWasm::on_headers("(i32.const 0)").wasm();
    bench.events("component: nop", &component_nop, &HEAD)?;
    bench.events("proxy-wasm: nop", &module_nop, &HEAD)?;
    bench.events("component: read 2 headers, set 1", &component(), &HEAD)?;
    bench.events("proxy-wasm: read 2 headers, set 1", &module(), &HEAD)?;
    bench.requests("component: nop, whole life of a request", &component_nop)?;
    bench.requests("proxy-wasm: nop, whole life of a request", &module_nop)?;
    for kib in [1, 16, 64] {
        let event = Event::RequestBody {
            data: Bytes::from(vec![7; kib * 1024]),
            end: true,
        };
        let name = format!("component: body of {kib} KiB in and out");
        bench.events(&name, &echo(), &event)?;
    }
    bench.instances("component", &component_nop)?;
    bench.instances("proxy-wasm", &module_nop)?;
    let trap = Component::new("unreachable").wasm();
    bench.traps("component: trap, and a successor", &trap)?;
    let trap = ProxyWasm::on_headers("unreachable").wasm();
    bench.traps("proxy-wasm: trap, and a successor", &trap)?;
    bench.loads()?;
    bench.memory(&component_nop)
}

impl Bench {
    fn filter(&self, wasm: &[u8]) -> Result<Arc<Filter>> {
        let module = Loader::new(Arc::clone(&self.runtime)).load(wasm, None)?;
        let limits = Limits::default();
        let spec = FilterSpec {
            name: "bench/filter".to_owned(),
            config: Bytes::from_static(b"{}"),
            limits,
            on_error: OnError::default(),
            isolation: Isolation::Worker,
            plugin: Plugin::default(),
            shared: Shared::new(&limits),
            log: Arc::new(NoLog),
        };
        Ok(Filter::configure(Arc::clone(&self.runtime), module, spec)?)
    }

    /// One event over and over, with the exchange lent and taken back.
    fn events(&self, name: &str, wasm: &[u8], event: &Event) -> Result<()> {
        let mut slot = Slot::new(self.filter(wasm)?);
        let ticket = slot.open()?;
        let mut exchange: Option<Box<dyn weft_wasm_host::exchange::Exchange>> =
            Some(Box::new(request()));
        report(name, 20_000, || {
            if let Some(lent) = exchange.take() {
                slot.lend(ticket, lent);
            }
            let outcome = slot.on_event(ticket, event.clone());
            exchange = slot.reclaim(ticket);
            outcome.step.is_ok()
        });
        Ok(())
    }

    /// A context from its begin to its end, with one event.
    fn requests(&self, name: &str, wasm: &[u8]) -> Result<()> {
        let mut slot = Slot::new(self.filter(wasm)?);
        report(name, 20_000, || {
            let Ok(ticket) = slot.open() else {
                return false;
            };
            let outcome = slot.on_event(ticket, HEAD);
            slot.close(ticket);
            outcome.step.is_ok()
        });
        Ok(())
    }

    fn instances(&self, name: &str, wasm: &[u8]) -> Result<()> {
        let filter = self.filter(wasm)?;
        report(
            &format!("{name}: an instance, made and dropped"),
            500,
            || filter.instantiate().is_ok(),
        );
        Ok(())
    }

    fn traps(&self, name: &str, wasm: &[u8]) -> Result<()> {
        let filter = self.filter(wasm)?;
        report(name, 200, || {
            // A slot of its own each time, so that none has to wait for its successor.
            let mut slot = Slot::new(Arc::clone(&filter));
            slot.settle();
            let Ok(ticket) = slot.open() else {
                return false;
            };
            slot.on_event(ticket, HEAD).step.is_err() && slot.instances() == 1
        });
        println!("{:>50}  (an instance and dropping two are in it)", "");
        Ok(())
    }

    fn loads(&self) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let cache = folder.path().join("aot");
        let loader = Loader::with_cache(Arc::clone(&self.runtime), cache)?;
        for functions in [10, 20_000] {
            let functions: String = (0..functions)
                .map(|n| {
                    format!(
                        "(func (param i32) (result i32) (i32.store8 (local.get 0) (i32.const {n}))
                           (i32.load (i32.mul (i32.add (local.get 0) (i32.const {n}))
                             (i32.const 12345))))"
                    )
                })
                .collect();
            let wasm = ProxyWasm::new(&functions).wasm();
            let kib = wasm.len() / 1024;
            let compiled = loader.load(&wasm, None)?;
            println!(
                "{:>50}  {:>10.1} ms",
                format!("compile {kib} KiB"),
                millis(compiled.took())
            );
            let mut best = Duration::MAX;
            for _time in 0..BATCHES {
                let start = Instant::now();
                let module = loader.load(&wasm, None)?;
                best = best.min(start.elapsed());
                assert!(module.cached(), "it was compiled before");
            }
            println!(
                "{:>50}  {:>10.3} ms",
                format!("load {kib} KiB that were compiled before"),
                millis(best)
            );
        }
        Ok(())
    }

    /// Resident memory of a thousand instances, and of ten thousand requests in one.
    fn memory(&self, wasm: &[u8]) -> Result<()> {
        let filter = self.filter(wasm)?;
        let before = resident()?;
        let mut instances = Vec::new();
        for _instance in 0..1000 {
            instances.push(filter.instantiate()?);
        }
        let used = resident()?.saturating_sub(before) / 1000;
        println!("{:>50}  {used:>10} bytes", "an instance");
        drop(instances);
        let mut slot = Slot::new(filter);
        slot.settle();
        let before = resident()?;
        for _request in 0..10_000 {
            slot.open()?;
        }
        let used = resident()?.saturating_sub(before) / 10_000;
        println!(
            "{:>50}  {used:>10} bytes",
            "a request in an instance, in the host"
        );
        Ok(())
    }
}

/// Runs batches of `rounds` and says what the best of them took for one.
fn report(name: &str, rounds: u32, mut run: impl FnMut() -> bool) {
    let mut best = Duration::MAX;
    for _batch in 0..BATCHES {
        let start = Instant::now();
        for _round in 0..rounds {
            assert!(run(), "{name}: it does what it is measured for");
        }
        best = best.min(start.elapsed());
    }
    let nanos = best.as_nanos() / u128::from(rounds);
    println!("{name:>50}  {nanos:>10} ns");
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// A request with ten headers.
fn request() -> FakeExchange {
    FakeExchange::get("/v1/request-landing")
        .with("user-agent", "curl/8")
        .with("accept", "*/*")
        .with("x-one", "1")
        .with("x-two", "2")
        .with("x-three", "3")
        .with("accept-language", "en")
        .with("content-type", "application/json")
        .with("authorization", "Bearer abc")
        .with("x-forwarded-for", "10.0.0.1")
        .with(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
}

fn component() -> Vec<u8> {
    Component::new(&format!(
        "(call $get_header (local.get $ctx) (i32.const 0) (i32.const 2048) (i32.const 10)
           (i32.const 1100))
         (call $get_header (local.get $ctx) (i32.const 0) (i32.const 2058) (i32.const 13)
           (i32.const 1100))
         (drop (call $set_header (local.get $ctx) (i32.const 0) (i32.const 2071) (i32.const 5)
           (i32.load (i32.const 1104)) (i32.load (i32.const 1108))))
         (call $step (i32.const {PROCEED}))"
    ))
    .with(r#"(data (i32.const 2048) "user-agentauthorizationx-out")"#)
    .wasm()
}

fn module() -> Vec<u8> {
    ProxyWasm::on_headers(
        "(global.set $top (i32.const 65536))
         (drop (call $get (i32.const 0) (i32.const 1024) (i32.const 10) (i32.const 800)
           (i32.const 804)))
         (drop (call $get (i32.const 0) (i32.const 1034) (i32.const 13) (i32.const 800)
           (i32.const 804)))
         (drop (call $replace (i32.const 0) (i32.const 1047) (i32.const 5)
           (i32.load (i32.const 800)) (i32.load (i32.const 804))))
         (i32.const 0)",
    )
    .data("user-agentauthorizationx-out")
    .wasm()
}

fn echo() -> Vec<u8> {
    Component::new(&format!(
        "(i32.store8 (i32.const 1024) (i32.const {EMIT}))
         (i32.store (i32.const 1028) (i32.wrap_i64 (local.get $a)))
         (i32.store (i32.const 1032) (local.get $b))
         (i32.const 1024)"
    ))
    .wasm()
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
