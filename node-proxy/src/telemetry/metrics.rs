//! Counters for Prometheus, kept off the workers.
//!
//! What every request counts is looked up by its labels once: behind a label
//! set are a lock and a hash.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use http::StatusCode;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::exchange::{Event, Exchange};
use super::filters::FilterMetrics;
use super::guests;
use crate::accept::worker::Shared;
use crate::failure::Culprit;
use crate::identity::Direction;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    direction: &'static str,
    verdict: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResponseLabels {
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    limit: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    culprit: &'static str,
}

/// Requests by observation point and verdict.
#[derive(Debug, Clone)]
struct Requests {
    egress: Verdicts,
    ingress: Verdicts,
}

#[derive(Debug, Clone)]
struct Verdicts {
    forwarded: Counter,
    dropped: Counter,
}

impl Requests {
    fn of(family: &Family<RequestLabels, Counter>) -> Self {
        let one = |direction: Direction, verdict| {
            let direction = direction.as_str();
            family.get_or_create_owned(&RequestLabels { direction, verdict })
        };
        let both = |direction| Verdicts {
            forwarded: one(direction, "forwarded"),
            dropped: one(direction, "dropped"),
        };
        Self {
            egress: both(Direction::Egress),
            ingress: both(Direction::Ingress),
        }
    }

    fn count(&self, direction: Direction, allowed: bool) {
        let verdicts = match direction {
            Direction::Egress => &self.egress,
            Direction::Ingress => &self.ingress,
        };
        let counter = if allowed {
            &verdicts.forwarded
        } else {
            &verdicts.dropped
        };
        counter.inc();
    }
}

/// Responses by status. Those of a status that never was are not shown.
#[derive(Debug, Clone)]
struct Responses {
    family: Family<ResponseLabels, Counter>,
    /// By status, from [`FIRST_STATUS`] on.
    known: Arc<[OnceLock<Counter>]>,
}

/// The last line of the text format.
const END: &str = "# EOF\n";

/// Statuses have three digits.
const FIRST_STATUS: u16 = 100;
const STATUSES: usize = 900;

impl Responses {
    fn new() -> Self {
        Self {
            family: Family::default(),
            known: std::iter::repeat_with(OnceLock::new)
                .take(STATUSES)
                .collect(),
        }
    }

    fn count(&self, status: StatusCode) {
        let status = status.as_u16();
        let counter = || self.family.get_or_create_owned(&ResponseLabels { status });
        let index = usize::from(status.wrapping_sub(FIRST_STATUS));
        match self.known.get(index) {
            Some(known) => known.get_or_init(counter).inc(),
            None => counter().inc(),
        };
    }
}

/// The proxy's metrics. Clones share their values.
#[derive(Clone)]
pub struct Metrics {
    requests: Requests,
    responses: Responses,
    failures: Family<FailureLabels, Counter>,
    refused: Counter,
    duration: Histogram,
    lost: Counter,
    pub(super) lost_spans: Counter,
    connections: Gauge,
    turned_away: Family<LimitLabels, Counter>,
    upstream_connections: Gauge,
    memory: Gauge,
    largest_memory: Gauge,
    filter_contexts: Gauge,
    filters: FilterMetrics,
    registry: Arc<Registry>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let requests = Family::default();
        let mut registry = Registry::with_prefix("weft_proxy");
        let mut metrics = Self {
            requests: Requests::of(&requests),
            responses: Responses::new(),
            failures: Family::default(),
            refused: Counter::default(),
            // 0.1 ms to 26 s.
            duration: Histogram::new(exponential_buckets(0.0001, 2.0, 19)),
            lost: Counter::default(),
            lost_spans: Counter::default(),
            connections: Gauge::default(),
            turned_away: Family::default(),
            upstream_connections: Gauge::default(),
            memory: Gauge::default(),
            largest_memory: Gauge::default(),
            filter_contexts: Gauge::default(),
            filters: FilterMetrics::register(&mut registry),
            registry: Arc::default(),
        };
        registry.register(
            "requests",
            "Requests by observation point and verdict",
            requests,
        );
        registry.register(
            "responses",
            "Responses by status",
            metrics.responses.family.clone(),
        );
        registry.register(
            "failed_requests",
            "Requests that could not be served, by who is to blame",
            metrics.failures.clone(),
        );
        registry.register(
            "refused_connections",
            "Connections refused before they had a request",
            metrics.refused.clone(),
        );
        registry.register(
            "request_duration_seconds",
            "From a request's head to the last byte of its response",
            metrics.duration.clone(),
        );
        registry.register(
            "lost_records",
            "Events that telemetry had no room for",
            metrics.lost.clone(),
        );
        registry.register(
            "lost_spans",
            "Spans that the exporter had no room for or could not deliver",
            metrics.lost_spans.clone(),
        );
        metrics.register_now(&mut registry);
        metrics.registry = Arc::new(registry);
        metrics
    }

    /// Those that say how much there is of something now.
    fn register_now(&self, registry: &mut Registry) {
        registry.register(
            "connections",
            "Connections of clients",
            self.connections.clone(),
        );
        registry.register(
            "turned_away_connections",
            "Connections closed because all together, or their source, had as many or as much memory as allowed",
            self.turned_away.clone(),
        );
        registry.register(
            "upstream_connections",
            "Connections to upstreams, idle ones included",
            self.upstream_connections.clone(),
        );
        registry.register(
            "sources_memory_bytes",
            "Memory held on behalf of all sources",
            self.memory.clone(),
        );
        registry.register(
            "largest_source_memory_bytes",
            "Memory held on behalf of the source that takes the most",
            self.largest_memory.clone(),
        );
        registry.register(
            "filter_contexts",
            "Requests that are in filters now",
            self.filter_contexts.clone(),
        );
    }

    /// Counts an event.
    pub fn observe(&mut self, event: &Event) {
        match event {
            Event::Decided(exchange) => self.decided(exchange),
            Event::Answered(exchange)
            | Event::Ended {
                exchange,
                answer: true,
            } => self.answered(exchange),
            Event::Ended { .. } => {}
            Event::Refused(_) => {
                self.refused.inc();
            }
        }
        if let Event::Ended { exchange, .. } = event {
            self.ended(exchange);
        }
    }

    fn decided(&self, exchange: &Exchange) {
        for (direction, decision) in exchange.decisions.iter() {
            self.requests.count(direction, decision.allowed);
        }
    }

    fn answered(&self, exchange: &Exchange) {
        if let Some(response) = exchange.response.get() {
            self.responses.count(response.status);
        }
    }

    fn ended(&mut self, exchange: &Exchange) {
        let Some(end) = exchange.end.get() else {
            return;
        };
        self.duration.observe(end.duration.as_secs_f64());
        self.filters.ended(exchange);
        if let Some(failure) = end.failure {
            let culprit = match failure.culprit() {
                Culprit::Downstream => "downstream",
                Culprit::Proxy => "proxy",
                Culprit::Upstream => "upstream",
            };
            self.failures
                .get_or_create(&FailureLabels { culprit })
                .inc();
        }
    }

    /// Events lost since the start.
    pub fn set_lost(&self, lost: u64) {
        self.lost.inner().store(lost, Ordering::Relaxed);
    }

    /// All metrics in the OpenMetrics text format.
    ///
    /// # Errors
    /// Never in practice: writing to a string does not fail.
    pub fn render(&self, shared: &Shared) -> Result<String, fmt::Error> {
        let gauge = |gauge: &Gauge, value: usize| {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        let connections = shared.connections.load(Ordering::Relaxed);
        gauge(&self.connections, connections);
        let usage = shared.purses.usage();
        gauge(&self.memory, usage.all);
        gauge(&self.largest_memory, usage.largest);
        gauge(
            &self.upstream_connections,
            sum(&shared.upstream_connections),
        );
        gauge(&self.filter_contexts, sum(&shared.filter_contexts));
        for (limit, count) in [
            ("total", &shared.turned_away.total),
            ("source", &shared.turned_away.source),
            ("memory", &shared.turned_away.memory),
        ] {
            self.turned_away
                .get_or_create(&LimitLabels { limit })
                .inner()
                .store(count.load(Ordering::Relaxed) as u64, Ordering::Relaxed);
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        let config = shared.config.load();
        if !config.filters.is_empty() {
            // They come before the end.
            text.truncate(text.trim_end_matches(END).len());
            let filters = config.filters.iter();
            let filters = filters.map(|filter| (&*filter.name, filter.shared.metrics.all()));
            guests::write(&mut text, filters)?;
            text.push_str(END);
        }
        Ok(text)
    }
}

/// Of all workers.
fn sum(of_workers: &[AtomicUsize]) -> usize {
    let counts = of_workers.iter();
    counts.map(|count| count.load(Ordering::Relaxed)).sum()
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
