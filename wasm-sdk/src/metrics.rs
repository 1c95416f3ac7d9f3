//! Metrics. The proxy adds the filter's name to them.

use crate::sys::host;

/// A number that only grows.
///
/// ```
/// # use weft_sdk::{Plugin, Result};
/// # fn new(plugin: &Plugin) -> Result<()> {
/// let denied = plugin.counter("denied", &[("why", "expired")])?;
/// denied.increment();
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Counter(pub(crate) u32);

impl Counter {
    /// Adds 1.
    ///
    /// ```
    /// # fn f(counter: weft_sdk::Counter) {
    /// counter.increment();
    /// # }
    /// ```
    pub fn increment(&self) {
        self.add(1.0);
    }

    /// Adds to it; what is negative is left out.
    ///
    /// ```
    /// # fn f(bytes: weft_sdk::Counter) {
    /// bytes.add(1024.0);
    /// # }
    /// ```
    pub fn add(&self, delta: f64) {
        if delta > 0.0 {
            host::metric_add(self.0, delta);
        }
    }
}

/// A number that goes up and down.
///
/// ```
/// # use weft_sdk::{Plugin, Result};
/// # fn new(plugin: &Plugin) -> Result<()> {
/// plugin.gauge("keys", &[])?.set(3.0);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Gauge(pub(crate) u32);

impl Gauge {
    /// Sets it.
    ///
    /// ```
    /// # fn f(gauge: weft_sdk::Gauge) {
    /// gauge.set(0.0);
    /// # }
    /// ```
    pub fn set(&self, value: f64) {
        host::metric_record(self.0, value);
    }

    /// Adds to it.
    ///
    /// ```
    /// # fn f(gauge: weft_sdk::Gauge) {
    /// gauge.add(-1.0);
    /// # }
    /// ```
    pub fn add(&self, delta: f64) {
        host::metric_add(self.0, delta);
    }
}

/// A distribution of values.
///
/// ```
/// # use weft_sdk::{Plugin, Result};
/// # fn new(plugin: &Plugin) -> Result<()> {
/// plugin.histogram("check_seconds", &[])?.record(0.002);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Histogram(pub(crate) u32);

impl Histogram {
    /// Records a value.
    ///
    /// ```
    /// # fn f(histogram: weft_sdk::Histogram) {
    /// histogram.record(0.5);
    /// # }
    /// ```
    pub fn record(&self, value: f64) {
        host::metric_record(self.0, value);
    }
}
