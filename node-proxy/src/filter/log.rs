//! Lines that filters log, among those of the proxy.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use tracing::{debug, error, info, trace, warn};
use weft_wasm_host::clock::{Clock, SystemClock};
use weft_wasm_host::{Level, Log, LogRecord};

/// Lines of one filter in one [`WINDOW`].
const LINES: u32 = 100;
/// Nanoseconds.
const WINDOW: u64 = 1_000_000_000;

/// The lines of one filter. Those beyond a limit are counted, and the count is
/// a line of its own.
#[derive(Debug)]
pub struct FilterLog {
    filter: String,
    begun: AtomicU64,
    lines: AtomicU32,
    dropped: AtomicU64,
}

impl FilterLog {
    /// Of the filter of this name.
    #[must_use]
    pub fn new(filter: &str) -> Self {
        Self {
            filter: filter.to_owned(),
            begun: AtomicU64::new(0),
            lines: AtomicU32::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// Says how many lines were dropped, if that is over.
    pub fn flush(&self) {
        self.tell(self.over(SystemClock.monotonic()));
    }

    /// Whether there is room for a line now, and how many found none before.
    fn admit(&self, now: u64) -> (bool, u64) {
        let dropped = self.over(now);
        let there = self.lines.fetch_add(1, Ordering::Relaxed);
        let room = there < LINES;
        if !room {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        (room, dropped)
    }

    /// Begins a new window if the last one is over. Returns how many lines were
    /// dropped until then.
    fn over(&self, now: u64) -> u64 {
        let begun = self.begun.load(Ordering::Relaxed);
        let fresh = now.saturating_sub(begun) >= WINDOW
            && self
                .begun
                .compare_exchange(begun, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if !fresh {
            return 0;
        }
        self.lines.store(0, Ordering::Relaxed);
        self.dropped.swap(0, Ordering::Relaxed)
    }

    fn tell(&self, dropped: u64) {
        if dropped > 0 {
            let filter = &*self.filter;
            warn!(target: "filter", filter, dropped, "lines of the filter were dropped: it logs more than {LINES} a second");
        }
    }
}

impl Log for FilterLog {
    fn enabled(&self, _filter: &str, level: Level) -> bool {
        match level {
            Level::Trace => tracing::enabled!(target: "filter", tracing::Level::TRACE),
            Level::Debug => tracing::enabled!(target: "filter", tracing::Level::DEBUG),
            Level::Info => tracing::enabled!(target: "filter", tracing::Level::INFO),
            Level::Warn => tracing::enabled!(target: "filter", tracing::Level::WARN),
            Level::Error => tracing::enabled!(target: "filter", tracing::Level::ERROR),
        }
    }

    fn log(&self, record: LogRecord<'_>) {
        let (room, dropped) = self.admit(SystemClock.monotonic());
        self.tell(dropped);
        if !room {
            return;
        }
        let filter = &*self.filter;
        let request = record.exchange.map(|it| it.attributes().request_id);
        let request_id = request.as_deref().filter(|id| !id.is_empty());
        let labels: Vec<_> = record
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let labels = (!labels.is_empty()).then(|| labels.join(" "));
        let (labels, message) = (labels.as_deref(), record.message);
        match record.level {
            Level::Trace => trace!(target: "filter", filter, request_id, labels, "{message}"),
            Level::Debug => debug!(target: "filter", filter, request_id, labels, "{message}"),
            Level::Info => info!(target: "filter", filter, request_id, labels, "{message}"),
            Level::Warn => warn!(target: "filter", filter, request_id, labels, "{message}"),
            Level::Error => error!(target: "filter", filter, request_id, labels, "{message}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::filter::LevelFilter;
    use weft_wasm_host::{Level, Log, LogRecord};

    use super::{FilterLog, LINES, WINDOW};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn record<'a>(message: &'a str, labels: &'a [(String, String)]) -> LogRecord<'a> {
        LogRecord {
            filter: "a",
            level: Level::Warn,
            message,
            labels,
            exchange: None,
        }
    }

    #[test]
    fn lines_are_among_those_of_the_proxy() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(LevelFilter::INFO)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let labels = [("tenant".to_owned(), "blue".to_owned())];
        tracing::subscriber::with_default(subscriber, || {
            let log = FilterLog::new("WeftFilter default/jwt");
            assert!(log.enabled("a", Level::Info));
            assert!(!log.enabled("a", Level::Debug));
            log.log(record("no token", &labels));
        });
        let text = String::from_utf8(lines.0.lock().expect("no panic").clone()).expect("text");
        let said = r#"WARN filter: no token filter="WeftFilter default/jwt" labels="tenant=blue""#;
        assert!(text.trim_end().ends_with(said), "{text}");
    }
    #[test]
    fn what_is_too_much_is_counted_and_told_once() {
        let log = FilterLog::new("a");
        let now = 5 * WINDOW;
        for _line in 0..LINES {
            assert_eq!(log.admit(now), (true, 0));
        }
        for _line in 0..3 {
            assert_eq!(log.admit(now + WINDOW - 1), (false, 0));
        }
        assert_eq!(log.admit(now + WINDOW), (true, 3));
        assert_eq!(log.admit(now + WINDOW), (true, 0));
        for _line in 2..=LINES {
            log.admit(now + WINDOW);
        }
        assert_eq!(log.over(now + 2 * WINDOW), 1, "also when nothing follows");
        assert_eq!(log.over(now + 2 * WINDOW), 0);
    }
}
