//! The thread that moves the engine's epoch on, so that a filter that runs too long is noticed.
//! While no filter runs it sleeps: a node without filters does not pay for it. While filters run that
//! are done in time it looks seldom, for each tick costs a worker's processor as much as several
//! calls do.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use wasmtime::Engine;

/// Length of a tick while a call is running that was there at the last one, or an instance is there
/// whose deadline is shorter than a calm tick.
const QUICK: Duration = Duration::from_millis(1);
/// Length of a tick else.
const CALM: Duration = Duration::from_millis(4);
/// Ticks without any call after which it sleeps, a fifth of a second if they are calm ones. A call that
/// is running is heard of at each.
const LINGER: u64 = 48;
/// It looks after itself this often even then, so that a call that nobody noticed has an end.
const NAP: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Shared {
    /// A filter was called since the ticker last looked.
    called: AtomicBool,
    /// A call was running at the last tick.
    watched: AtomicBool,
    /// Instances whose deadline is shorter than a calm tick.
    hasty: AtomicUsize,
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
}

/// What one instance has to do with the ticker.
#[derive(Debug)]
pub(crate) struct Pace {
    ticker: Pulse,
    is_hasty: bool,
}

impl Pace {
    /// Of an instance of which a call may be stopped after so long.
    pub(crate) fn new(ticker: Pulse, deadline: Duration) -> Self {
        let is_hasty = deadline < CALM;
        if is_hasty {
            ticker.0.shared.hasty.fetch_add(1, Ordering::Relaxed);
        }
        Self { ticker, is_hasty }
    }

    /// The filter is being called. Costs a read of memory that hardly ever changes.
    pub(crate) fn beat(&self) {
        let Ticker { shared, thread, .. } = &*self.ticker.0;
        if shared.called.load(Ordering::Relaxed) {
            return;
        }
        shared.called.store(true, Ordering::SeqCst);
        if shared.sleeping.load(Ordering::SeqCst) {
            thread.unpark();
        }
    }

    /// The call is still running after a tick.
    pub(crate) fn watch(&self) {
        let Ticker { shared, thread, .. } = &*self.ticker.0;
        shared.called.store(true, Ordering::SeqCst);
        // It may not be parked: then its next calm tick ends at once.
        let is_news = !shared.watched.swap(true, Ordering::SeqCst);
        if is_news || shared.sleeping.load(Ordering::SeqCst) {
            thread.unpark();
        }
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        if self.is_hasty {
            self.ticker.0.shared.hasty.fetch_sub(1, Ordering::Relaxed);
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

impl Shared {
    /// Waits for the next tick, on a thread that does nothing else: no worker waits for it.
    fn tick(&self) {
        let is_calm = self.hasty.load(Ordering::Relaxed) == 0;
        if !self.watched.swap(false, Ordering::SeqCst) && is_calm {
            thread::park_timeout(CALM);
            if !self.watched.load(Ordering::SeqCst) {
                return;
            }
        }
        thread::sleep(QUICK);
    }

    fn sleep(&self) {
        self.sleeping.store(true, Ordering::SeqCst);
        if !self.called.load(Ordering::SeqCst) && !self.stop.load(Ordering::SeqCst) {
            thread::park_timeout(NAP);
        }
        self.sleeping.store(false, Ordering::SeqCst);
    }
}

fn run(shared: &Shared, engine: &Engine) {
    let mut quiet = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        engine.increment_epoch();
        if quiet < LINGER {
            shared.tick();
            quiet += 1;
            // Looked at now and then, so that calls seldom have to write it.
            if quiet % (LINGER / 4) == 0 && shared.called.swap(false, Ordering::SeqCst) {
                quiet = 0;
            }
            continue;
        }
        shared.sleep();
        if shared.called.load(Ordering::SeqCst) {
            quiet = 0;
        }
    }
}
