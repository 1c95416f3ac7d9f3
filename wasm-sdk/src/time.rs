//! Time, and randomness: the standard library's do not work in a module.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{self, Poll};
use std::time::Duration;

use crate::runtime::{Exchange, Slot};
use crate::sys::host;

/// Time since 1970.
///
/// ```
/// fn expired(until: u64) -> bool {
///     weft_sdk::time::wall_clock().as_secs() >= until
/// }
/// ```
#[must_use]
pub fn wall_clock() -> Duration {
    Duration::from_nanos(host::wall_clock())
}

/// Time since some moment; it never goes back.
///
/// ```
/// let started = weft_sdk::time::monotonic();
/// let took = weft_sdk::time::monotonic() - started;
/// ```
#[must_use]
pub fn monotonic() -> Duration {
    Duration::from_nanos(host::monotonic_clock())
}

/// So many bytes that nobody can guess.
///
/// ```
/// assert_eq!(weft_sdk::time::random(16).len(), 16);
/// ```
#[must_use]
pub fn random(count: u32) -> Vec<u8> {
    host::random(count)
}

/// A random number, from 0 up to but without 1.
///
/// ```
/// fn one_in_ten() -> bool {
///     weft_sdk::time::random_fraction() < 0.1
/// }
/// ```
#[must_use]
pub fn random_fraction() -> f64 {
    let bytes = host::random(4);
    let number = bytes
        .iter()
        .take(4)
        .fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
    f64::from(number) / (f64::from(u32::MAX) + 1.0)
}

/// Waits for a while; dropped before, its timer is cancelled.
///
/// ```
/// # async fn f(request: &weft_sdk::Request) -> weft_sdk::Result<()> {
/// request.sleep(std::time::Duration::from_millis(5)).await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "it waits when it is awaited"]
pub struct Sleep {
    exchange: Rc<Exchange>,
    millis: u64,
    asked: Option<(u64, Rc<Slot<()>>)>,
}

impl Sleep {
    pub(crate) fn new(exchange: Rc<Exchange>, duration: Duration) -> Self {
        // Rounded up: never shorter than asked for.
        let millis = duration.as_nanos().div_ceil(1_000_000);
        Self {
            exchange,
            millis: u64::try_from(millis).unwrap_or(u64::MAX),
            asked: None,
        }
    }
}

impl Future for Sleep {
    type Output = Result<(), TooManyTimers>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let slot = match &self.asked {
            Some((_, slot)) => slot.clone(),
            None => {
                let Some((id, slot)) = self.exchange.start_timer(self.millis) else {
                    return Poll::Ready(Err(TooManyTimers));
                };
                self.asked = Some((id, slot.clone()));
                slot
            }
        };
        slot.poll(cx).map(Ok)
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some((id, _)) = self.asked {
            self.exchange.cancel(id, false);
        }
    }
}

/// The proxy lets a request wait for so many timers at once and no more, 16 unless the filter's
/// limits say otherwise: this one is not set.
///
/// ```
/// # use weft_sdk::time::TooManyTimers;
/// assert_eq!(TooManyTimers.to_string(), "too many timers at once");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyTimers;

impl fmt::Display for TooManyTimers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too many timers at once")
    }
}

impl std::error::Error for TooManyTimers {}

/// Why something was given up.
///
/// ```
/// # use weft_sdk::prelude::*;
/// use weft_sdk::time::GivenUp;
/// # async fn f(request: &Request) -> Result<()> {
/// let first = request.timeout(Duration::from_secs(1), request.body().next()).await;
/// if first == Err(GivenUp::Elapsed) {
///     request.log().warn("a slow client", &[]);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenUp {
    /// It did not end in time.
    Elapsed,
    /// The time could not be watched: too many timers at once.
    TooManyTimers,
}

impl fmt::Display for GivenUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elapsed => f.write_str("it did not end in time"),
            Self::TooManyTimers => TooManyTimers.fmt(f),
        }
    }
}

impl std::error::Error for GivenUp {}

pub(crate) async fn timeout<T>(sleep: Sleep, what: impl Future<Output = T>) -> Result<T, GivenUp> {
    let mut what = pin!(what);
    let mut sleep = pin!(sleep);
    poll_fn(|cx| {
        if let Poll::Ready(value) = what.as_mut().poll(cx) {
            return Poll::Ready(Ok(value));
        }
        sleep.as_mut().poll(cx).map(|slept| match slept {
            Ok(()) => Err(GivenUp::Elapsed),
            Err(TooManyTimers) => Err(GivenUp::TooManyTimers),
        })
    })
    .await
}
