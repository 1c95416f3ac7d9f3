//! A run, for people.

use std::io::{Result, Write};

use super::record::{Change, Counted, Entry, Mark, Outcome, Report, Shown};

/// Bytes of a body that are printed.
const MAX_BODY: usize = 2048;

pub(super) fn print(report: &Report, out: &mut dyn Write) -> Result<()> {
    for entry in &report.steps {
        step(entry, out)?;
    }
    let message = [
        ("request", &report.request),
        ("response", &report.response),
        ("reply", &report.reply),
    ];
    for (what, shown) in message {
        if let Some(shown) = shown {
            writeln!(out, "\n{what}")?;
            self::shown(shown, out)?;
        }
    }
    if !report.metrics.is_empty() {
        writeln!(out, "\nmetrics")?;
        for metric in &report.metrics {
            writeln!(out, "  {} {}", metric_name(metric), metric.value)?;
        }
    }
    for service in &report.unasked {
        writeln!(
            out,
            "\n--fetch {service}: the filter asked nothing of it; is it what the filter calls it?"
        )?;
    }
    let outcome = match report.outcome {
        Outcome::Passed => "passed",
        Outcome::Replied => "answered by the filter",
        Outcome::Failed => "failed",
    };
    let why = match report.why.as_str() {
        "" => String::new(),
        why => format!(": {why}"),
    };
    writeln!(
        out,
        "\n{}: {outcome}{why} ({:.0} us of CPU time, {} KiB of memory)",
        report.filter,
        report.cpu_us,
        report.memory_bytes / 1024
    )
}

fn step(entry: &Entry, out: &mut dyn Write) -> Result<()> {
    writeln!(
        out,
        "{:>8.3} ms  {}: {} ({:.0} us)",
        entry.at_ms, entry.event, entry.step, entry.cpu_us
    )?;
    for change in &entry.changes {
        self::change(change, out)?;
    }
    for asked in &entry.asked {
        writeln!(out, "    {asked}")?;
    }
    for mark in &entry.span {
        match mark {
            Mark::Attribute { key, value } => writeln!(out, "    span {key}={value}")?,
            Mark::Event { name, attributes } => {
                write!(out, "    span event {name}")?;
                for (key, value) in attributes {
                    write!(out, " {key}={value}")?;
                }
                writeln!(out)?;
            }
        }
    }
    for line in &entry.logs {
        writeln!(out, "    log {line}")?;
    }
    Ok(())
}

fn change(change: &Change, out: &mut dyn Write) -> Result<()> {
    let Change {
        of,
        name,
        before,
        after,
    } = change;
    for old in before {
        writeln!(out, "  - {of} {name}: {old}")?;
    }
    for new in after {
        writeln!(out, "  + {of} {name}: {new}")?;
    }
    Ok(())
}

fn shown(shown: &Shown, out: &mut dyn Write) -> Result<()> {
    writeln!(out, "  {}", shown.head)?;
    for (name, value) in &shown.headers {
        writeln!(out, "  {name}: {value}")?;
    }
    if shown.body_bytes == 0 {
        return Ok(());
    }
    let end = shown.body.floor_char_boundary(MAX_BODY);
    writeln!(out)?;
    for line in shown.body[..end].lines() {
        writeln!(out, "  {line}")?;
    }
    if end < shown.body.len() {
        writeln!(out, "  ... ({} bytes in all)", shown.body_bytes)?;
    }
    Ok(())
}

fn metric_name(metric: &Counted) -> String {
    if metric.labels.is_empty() {
        return metric.name.clone();
    }
    let labels: Vec<String> = metric
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    format!("{}{{{}}}", metric.name, labels.join(","))
}
