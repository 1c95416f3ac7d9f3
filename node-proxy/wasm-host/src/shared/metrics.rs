//! Metrics that filters define. An instance resolves a metric once and keeps its handle; counting
//! is an atomic addition.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::types::Labels;

/// Metrics (each set of labels is one) that a filter may have.
const MAX_METRICS: usize = 1024;
/// Longest name, key or value of a label.
const MAX_TEXT: usize = 256;
const MAX_LABELS: usize = 16;

/// Upper bounds of a histogram's buckets; what filters measure may be seconds, milliseconds or
/// bytes, so they span all of it.
pub const BUCKETS: [f64; 16] = [
    0.001,
    0.005,
    0.01,
    0.05,
    0.1,
    0.5,
    1.0,
    5.0,
    10.0,
    50.0,
    100.0,
    500.0,
    1_000.0,
    10_000.0,
    100_000.0,
    1_000_000.0,
];

/// What a metric does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values by their size.
    Histogram,
}

/// Name, labels, and what it does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MetricKey {
    /// What it does.
    pub kind: MetricKind,
    /// As the filter named it, in characters that Prometheus allows.
    pub name: String,
    /// Sorted by key.
    pub labels: Labels,
}

/// One metric.
#[derive(Debug)]
pub struct Metric {
    key: MetricKey,
    /// A float, or the sum of a histogram.
    value: AtomicU64,
    buckets: Option<Box<[AtomicU64; BUCKETS.len() + 1]>>,
}

impl Metric {
    fn new(key: MetricKey) -> Self {
        let histogram = key.kind == MetricKind::Histogram;
        Self {
            key,
            value: AtomicU64::new(0.0_f64.to_bits()),
            buckets: histogram.then(|| Box::new(std::array::from_fn(|_at| AtomicU64::new(0)))),
        }
    }

    /// What it is called.
    #[must_use]
    pub const fn key(&self) -> &MetricKey {
        &self.key
    }

    /// What a counter or a gauge stands at; the sum of a histogram.
    #[must_use]
    pub fn value(&self) -> f64 {
        f64::from_bits(self.value.load(Ordering::Relaxed))
    }

    /// Values of a histogram by bucket, not summed up; the last are those above all bounds.
    #[must_use]
    pub fn buckets(&self) -> Option<[u64; BUCKETS.len() + 1]> {
        let buckets = self.buckets.as_ref()?;
        Some(std::array::from_fn(|at| {
            buckets[at].load(Ordering::Relaxed)
        }))
    }

    /// Adds to a counter or a gauge. A counter takes nothing negative, and nothing that is no
    /// number counts.
    pub fn add(&self, delta: f64) -> bool {
        let allowed = match self.key.kind {
            MetricKind::Counter => delta >= 0.0,
            MetricKind::Gauge => true,
            MetricKind::Histogram => false,
        };
        if !allowed || !delta.is_finite() {
            return false;
        }
        self.sum(delta);
        true
    }

    /// Sets a gauge, records a value in a histogram.
    pub fn record(&self, value: f64) -> bool {
        if !value.is_finite() {
            return false;
        }
        match (self.key.kind, &self.buckets) {
            (MetricKind::Gauge, _) => {
                self.value.store(value.to_bits(), Ordering::Relaxed);
                true
            }
            (MetricKind::Histogram, Some(buckets)) => {
                let at = BUCKETS.partition_point(|bound| *bound < value);
                buckets[at].fetch_add(1, Ordering::Relaxed);
                self.sum(value);
                true
            }
            _ => false,
        }
    }

    fn sum(&self, delta: f64) {
        let add = |bits| Some((f64::from_bits(bits) + delta).to_bits());
        // It is never refused.
        let _before = self
            .value
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }
}

/// The metrics of one filter.
#[derive(Debug, Default)]
pub struct Metrics {
    all: RwLock<HashMap<MetricKey, Arc<Metric>>>,
}

impl Metrics {
    /// No metric.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The metric of this name and these labels, the same one for the same arguments.
    ///
    /// # Errors
    /// Says what is wrong with the name or a label, or that there are too many.
    pub fn resolve(
        &self,
        kind: MetricKind,
        name: &str,
        labels: Labels,
    ) -> Result<Arc<Metric>, String> {
        let key = key(kind, name, labels)?;
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(metric) = all.get(&key) {
            return Ok(Arc::clone(metric));
        }
        drop(all);
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        let same_name = all.keys().find(|other| other.name == key.name);
        if same_name.is_some_and(|other| other.kind != kind) {
            return Err(format!("metric {name:?} is of another kind already"));
        }
        if all.len() >= MAX_METRICS && !all.contains_key(&key) {
            return Err(format!("a filter has at most {MAX_METRICS} metrics"));
        }
        let metric = all
            .entry(key)
            .or_insert_with_key(|key| Arc::new(Metric::new(key.clone())));
        Ok(Arc::clone(metric))
    }

    /// All of them, for whoever publishes them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Metric>> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.values().cloned().collect()
    }
}

fn key(kind: MetricKind, name: &str, mut labels: Labels) -> Result<MetricKey, String> {
    if name.is_empty() || name.len() > MAX_TEXT {
        return Err(format!("a metric's name has 1 to {MAX_TEXT} bytes"));
    }
    if labels.len() > MAX_LABELS {
        return Err(format!("metric {name:?} has more than {MAX_LABELS} labels"));
    }
    for (label, value) in &mut labels {
        if label.is_empty() || label.len() > MAX_TEXT || value.len() > MAX_TEXT {
            return Err(format!(
                "a label of metric {name:?} is empty or longer than {MAX_TEXT} bytes"
            ));
        }
        *label = allowed(label, false);
    }
    labels.sort();
    if let Some(twice) = labels.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(format!("metric {name:?} has label {:?} twice", twice[0].0));
    }
    Ok(MetricKey {
        kind,
        name: allowed(name, true),
        labels,
    })
}

/// Proxy-wasm filters name their metrics with dots: what Prometheus does not allow becomes `_`.
fn allowed(name: &str, colon: bool) -> String {
    let mut allowed: String = name
        .chars()
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => c,
            ':' if colon => c,
            _ => '_',
        })
        .collect();
    if allowed.starts_with(|first: char| first.is_ascii_digit()) {
        allowed.insert(0, '_');
    }
    allowed
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{BUCKETS, MAX_METRICS, MetricKind, Metrics};

    fn label(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn the_same_arguments_are_the_same_metric() {
        let metrics = Metrics::new();
        let resolve = |labels| metrics.resolve(MetricKind::Counter, "hits", labels);
        let first = resolve(vec![label("a", "1"), label("b", "2")]).expect("new");
        let second = resolve(vec![label("b", "2"), label("a", "1")]).expect("known");
        let other = resolve(vec![label("b", "3")]).expect("new");
        assert!(Arc::ptr_eq(&first, &second));
        assert!(!Arc::ptr_eq(&first, &other));
        first.add(2.0);
        second.add(0.5);
        assert_eq!((first.value(), other.value()), (2.5, 0.0));
        assert_eq!(metrics.all().len(), 2);
    }

    #[test]
    fn kinds_do_what_they_are_for() {
        let metrics = Metrics::new();
        let resolve = |kind, name| metrics.resolve(kind, name, vec![]).expect("new");
        let counter = resolve(MetricKind::Counter, "c");
        assert!(!counter.add(-1.0) && !counter.record(1.0) && !counter.add(f64::NAN));
        assert_eq!(counter.value(), 0.0);
        let gauge = resolve(MetricKind::Gauge, "g");
        assert!(gauge.record(5.0) && gauge.add(-7.0));
        assert_eq!(gauge.value(), -2.0);
        let histogram = resolve(MetricKind::Histogram, "h");
        assert!(!histogram.add(1.0));
        for value in [0.0, 1.0, 1.1, 1e9] {
            assert!(histogram.record(value));
        }
        let buckets = histogram.buckets().expect("a histogram");
        assert_eq!(buckets[0], 1);
        assert_eq!(buckets[6], 1, "up to 1, with it");
        assert_eq!(buckets[7], 1);
        assert_eq!(buckets[BUCKETS.len()], 1);
        assert_eq!(metrics.all().len(), 3);
        let again = metrics.resolve(MetricKind::Gauge, "c", vec![]);
        assert!(again.is_err_and(|error| error.contains("another kind")));
    }

    #[test]
    fn names_are_brought_into_a_form_that_prometheus_takes() {
        let metrics = Metrics::new();
        let metric = metrics
            .resolve(
                MetricKind::Counter,
                "2xx.from-cache",
                vec![label("a.b", "v.w")],
            )
            .expect("allowed");
        assert_eq!(metric.key().name, "_2xx_from_cache");
        assert_eq!(metric.key().labels, [label("a_b", "v.w")]);
    }

    #[test]
    fn a_filter_has_so_many_and_no_more() {
        let metrics = Metrics::new();
        let resolve = |at: usize| {
            metrics.resolve(
                MetricKind::Counter,
                "hits",
                vec![label("at", &at.to_string())],
            )
        };
        for at in 0..MAX_METRICS {
            resolve(at).expect("room");
        }
        assert!(resolve(MAX_METRICS).is_err());
        resolve(0).expect("one that is there");
        let twice = vec![label("a", "1"), label("a", "2")];
        assert!(metrics.resolve(MetricKind::Gauge, "g", twice).is_err());
    }
}
