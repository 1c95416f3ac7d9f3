//! What the host costs, without a proxy around it.
//!
//! `cargo bench -p weft-wasm-host --bench host`, half a minute; with `-- PART` only what is named so
//! (parked, headers, cold, compile, calls). Where `weft-filter-build` has put real filters
//! (`target/filters`, or the folder that `WEFT_FILTERS_DIR` names), those are measured that users
//! run; else, and for what calls cost, guests that are written by hand.
#![forbid(unsafe_code)]
#![expect(clippy::expect_used, reason = "benchmark")]

#[path = "../../tests/host/support/exchange.rs"]
#[expect(dead_code, reason = "tests use more of it")]
mod exchange;
#[path = "../../tests/host/support/guest.rs"]
#[expect(dead_code, reason = "tests use more of it")]
mod guest;
mod guests;
mod real;

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use exchange::FakeExchange;
use guest::{Component, PROCEED, ProxyWasm};
use weft_wasm_host::budget::Memory;
use weft_wasm_host::exchange::Exchange;
use weft_wasm_host::{
    Event, Filter, FilterSpec, Isolation, Limits, Loader, NoLog, OnError, Plugin, Runtime,
    RuntimeSettings, Shared, Slot,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const BATCHES: usize = 12;
/// Of all instances: so much that it is never in the way.
const MEMORY: usize = 64 << 30;
const HEAD: Event = Event::RequestHeaders { end: true };

/// What is measured together.
type Part = fn(&Bench) -> Result<()>;

struct Bench {
    runtime: Arc<Runtime>,
}

fn main() -> Result<()> {
    let settings = RuntimeSettings { instances: 1100 };
    let bench = Bench {
        runtime: Arc::new(Runtime::new(settings)?),
    };
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let parts: [(&str, Part); 5] = [
        // First, while nothing has used memory that could be used again.
        ("parked", Bench::parked),
        ("headers", Bench::header_filter),
        ("cold", Bench::cold_start),
        ("compile", Bench::compiling),
        ("calls", Bench::calls),
    ];
    for (name, run) in parts {
        if wanted.is_empty() || wanted.iter().any(|one| one == name) {
            run(&bench)?;
        }
    }
    Ok(())
}

impl Bench {
    fn filter(&self, wasm: &[u8], config: &'static str) -> Result<Arc<Filter>> {
        self.configured(&Loader::new(Arc::clone(&self.runtime)), wasm, config)
    }

    fn configured(
        &self,
        loader: &Loader,
        wasm: &[u8],
        config: &'static str,
    ) -> Result<Arc<Filter>> {
        let module = loader.load(wasm, None)?;
        let limits = Limits::default();
        let spec = FilterSpec {
            name: "bench/filter".to_owned(),
            config: Bytes::from_static(config.as_bytes()),
            limits,
            on_error: OnError::default(),
            isolation: Isolation::Worker,
            plugin: Plugin::default(),
            shared: Shared::new(&limits, Arc::new(Memory::new(MEMORY))),
            log: Arc::new(NoLog),
        };
        Ok(Filter::configure(Arc::clone(&self.runtime), module, spec)?)
    }

    /// What single calls cost, with guests that do nothing else.
    fn calls(&self) -> Result<()> {
        let component_nop = Component::step(PROCEED).wasm();
        let module_nop = ProxyWasm::on_headers("(i32.const 0)").wasm();
        self.events("component: nop", &component_nop, &HEAD)?;
        self.events("proxy-wasm: nop", &module_nop, &HEAD)?;
        self.events(
            "component: read 2 headers, set 1",
            &guests::component(),
            &HEAD,
        )?;
        self.events(
            "proxy-wasm: read 2 headers, set 1",
            &guests::module(),
            &HEAD,
        )?;
        self.requests("component: nop, whole life of a request", &component_nop)?;
        self.requests("proxy-wasm: nop, whole life of a request", &module_nop)?;
        for kib in [1, 16, 64] {
            let event = Event::RequestBody {
                data: Bytes::from(vec![7; kib * 1024]),
                end: true,
            };
            let name = format!("component: body of {kib} KiB in and out");
            self.events(&name, &guests::echo(), &event)?;
        }
        self.instances("component", &component_nop)?;
        self.instances("proxy-wasm", &module_nop)?;
        let trap = Component::new("unreachable").wasm();
        self.traps("component: trap, and a successor", &trap)?;
        let trap = ProxyWasm::on_headers("unreachable").wasm();
        self.traps("proxy-wasm: trap, and a successor", &trap)
    }

    /// One event over and over, with the exchange lent and taken back.
    fn events(&self, name: &str, wasm: &[u8], event: &Event) -> Result<()> {
        let mut slot = Slot::new(self.filter(wasm, "{}")?);
        let ticket = slot.open()?;
        let mut exchange: Option<Box<dyn Exchange>> = Some(Box::new(request()));
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
        let mut slot = Slot::new(self.filter(wasm, "{}")?);
        let mut exchange: Option<Box<dyn Exchange>> = Some(Box::new(request()));
        report(name, 20_000, || whole(&mut slot, &mut exchange));
        Ok(())
    }

    fn instances(&self, name: &str, wasm: &[u8]) -> Result<()> {
        let filter = self.filter(wasm, "{}")?;
        let name = format!("{name}: an instance, made and dropped");
        report(&name, 500, || filter.instantiate().is_ok());
        Ok(())
    }

    fn traps(&self, name: &str, wasm: &[u8]) -> Result<()> {
        let filter = self.filter(wasm, "{}")?;
        report(name, 200, || {
            // A slot of its own each time, so that none has to wait for its successor.
            let mut slot = Slot::new(Arc::clone(&filter));
            slot.settle();
            let Ok(ticket) = slot.open() else {
                return false;
            };
            slot.on_event(ticket, HEAD).step.is_err() && slot.instances() == 1
        });
        println!("{:>62}  (an instance and dropping two are in it)", "");
        Ok(())
    }
}

/// A request in a filter, from its begin to its end.
fn whole(slot: &mut Slot, exchange: &mut Option<Box<dyn Exchange>>) -> bool {
    let (Ok(ticket), Some(lent)) = (slot.open(), exchange.take()) else {
        return false;
    };
    slot.lend(ticket, lent);
    let outcome = slot.on_event(ticket, HEAD);
    *exchange = slot.reclaim(ticket);
    slot.close(ticket);
    slot.effects();
    outcome.step.is_ok() && exchange.is_some()
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
    println!("{name:>62}  {nanos:>10} ns");
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
