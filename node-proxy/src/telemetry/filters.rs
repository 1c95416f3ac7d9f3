//! What filters did, as metrics and as events of spans.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry::KeyValue;
use opentelemetry::trace::Event;
use opentelemetry_sdk::trace::SpanEvents;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use rustc_hash::FxHashMap;
use weft_wasm_host::FaultKind;

use super::exchange::Exchange;
use crate::filter::run::{Outcome, Run};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FilterLabels {
    filter: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    filter: String,
    outcome: &'static str,
}

/// Metrics of each filter. There are as many label sets as filters were
/// attached.
#[derive(Debug, Clone)]
pub(super) struct FilterMetrics {
    requests: Family<OutcomeLabels, Counter>,
    calls: Family<FilterLabels, Counter>,
    cpu: Family<FilterLabels, Histogram, fn() -> Histogram>,
    /// Those of filters that requests have met, at hand.
    known: FxHashMap<Arc<str>, Series>,
}

/// What nearly every request counts of a filter.
#[derive(Debug, Clone)]
struct Series {
    passed: Counter,
    calls: Counter,
    cpu: Histogram,
}

fn seconds() -> Histogram {
    // 1 us to 0.5 s.
    Histogram::new(exponential_buckets(0.000_001, 2.0, 20))
}

impl FilterMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            calls: Family::default(),
            cpu: Family::new_with_constructor(seconds),
            known: FxHashMap::default(),
        };
        registry.register(
            "filter_requests",
            "Requests that came to a filter, by what came of them there",
            metrics.requests.clone(),
        );
        registry.register(
            "filter_calls",
            "Calls of a filter's code",
            metrics.calls.clone(),
        );
        registry.register(
            "filter_cpu_seconds",
            "CPU time that a filter took for a request",
            metrics.cpu.clone(),
        );
        metrics
    }

    /// Counts what filters did to an exchange that is over.
    pub(super) fn ended(&mut self, exchange: &Exchange) {
        let Some(runs) = exchange.runs.get() else {
            return;
        };
        for run in &runs.runs {
            match self.known.get(&run.filter) {
                Some(series) => self.count(run, series),
                None => {
                    let series = self.series(&run.filter);
                    self.count(run, &series);
                    self.known.insert(Arc::clone(&run.filter), series);
                }
            }
        }
    }

    fn count(&self, run: &Run, series: &Series) {
        match run.outcome {
            Outcome::Passed => series.passed.inc(),
            other => {
                let labels = labels(&run.filter, other);
                self.requests.get_or_create(&labels).inc()
            }
        };
        series.calls.inc_by(run.calls.into());
        series.cpu.observe(run.spent.as_secs_f64());
    }

    fn series(&self, filter: &str) -> Series {
        let passed = labels(filter, Outcome::Passed);
        let filter = FilterLabels {
            filter: filter.to_owned(),
        };
        Series {
            passed: self.requests.get_or_create_owned(&passed),
            calls: self.calls.get_or_create_owned(&filter),
            cpu: self.cpu.get_or_create_owned(&filter),
        }
    }
}

fn labels(filter: &str, of: Outcome) -> OutcomeLabels {
    OutcomeLabels {
        filter: filter.to_owned(),
        outcome: outcome(of),
    }
}

/// What came of a request in a filter, in a word.
fn outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passed",
        Outcome::Replied(_) => "replied",
        Outcome::TooLarge => "too_large",
        Outcome::Failed(kind) => match kind {
            FaultKind::Load => "failed_load",
            FaultKind::Config => "failed_config",
            FaultKind::Trap => "failed_trap",
            FaultKind::Timeout => "failed_timeout",
        },
        Outcome::Skipped(kind) => match kind {
            FaultKind::Load => "skipped_load",
            FaultKind::Config => "skipped_config",
            FaultKind::Trap => "skipped_trap",
            FaultKind::Timeout => "skipped_timeout",
        },
    }
}

/// An event for each filter, with its part in the exchange, and what filters
/// said themselves.
pub(super) fn events(exchange: &Exchange) -> SpanEvents {
    let mut events = SpanEvents::default();
    let Some(runs) = exchange.runs.get() else {
        return events;
    };
    let when = |began: Duration| exchange.time.checked_add(began).unwrap_or(exchange.time);
    for run in &runs.runs {
        let began = run.began.saturating_duration_since(exchange.started);
        events.events.push(event(run, when(began)));
    }
    for (name, labels) in &runs.marks.events {
        let labels = labels.iter().cloned();
        let labels = labels.map(|(key, value)| KeyValue::new(key, value));
        let said = Event::new(name.clone(), exchange.time, labels.collect(), 0);
        events.events.push(said);
    }
    events
}

fn event(run: &Run, time: SystemTime) -> Event {
    let number = |number: u128| i64::try_from(number).unwrap_or(i64::MAX);
    let mut attributes = vec![
        KeyValue::new("weft.filter", Arc::clone(&run.filter)),
        KeyValue::new("weft.filter.phase", run.phase.as_str()),
        KeyValue::new("weft.filter.outcome", outcome(run.outcome)),
        KeyValue::new("weft.filter.calls", i64::from(run.calls)),
        KeyValue::new("weft.filter.duration_ns", number(run.spent.as_nanos())),
    ];
    if let Outcome::Replied(status) = run.outcome {
        attributes.push(KeyValue::new("weft.filter.status", i64::from(status)));
    }
    Event::new("filter", time, attributes, 0)
}

/// What filters said about the span, and which of them decided.
pub(super) fn attributes(exchange: &Exchange, attributes: &mut Vec<KeyValue>) {
    if let Some(runs) = exchange.runs.get() {
        let said = runs.marks.attributes.iter().cloned();
        attributes.extend(said.map(|(key, value)| KeyValue::new(key, value)));
    }
    if let Some(mark) = exchange.filter.get() {
        attributes.push(KeyValue::new("weft.filter", Arc::clone(&mark.filter)));
        let reason = mark.reason.to_string();
        attributes.push(KeyValue::new("weft.filter.reason", reason));
    }
}
