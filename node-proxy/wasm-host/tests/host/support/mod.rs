//! What all tests of the host use.

pub mod exchange;
pub mod guest;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use weft_wasm_host::budget::Memory;
use weft_wasm_host::clock::Clock;
use weft_wasm_host::exchange::Exchange;
use weft_wasm_host::{
    Command, ConfigureError, ContextId, Event, Fault, Filter, FilterSpec, Guest, Isolation, Level,
    Limits, Loader, Log, LogRecord, MAX_DEADLINE, Module, OnError, Plugin, Runtime,
    RuntimeSettings, Shared, Step,
};

pub use exchange::FakeExchange;

/// Time that only tests move.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn wall(&self) -> u64 {
        1_700_000_000_000_000_000 + self.0.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Lines that filters logged.
#[derive(Debug, Default)]
pub struct Lines(Mutex<Vec<String>>);

impl Lines {
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("no panic"))
    }
}

impl Log for Lines {
    fn enabled(&self, _filter: &str, level: Level) -> bool {
        level >= Level::Info
    }

    fn log(&self, record: LogRecord<'_>) {
        let labels: Vec<_> = record
            .labels
            .iter()
            .map(|(k, v)| format!(" {k}={v}"))
            .collect();
        let line = format!("{:?} {}{}", record.level, record.message, labels.concat());
        self.0.lock().expect("no panic").push(line);
    }
}

/// One engine for all tests of a process: it reserves a lot of addresses.
pub fn runtime() -> Arc<Runtime> {
    static RUNTIME: OnceLock<Arc<Runtime>> = OnceLock::new();
    Arc::clone(RUNTIME.get_or_init(|| {
        let settings = RuntimeSettings { instances: 200 };
        Arc::new(Runtime::new(settings).expect("an engine"))
    }))
}

/// An engine of its own, with a clock of its own.
pub fn own_runtime(clock: &Arc<ManualClock>, instances: u32) -> Arc<Runtime> {
    let settings = RuntimeSettings { instances };
    let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(clock);
    Arc::new(Runtime::with_clock(settings, clock).expect("an engine"))
}

pub fn load(runtime: &Arc<Runtime>, wasm: &[u8]) -> Arc<Module> {
    Loader::new(Arc::clone(runtime))
        .load(wasm, None)
        .expect("a module")
}

/// Memory of a namespace: so much that it is not in the way.
const MEMORY: usize = 4 << 30;

/// How a filter is set up in tests.
pub struct Setup {
    pub runtime: Arc<Runtime>,
    pub spec: FilterSpec,
    pub lines: Arc<Lines>,
}

impl Setup {
    pub fn new() -> Self {
        Self::of(runtime())
    }

    pub fn of(runtime: Arc<Runtime>) -> Self {
        // Time that the machine's host takes from a thread counts as the thread's: what is not about
        // deadlines must not come near one.
        let limits = Limits {
            deadline: MAX_DEADLINE,
            ..Limits::default()
        };
        let lines = Arc::new(Lines::default());
        let spec = FilterSpec {
            name: "default/test".to_owned(),
            config: Bytes::from_static(b"{}"),
            limits,
            on_error: OnError::default(),
            isolation: Isolation::Worker,
            plugin: Plugin::default(),
            shared: Shared::new(&limits, Arc::new(Memory::new(MEMORY))),
            log: Arc::<Lines>::clone(&lines),
        };
        Self {
            runtime,
            spec,
            lines,
        }
    }

    pub fn configure(&self, wasm: &[u8]) -> Result<Arc<Filter>, ConfigureError> {
        let module = load(&self.runtime, wasm);
        Filter::configure(Arc::clone(&self.runtime), module, self.spec.clone())
    }

    pub fn filter(&self, wasm: &[u8]) -> Arc<Filter> {
        self.configure(wasm).expect("a filter")
    }

    pub fn instance(&self, wasm: &[u8]) -> Box<dyn Guest> {
        self.filter(wasm).instantiate().expect("an instance")
    }
}

/// Opens a context and lends it an exchange.
pub fn open(guest: &mut dyn Guest, exchange: FakeExchange) -> ContextId {
    let context = guest.open().expect("room");
    guest.lend(context, Box::new(exchange));
    context
}

pub fn commands(guest: &mut dyn Guest) -> Vec<(ContextId, Command)> {
    let mut commands = Vec::new();
    guest.commands(&mut commands);
    commands
}

pub const HEAD: Event = Event::RequestHeaders { end: true };

/// One request with no body through a new context.
pub fn head(guest: &mut dyn Guest) -> Result<Step, Fault> {
    let context = open(guest, FakeExchange::get("/"));
    guest.on_event(context, HEAD)
}

pub fn body(data: &'static [u8], end: bool) -> Event {
    Event::RequestBody {
        data: Bytes::from_static(data),
        end,
    }
}

/// The value of a header of the request, in an exchange that came back.
pub fn header(exchange: &dyn Exchange, name: &str) -> Option<String> {
    let fields = exchange.fields(weft_wasm_host::Fields::RequestHeaders)?;
    Some(fields.get(name)?.to_str().expect("text").to_owned())
}
