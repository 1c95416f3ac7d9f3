//! Metrics that filters define, in the OpenMetrics text format.
//!
//! Each is called `weft_filter_NAME` and says which filter's it is. Made when
//! somebody asks.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::sync::Arc;

use weft_wasm_host::shared::metrics::{BUCKETS, Metric, MetricKind};

/// One metric, and the filter that it is of.
type Owned<'a> = (&'a str, Arc<Metric>);

/// Writes the metrics of these filters, by their names.
///
/// # Errors
/// Never in practice: writing to a string does not fail.
pub(super) fn write<'a>(
    text: &mut String,
    filters: impl Iterator<Item = (&'a str, Vec<Arc<Metric>>)>,
) -> fmt::Result {
    let mut families: BTreeMap<String, Vec<Owned<'_>>> = BTreeMap::new();
    for (filter, metrics) in filters {
        for metric in metrics {
            families
                .entry(name(&metric))
                .or_default()
                .push((filter, metric));
        }
    }
    for (name, metrics) in &families {
        let Some((_filter, first)) = metrics.first() else {
            continue;
        };
        writeln!(text, "# TYPE {name} {}", word(first.key().kind))?;
        for (filter, metric) in metrics {
            one(text, name, filter, metric)?;
        }
    }
    Ok(())
}

/// What a family is called. Those of one name that do something else have a
/// name of their own.
fn name(metric: &Metric) -> String {
    let key = metric.key();
    let name = key.name.trim_end_matches("_total");
    match key.kind {
        MetricKind::Counter => format!("weft_filter_{name}"),
        MetricKind::Gauge => format!("weft_filter_{name}_value"),
        MetricKind::Histogram => format!("weft_filter_{name}_distribution"),
    }
}

fn word(kind: MetricKind) -> &'static str {
    match kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Histogram => "histogram",
    }
}

fn one(text: &mut String, name: &str, filter: &str, metric: &Metric) -> fmt::Result {
    let mut labels = format!("filter=\"{}\"", escaped(filter));
    for (key, value) in &metric.key().labels {
        write!(labels, ",{}=\"{}\"", label(key), escaped(value))?;
    }
    let value = metric.value();
    let Some(buckets) = metric.buckets() else {
        let total = match metric.key().kind {
            MetricKind::Counter => "_total",
            _ => "",
        };
        return writeln!(text, "{name}{total}{{{labels}}} {value}");
    };
    let mut count = 0;
    let bounds = BUCKETS.iter().map(ToString::to_string);
    for (bound, inside) in bounds.chain(["+Inf".to_owned()]).zip(buckets) {
        count += inside;
        writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}")?;
    }
    writeln!(text, "{name}_sum{{{labels}}} {value}")?;
    writeln!(text, "{name}_count{{{labels}}} {count}")
}

/// A label's name, of which a filter may have thought what it liked. Never one
/// of ours.
fn label(key: &str) -> String {
    let allowed = |letter: char| match letter {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '_' => letter,
        _ => '_',
    };
    let key: String = key.chars().map(allowed).collect();
    match key.as_str() {
        "filter" | "le" => format!("{key}_"),
        "" => "_".to_owned(),
        other if other.starts_with(|first: char| first.is_ascii_digit()) => format!("_{key}"),
        _ => key,
    }
}

fn escaped(value: &str) -> String {
    let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
    escaped.replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use weft_wasm_host::shared::metrics::{MetricKind, Metrics};

    use super::write;

    #[test]
    fn metrics_of_filters_are_text() {
        let metrics = Metrics::new();
        let labels = vec![("out come".to_owned(), "a\"b\n".to_owned())];
        let counter = metrics.resolve(MetricKind::Counter, "requests_total", labels);
        counter.expect("a counter").add(2.0);
        let gauge = metrics.resolve(
            MetricKind::Gauge,
            "requests",
            vec![("le".into(), "x".into())],
        );
        gauge.expect("a gauge").record(1.5);
        let sizes = metrics.resolve(MetricKind::Histogram, "sizes", Vec::new());
        let sizes = sizes.expect("a histogram");
        sizes.record(0.3);
        sizes.record(2_000_000.0);
        let mut text = String::new();
        let all = [("WeftFilter a/b", metrics.all())];
        write(&mut text, all.into_iter()).expect("text");
        for line in [
            "# TYPE weft_filter_requests counter",
            r#"weft_filter_requests_total{filter="WeftFilter a/b",out_come="a\"b\n"} 2"#,
            r#"weft_filter_requests_value{filter="WeftFilter a/b",le_="x"} 1.5"#,
            r#"weft_filter_sizes_distribution_bucket{filter="WeftFilter a/b",le="0.1"} 0"#,
            r#"weft_filter_sizes_distribution_bucket{filter="WeftFilter a/b",le="0.5"} 1"#,
            r#"weft_filter_sizes_distribution_bucket{filter="WeftFilter a/b",le="+Inf"} 2"#,
            r#"weft_filter_sizes_distribution_count{filter="WeftFilter a/b"} 2"#,
        ] {
            assert!(
                text.lines().any(|one| one == line),
                "{line} is not in {text}"
            );
        }
    }
}
