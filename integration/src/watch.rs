//! Waiting for things to happen, with a deadline.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Long enough for anything that should happen at once, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Between two questions: leaves the processor to what is waited for.
const NAP: Duration = Duration::from_millis(20);

/// Asks again until the answer is as wanted.
///
/// # Errors
/// With the last reason when it is not within [`PATIENCE`].
pub fn until<T>(mut ask: impl FnMut() -> Result<T, String>) -> anyhow::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(why) if Instant::now() > deadline => {
                anyhow::bail!("not within {PATIENCE:?}: {why}")
            }
            Err(_) => std::thread::park_timeout(NAP),
        }
    }
}

/// Microseconds since the Unix epoch, as `weft-load` prints them.
#[must_use]
pub fn now() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Something that a client in a pod reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Microseconds since the Unix epoch.
    pub at: u64,
    /// What happened.
    pub what: String,
}

#[derive(Debug, Default)]
struct Heard {
    reports: Vec<Report>,
    ended: bool,
}

/// A client whose reports are read as they come. Ended when dropped.
#[derive(Debug)]
pub struct Client {
    child: Child,
    heard: Arc<(Mutex<Heard>, Condvar)>,
}

impl Client {
    /// Starts it.
    ///
    /// # Errors
    /// When the command cannot be run.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let heard = Arc::new((Mutex::new(Heard::default()), Condvar::new()));
        let output = child.stdout.take();
        let teller = Arc::clone(&heard);
        std::thread::spawn(move || {
            let lines = output
                .into_iter()
                .flat_map(|output| BufReader::new(output).lines());
            for line in lines.map_while(Result::ok) {
                let report = line.split_once(' ').and_then(|(at, what)| {
                    Some(Report {
                        at: at.parse().ok()?,
                        what: what.to_owned(),
                    })
                });
                lock(&teller.0).reports.extend(report);
                teller.1.notify_all();
            }
            lock(&teller.0).ended = true;
            teller.1.notify_all();
        });
        Ok(Self { child, heard })
    }

    /// All reports so far.
    #[must_use]
    pub fn reports(&self) -> Vec<Report> {
        lock(&self.heard.0).reports.clone()
    }

    /// Waits until the reports are as wanted; asked again with every new one.
    ///
    /// # Errors
    /// When they are not within [`PATIENCE`], or the client ended before.
    pub fn until<T>(&self, mut ask: impl FnMut(&[Report]) -> Option<T>) -> anyhow::Result<T> {
        let deadline = Instant::now() + PATIENCE;
        let mut heard = lock(&self.heard.0);
        loop {
            if let Some(answer) = ask(&heard.reports) {
                return Ok(answer);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let tail = &heard.reports[heard.reports.len().saturating_sub(20)..];
            if heard.ended {
                anyhow::bail!("the client ended: {tail:?}");
            }
            if left.is_zero() {
                anyhow::bail!("not within {PATIENCE:?}: {tail:?}");
            }
            let waited = self.heard.1.wait_timeout(heard, left);
            heard = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for `count` more reports like that, from now on.
    ///
    /// # Errors
    /// As [`Self::until`].
    pub fn more(&self, count: usize, what: &str) -> anyhow::Result<()> {
        let begin = now();
        self.until(|reports| {
            let new = reports
                .iter()
                .filter(|report| report.at > begin && report.what == what);
            (new.count() >= count).then_some(())
        })
    }

    /// Ends it and returns everything that it reported.
    ///
    /// # Errors
    /// When it does not end.
    pub fn end(mut self) -> anyhow::Result<Vec<Report>> {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + PATIENCE;
        let mut heard = lock(&self.heard.0);
        while !heard.ended {
            let left = deadline.saturating_duration_since(Instant::now());
            anyhow::ensure!(!left.is_zero(), "the client does not end");
            let waited = self.heard.1.wait_timeout(heard, left);
            heard = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(std::mem::take(&mut heard.reports))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // The client ends with its input; what let it into the pod need not.
        drop(self.child.stdin.take());
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn lock(heard: &Mutex<Heard>) -> std::sync::MutexGuard<'_, Heard> {
    // A panic in `ask` leaves the reports whole.
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}
