//! The thread that moves the engine's epoch on, so that a filter that runs too long is noticed.
//! While no filter runs it sleeps: a node without filters does not pay for it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use wasmtime::Engine;

/// Length of a tick.
pub(super) const TICK: Duration = Duration::from_millis(1);
/// Ticks without any call after which it sleeps. A call that is running looks at itself, and is
/// heard of, several times before.
pub(super) const LINGER: u64 = 200;
/// It looks after itself this often even then, so that a call that nobody noticed has an end.
const NAP: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Shared {
    /// A filter was called since the ticker last looked.
    called: AtomicBool,
    sleeping: AtomicBool,
    stop: AtomicBool,
}

#[derive(Debug)]
struct Ticker {
    shared: Arc<Shared>,
    thread: Thread,
    handle: Option<JoinHandle<()>>,
}

/// Tells the ticker that a filter runs. It ticks as long as one of these is there, so as long as
/// there is an instance that could run too long.
#[derive(Debug, Clone)]
pub(crate) struct Pulse(Arc<Ticker>);

impl Pulse {
    /// Starts the thread.
    pub(super) fn start(engine: Engine) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let handle = thread::Builder::new()
            .name("wasm-epoch".to_owned())
            .spawn(move || run(&theirs, &engine))?;
        Ok(Self(Arc::new(Ticker {
            shared,
            thread: handle.thread().clone(),
            handle: Some(handle),
        })))
    }

    /// A filter is being called, or is still running. Costs a read of memory that hardly ever changes.
    pub(crate) fn beat(&self) {
        let shared = &self.0.shared;
        if shared.called.load(Ordering::Relaxed) {
            return;
        }
        shared.called.store(true, Ordering::SeqCst);
        if shared.sleeping.load(Ordering::SeqCst) {
            self.0.thread.unpark();
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.thread.unpark();
        if let Some(handle) = self.handle.take() {
            // It does nothing that could panic.
            let _ended = handle.join();
        }
    }
}

fn run(shared: &Shared, engine: &Engine) {
    let mut quiet = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        engine.increment_epoch();
        if quiet < LINGER {
            // The clock itself, on a thread that does nothing else: no worker waits for it.
            thread::sleep(TICK);
            quiet += 1;
            // Looked at now and then, so that calls seldom have to write it.
            if quiet % (LINGER / 4) == 0 && shared.called.swap(false, Ordering::SeqCst) {
                quiet = 0;
            }
            continue;
        }
        shared.sleeping.store(true, Ordering::SeqCst);
        if !shared.called.load(Ordering::SeqCst) && !shared.stop.load(Ordering::SeqCst) {
            thread::park_timeout(NAP);
        }
        shared.sleeping.store(false, Ordering::SeqCst);
        if shared.called.load(Ordering::SeqCst) {
            quiet = 0;
        }
    }
}
