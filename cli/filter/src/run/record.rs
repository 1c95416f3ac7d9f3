//! What happened, as it is printed.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use http::HeaderMap;
use http::header::HOST;
use serde::Serialize;
use weft_wasm_host::shared::metrics::{Metric, MetricKind};
use weft_wasm_host::{Labels, Level, Log, LogRecord, Reply};

use super::exchange::State;
use crate::Ended;

/// All of a run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) filter: String,
    pub(super) outcome: Outcome,
    /// What an error was, or why there is an answer.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) why: String,
    pub(super) steps: Vec<Entry>,
    pub(super) cpu_us: f64,
    pub(super) memory_bytes: usize,
    /// The request as it goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) request: Option<Shown>,
    /// The response as it goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) response: Option<Shown>,
    /// The filter's own answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reply: Option<Shown>,
    pub(super) metrics: Vec<Counted>,
    /// Services that had an answer and were not asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) unasked: Vec<String>,
}

impl Report {
    pub(super) const fn ended(&self) -> Ended {
        match self.outcome {
            Outcome::Passed => Ended::Well,
            Outcome::Replied => Ended::Answered,
            Outcome::Failed => Ended::Badly,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    /// Request and response have gone on.
    Passed,
    /// The filter answered.
    Replied,
    /// It could not decide, failed, or would hold the message for ever.
    Failed,
}

/// One call of the filter, and all that came of it.
#[derive(Debug, Default, Serialize)]
pub(super) struct Entry {
    /// What the filter was told.
    pub(super) event: String,
    /// When, by its own clock.
    pub(super) at_ms: f64,
    pub(super) cpu_us: f64,
    /// What is to become of the message.
    pub(super) step: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) changes: Vec<Change>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) asked: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) logs: Vec<Line>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) span: Vec<Mark>,
}

impl Entry {
    /// Nothing but the next call came of it, as of a clock that ticks.
    pub(super) fn is_quiet(&self) -> bool {
        self.step == "done"
            && self.changes.is_empty()
            && self.logs.is_empty()
            && self.span.is_empty()
            && self.asked.iter().all(|asked| asked.starts_with("timer "))
    }
}

/// A header that is another one than before; or where the request goes, or the status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Change {
    pub(super) of: &'static str,
    pub(super) name: String,
    pub(super) before: Vec<String>,
    pub(super) after: Vec<String>,
}

/// Something that was said of the request's span.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(super) enum Mark {
    Attribute { key: String, value: String },
    Event { name: String, attributes: Labels },
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Line {
    pub(super) level: &'static str,
    pub(super) message: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) labels: Labels,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.level, self.message)?;
        self.labels
            .iter()
            .try_for_each(|(key, value)| write!(f, " {key}={value}"))
    }
}

/// Lines that were not looked at yet.
#[derive(Debug, Default)]
pub(super) struct Lines(Mutex<Vec<Line>>);

impl Lines {
    pub(super) fn take(&self) -> Vec<Line> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Log for Lines {
    fn enabled(&self, _filter: &str, _level: Level) -> bool {
        true
    }

    fn log(&self, record: LogRecord<'_>) {
        let line = Line {
            level: match record.level {
                Level::Trace => "trace",
                Level::Debug => "debug",
                Level::Info => "info",
                Level::Warn => "warn",
                Level::Error => "error",
            },
            message: record.message.to_owned(),
            labels: record.labels.to_vec(),
        };
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line);
    }
}

/// A message as it is sent.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    /// Its first line.
    pub(super) head: String,
    pub(super) headers: Labels,
    pub(super) body: String,
    pub(super) body_bytes: usize,
}

impl Shown {
    pub(super) fn new(head: String, headers: &HeaderMap, body: &[u8]) -> Self {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.to_string(), text(value.as_bytes())))
            .collect();
        Self {
            head,
            headers,
            body: text(body),
            body_bytes: body.len(),
        }
    }

    pub(super) fn reply(reply: &Reply) -> Self {
        Self::new(reply.status.to_string(), &reply.headers, &reply.body)
    }
}

/// A metric that the filter defined.
#[derive(Debug, Serialize)]
pub(super) struct Counted {
    pub(super) name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) labels: Labels,
    pub(super) kind: &'static str,
    /// The sum, of a histogram.
    pub(super) value: f64,
}

impl Counted {
    pub(super) fn new(metric: &Metric) -> Self {
        let key = metric.key();
        Self {
            name: key.name.clone(),
            labels: key.labels.clone(),
            kind: match key.kind {
                MetricKind::Counter => "counter",
                MetricKind::Gauge => "gauge",
                MetricKind::Histogram => "histogram",
            },
            value: metric.value(),
        }
    }
}

/// Bytes for people.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What is another than before.
pub(super) fn changes(before: &State, after: &State) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut one = |of: &'static str, name: &str, old: &str, new: &str| {
        if old != new {
            changes.push(Change {
                of,
                name: name.to_owned(),
                before: vec![old.to_owned()],
                after: vec![new.to_owned()],
            });
        }
    };
    one("request", "method", &before.method, &after.method);
    one("request", "path", &before.path, &after.path);
    one("request", "authority", &before.authority, &after.authority);
    let nothing = HeaderMap::new();
    if let (Some((old, _)), Some((new, _))) = (&before.response, &after.response) {
        one("response", "status", old.as_str(), new.as_str());
    }
    headers(
        "request header",
        &before.request,
        &after.request,
        &mut changes,
    );
    let of_response = |state: &State| state.response.as_ref().map(|(_, headers)| headers.clone());
    headers(
        "response header",
        of_response(before).as_ref().unwrap_or(&nothing),
        of_response(after).as_ref().unwrap_or(&nothing),
        &mut changes,
    );
    changes
}

fn headers(of: &'static str, before: &HeaderMap, after: &HeaderMap, changes: &mut Vec<Change>) {
    let values = |map: &HeaderMap, name| -> Vec<String> {
        let all = map.get_all(name).iter();
        all.map(|value| text(value.as_bytes())).collect()
    };
    let added = after.keys().filter(|name| !before.contains_key(*name));
    // The host is told as where the request goes.
    for name in before.keys().chain(added).filter(|name| *name != HOST) {
        let (old, new) = (values(before, name), values(after, name));
        if old != new {
            changes.push(Change {
                of,
                name: name.to_string(),
                before: old,
                after: new,
            });
        }
    }
}
