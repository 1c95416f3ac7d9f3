//! What the agent counts, for Prometheus.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use weft_datapath::TableUse;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BoundLabels {
    bound: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TableLabels {
    table: &'static str,
}

/// The kernel's tables, by name: those that grow with traffic, and those that
/// grow with pods and policies.
#[derive(Clone, Default)]
struct Tables {
    entries: Family<TableLabels, Gauge>,
    capacity: Family<TableLabels, Gauge>,
    evicted: Family<TableLabels, Counter>,
    refused: Family<TableLabels, Counter>,
}

impl Tables {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "table_entries",
            "Entries in a table of the kernel's at the last look",
            self.entries.clone(),
        );
        registry.register(
            "table_capacity",
            "Entries that the table has room for",
            self.capacity.clone(),
        );
        registry.register(
            "table_evicted_entries",
            "Entries in use that were pushed out because the table was full",
            self.evicted.clone(),
        );
        registry.register(
            "table_refused_entries",
            "Entries for which the table had no room, or masquerading no port",
            self.refused.clone(),
        );
    }
}

/// The agent's metrics. Clones share their values.
#[derive(Clone)]
pub struct Metrics {
    refused_peers: Family<ReasonLabels, Counter>,
    refused_streams: Counter,
    /// Streams of the observer that stay open.
    pub(crate) open_streams: Gauge,
    lost_events: Counter,
    passes: Histogram,
    over_bounds: Family<BoundLabels, Gauge>,
    snapshot_bytes: Gauge,
    unsent_snapshots: Counter,
    tables: Tables,
    registry: Arc<Registry>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            refused_peers: Family::default(),
            refused_streams: Counter::default(),
            open_streams: Gauge::default(),
            lost_events: Counter::default(),
            // 0.1 ms to 1.6 s: a revocation is due within 100 ms.
            passes: Histogram::new(exponential_buckets(0.0001, 2.0, 15)),
            over_bounds: Family::default(),
            snapshot_bytes: Gauge::default(),
            unsent_snapshots: Counter::default(),
            tables: Tables::default(),
            registry: Arc::default(),
        };
        let mut registry = Registry::with_prefix("weft_agent");
        registry.register(
            "observer_refused_peers",
            "Connections to the observer that were closed at once, by reason",
            metrics.refused_peers.clone(),
        );
        registry.register(
            "observer_refused_streams",
            "Questions to the observer refused because too many were open",
            metrics.refused_streams.clone(),
        );
        registry.register(
            "observer_open_streams",
            "Streams that followers of the observer hold open",
            metrics.open_streams.clone(),
        );
        registry.register(
            "lost_events",
            "Events of the kernel and records of the proxy that nobody read in time",
            metrics.lost_events.clone(),
        );
        registry.register(
            "pass_duration_seconds",
            "From what is known to what is written",
            metrics.passes.clone(),
        );
        registry.register(
            "endpoints_over_bounds",
            "Pods that are given less than their policies say, by the bound that these exceed",
            metrics.over_bounds.clone(),
        );
        registry.register(
            "snapshot_bytes",
            "Size of the newest snapshot for the proxy, sent or not",
            metrics.snapshot_bytes.clone(),
        );
        registry.register(
            "unsent_snapshots",
            "Times that snapshots became too large to be sent",
            metrics.unsent_snapshots.clone(),
        );
        metrics.tables.register(&mut registry);
        metrics.registry = Arc::new(registry);
        metrics
    }

    /// The observer closed a connection.
    pub fn refused_peer(&self, reason: &'static str) {
        self.refused_peers
            .get_or_create(&ReasonLabels { reason })
            .inc();
    }

    /// The observer refused a question.
    pub fn refused_stream(&self) {
        self.refused_streams.inc();
    }

    /// Nobody read so many events or records in time.
    pub fn lost_events(&self, lost: u64) {
        self.lost_events.inc_by(lost);
    }

    /// A pass of the reconciler took this long.
    pub fn pass(&self, took: Duration) {
        self.passes.observe(took.as_secs_f64());
    }

    /// So many endpoints exceed this bound.
    pub fn over_bounds(&self, bound: &'static str, endpoints: usize) {
        let endpoints = i64::try_from(endpoints).unwrap_or(i64::MAX);
        self.over_bounds
            .get_or_create(&BoundLabels { bound })
            .set(endpoints);
    }

    /// Size of the newest snapshot.
    pub fn snapshot(&self, bytes: usize) {
        self.snapshot_bytes
            .set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// A snapshot is too large to be sent.
    pub fn unsent_snapshot(&self) {
        self.unsent_snapshots.inc();
    }

    /// How full a table of the kernel's is, and what it lost since the last
    /// look: entries in use pushed out, and entries that it had no room for.
    pub fn table(&self, table: &'static str, now: &TableUse, evicted: u64, refused: u64) {
        let labels = TableLabels { table };
        let Tables {
            entries,
            capacity,
            evicted: all_evicted,
            refused: all_refused,
        } = &self.tables;
        let held = i64::try_from(now.entries).unwrap_or(i64::MAX);
        entries.get_or_create(&labels).set(held);
        capacity.get_or_create(&labels).set(now.capacity.into());
        all_evicted.get_or_create(&labels).inc_by(evicted);
        all_refused.get_or_create(&labels).inc_by(refused);
    }

    /// In the OpenMetrics text format.
    ///
    /// # Errors
    /// None is known: the text is written to memory.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_shown() {
        let metrics = Metrics::new();
        metrics.refused_peer("pod");
        metrics.lost_events(3);
        metrics.pass(Duration::from_millis(2));
        let full = TableUse {
            capacity: 1024,
            entries: 1000,
            ..TableUse::default()
        };
        metrics.over_bounds("entries", 2);
        metrics.snapshot(4096);
        metrics.unsent_snapshot();
        metrics.table("conntrack", &full, 17, 0);
        metrics.table("conntrack", &full, 4, 1);
        let text = metrics.render().expect("text");
        for line in [
            "weft_agent_observer_refused_peers_total{reason=\"pod\"} 1",
            "weft_agent_lost_events_total 3",
            "weft_agent_pass_duration_seconds_count 1",
            "weft_agent_endpoints_over_bounds{bound=\"entries\"} 2",
            "weft_agent_snapshot_bytes 4096",
            "weft_agent_unsent_snapshots_total 1",
            "weft_agent_table_entries{table=\"conntrack\"} 1000",
            "weft_agent_table_capacity{table=\"conntrack\"} 1024",
            "weft_agent_table_evicted_entries_total{table=\"conntrack\"} 21",
            "weft_agent_table_refused_entries_total{table=\"conntrack\"} 1",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}
