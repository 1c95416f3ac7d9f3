//! The instance itself.

use std::rc::Rc;
use std::time::Duration;

use crate::runtime::Exchange;
use crate::sys::host;
use crate::sys::types::{Label, MetricKind};
use crate::time::Sleep;
use crate::{Counter, Error, Gauge, Histogram, Kv, Log, Result};

/// What there is besides the requests: metrics, shared values, the log. It can be kept.
///
/// ```
/// use weft_sdk::prelude::*;
/// struct Counted {
///     seen: Counter,
///     kv: Kv,
/// }
/// #[filter]
/// impl Filter for Counted {
///     type Config = NoConfig;
///     fn new(_config: NoConfig, plugin: &Plugin) -> Result<Self> {
///         Ok(Self { seen: plugin.counter("seen", &[])?, kv: plugin.kv() })
///     }
///     async fn on_request(self: Rc<Self>, _request: Request) -> Result<Flow> {
///         self.seen.increment();
///         self.kv.increment("seen", 1, None)?;
///         Ok(Flow::Continue)
///     }
/// }
/// # fn main() {}
/// ```
#[derive(Clone)]
pub struct Plugin {
    instance: Rc<Exchange>,
}

impl Plugin {
    pub(crate) const fn new(instance: Rc<Exchange>) -> Self {
        Self { instance }
    }

    /// A counter of this name and these labels; the same one for the same arguments.
    ///
    /// # Errors
    /// Where the name is not one of a metric, or there are too many.
    ///
    /// ```
    /// # fn f(plugin: &weft_sdk::Plugin) -> weft_sdk::Result<()> {
    /// plugin.counter("denied", &[("why", "expired")])?.increment();
    /// # Ok(())
    /// # }
    /// ```
    pub fn counter(&self, name: &str, labels: &[(&str, &str)]) -> Result<Counter> {
        metric(MetricKind::Counter, name, labels).map(Counter)
    }

    /// A gauge of this name and these labels.
    ///
    /// # Errors
    /// Where the name is not one of a metric, or there are too many.
    ///
    /// ```
    /// # fn f(plugin: &weft_sdk::Plugin) -> weft_sdk::Result<()> {
    /// plugin.gauge("open", &[])?.add(1.0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn gauge(&self, name: &str, labels: &[(&str, &str)]) -> Result<Gauge> {
        metric(MetricKind::Gauge, name, labels).map(Gauge)
    }

    /// A histogram of this name and these labels.
    ///
    /// # Errors
    /// Where the name is not one of a metric, or there are too many.
    ///
    /// ```
    /// # fn f(plugin: &weft_sdk::Plugin) -> weft_sdk::Result<()> {
    /// plugin.histogram("body_bytes", &[])?.record(512.0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn histogram(&self, name: &str, labels: &[(&str, &str)]) -> Result<Histogram> {
        metric(MetricKind::Histogram, name, labels).map(Histogram)
    }

    /// The values that all instances of the filter on this node share.
    ///
    /// ```
    /// # fn f(plugin: &weft_sdk::Plugin) -> weft_sdk::Kv {
    /// plugin.kv()
    /// # }
    /// ```
    #[must_use]
    pub fn kv(&self) -> Kv {
        Kv::new()
    }

    /// The log, outside of a request.
    ///
    /// ```
    /// # fn f(plugin: &weft_sdk::Plugin) {
    /// plugin.log().info("configured", &[]);
    /// # }
    /// ```
    #[must_use]
    pub fn log(&self) -> Log {
        Log::new(self.instance.ctx())
    }

    /// Waits, for the background task.
    ///
    /// ```
    /// use weft_sdk::prelude::*;
    /// # struct Cleaner;
    /// # impl Cleaner { fn clean(&self) {} }
    /// async fn background(cleaner: &Cleaner, plugin: Plugin) -> Result<()> {
    ///     loop {
    ///         plugin.sleep(Duration::from_secs(10)).await?;
    ///         cleaner.clean();
    ///     }
    /// }
    /// ```
    pub fn sleep(&self, duration: Duration) -> Sleep {
        Sleep::new(self.instance.clone(), duration)
    }
}

fn metric(kind: MetricKind, name: &str, labels: &[(&str, &str)]) -> Result<u32> {
    let labels: Vec<Label> = labels
        .iter()
        .map(|(key, value)| Label {
            key: (*key).to_owned(),
            value: (*value).to_owned(),
        })
        .collect();
    host::metric(kind, name, &labels)
        .map_err(|why| Error::new(format_args!("metric {name}: {why}")))
}
