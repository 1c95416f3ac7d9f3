//! Spans: for each request a server span and, when it was forwarded, a client
//! span, exported in batches.
//!
//! Built from records and exported by a task of the control runtime. Nothing
//! here ever runs on a worker: an exporter that speaks HTTP on the runtime
//! that waits for it would wait for ever.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::uri::PathAndQuery;
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{Array, InstrumentationScope, KeyValue, StringValue, Value};
use opentelemetry_otlp::{Compression, ExporterBuildError, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter, SpanLinks};
use tokio::sync::mpsc;
use weft_core::model::NumericIdentity;

use super::exchange::{End, Event, Exchange};
use super::metrics::Metrics;
use super::{filters, record};
use crate::accept::worker::Shared;
use crate::http::strict;
use crate::identity;
use crate::pipeline::headers::authority;
use crate::pipeline::trace::{TRACESTATE, Trace};

/// Spans that wait for the exporter; more are dropped and counted.
const QUEUE: usize = 8192;

/// Spans of one export, and the longest wait for them to gather.
const BATCH: usize = 512;
const GATHER: Duration = Duration::from_millis(200);

/// Where spans go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Otlp {
    /// Address of the collector's gRPC port, `http://host:4317`.
    pub endpoint: String,
    /// Compress what is sent.
    pub gzip: bool,
}

/// Makes spans of records.
#[derive(Debug)]
pub struct Spans {
    queue: Queue<SpanData>,
    shared: Arc<Shared>,
    scope: InstrumentationScope,
}

/// The way to the exporter; what it has no room for is counted.
#[derive(Debug)]
struct Queue<T> {
    sender: mpsc::Sender<T>,
    metrics: Metrics,
}

impl<T> Queue<T> {
    fn push(&self, item: T) {
        if self.sender.try_send(item).is_err() {
            self.metrics.lost_spans.inc();
        }
    }
}

/// Exports what a [`Spans`] made.
#[derive(Debug)]
pub struct Export {
    metrics: Metrics,
    queue: mpsc::Receiver<SpanData>,
    exporter: opentelemetry_otlp::SpanExporter,
}

/// Both ends of the way out.
///
/// # Errors
/// An address that is none.
pub fn spans(
    otlp: &Otlp,
    node: Option<&str>,
    shared: Arc<Shared>,
    metrics: Metrics,
) -> Result<(Spans, Export), ExporterBuildError> {
    let mut builder = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(&otlp.endpoint);
    if otlp.gzip {
        builder = builder.with_compression(Compression::Gzip);
    }
    let mut exporter = builder.build()?;
    exporter.set_resource(&resource(node));
    let (sender, queue) = mpsc::channel(QUEUE);
    let spans = Spans {
        queue: Queue {
            sender,
            metrics: metrics.clone(),
        },
        shared,
        scope: InstrumentationScope::builder("weft-proxy")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
    };
    let export = Export {
        metrics,
        queue,
        exporter,
    };
    Ok((spans, export))
}

fn resource(node: Option<&str>) -> Resource {
    let node = node.map(|name| KeyValue::new("k8s.node.name", name.to_owned()));
    let builder = Resource::builder().with_attributes(node);
    // An operator's OTEL_SERVICE_NAME wins.
    if std::env::var_os("OTEL_SERVICE_NAME").is_some() {
        builder.build()
    } else {
        builder.with_service_name("weft-proxy").build()
    }
}

impl Export {
    /// Exports batches until the [`Spans`] is dropped and its queue empty.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.queue.recv_many(&mut batch, BATCH).await > 0 {
            let gather = async {
                while batch.len() < BATCH {
                    let room = BATCH - batch.len();
                    if self.queue.recv_many(&mut batch, room).await == 0 {
                        break;
                    }
                }
            };
            // Whatever has gathered by then goes.
            let _elapsed = tokio::time::timeout(GATHER, gather).await;
            let count = batch.len();
            if let Err(error) = self.exporter.export(std::mem::take(&mut batch)).await {
                self.metrics.lost_spans.inc_by(count as u64);
                tracing::warn!(%error, count, "spans were not exported");
            }
        }
    }
}

impl Spans {
    /// Makes the spans of an exchange that is over.
    pub fn observe(&self, event: &Event) {
        let Event::Ended { exchange, .. } = event else {
            return;
        };
        // A head that could not be read is a flow with its reason; a span
        // would have neither method nor target.
        let readable = strict::refusal(&exchange.head).is_none();
        if let (Some(trace), Some(end)) = (&exchange.trace, exchange.end.get())
            && trace.sampled()
            && readable
        {
            self.emit(exchange, trace, *end);
        }
    }

    fn emit(&self, exchange: &Exchange, trace: &Trace, end: End) {
        let attributes = self.attributes(exchange, end);
        let forwarded = exchange.is_forwarded();
        if forwarded {
            let client = self.span(exchange, trace, end, SpanKind::Client, attributes.clone());
            self.queue.push(client);
        }
        let server = self.span(exchange, trace, end, SpanKind::Server, attributes);
        self.queue.push(server);
    }

    fn span(
        &self,
        exchange: &Exchange,
        trace: &Trace,
        end: End,
        kind: SpanKind,
        attributes: Vec<KeyValue>,
    ) -> SpanData {
        let events = match kind {
            SpanKind::Server => filters::events(exchange),
            _ => SpanEvents::default(),
        };
        let server = SpanId::from_bytes(trace.server_span);
        let (id, parent, remote) = if kind == SpanKind::Client {
            (SpanId::from_bytes(trace.client_span), server, false)
        } else {
            let parent = trace.parent.map_or(SpanId::INVALID, SpanId::from_bytes);
            (server, parent, trace.parent.is_some())
        };
        let state = exchange
            .head
            .headers
            .get(TRACESTATE)
            .and_then(|state| state.to_str().ok())
            .and_then(|state| state.parse::<TraceState>().ok())
            .unwrap_or_default();
        SpanData {
            span_context: SpanContext::new(
                TraceId::from_bytes(trace.trace_id),
                id,
                TraceFlags::new(trace.flags),
                remote,
                state,
            ),
            parent_span_id: parent,
            parent_span_is_remote: remote,
            status: status(exchange, end, &kind),
            span_kind: kind,
            name: Cow::Owned(exchange.head.method.as_str().to_owned()),
            start_time: exchange.time,
            end_time: end_time(exchange.time, end.duration),
            attributes,
            dropped_attributes_count: 0,
            events,
            links: SpanLinks::default(),
            instrumentation_scope: self.scope.clone(),
        }
    }

    fn attributes(&self, exchange: &Exchange, end: End) -> Vec<KeyValue> {
        let head = &exchange.head;
        let mut attributes = vec![
            KeyValue::new("x-request-id", exchange.request_id.as_str().to_owned()),
            KeyValue::new("http.request.method", head.method.as_str().to_owned()),
            KeyValue::new("url.full", record::url(exchange)),
            KeyValue::new("url.scheme", "http"),
            KeyValue::new("url.path", head.uri.path().to_owned()),
            KeyValue::new("network.protocol.name", "http"),
            KeyValue::new(
                "network.protocol.version",
                record::protocol(head.version).trim_start_matches("HTTP/"),
            ),
            KeyValue::new("server.address", authority(head).to_owned()),
            KeyValue::new(
                "http.response.body.size",
                i64::try_from(end.response_bytes).unwrap_or(i64::MAX),
            ),
            KeyValue::new(
                "weft.verdict",
                if exchange.is_forwarded() {
                    "FORWARDED"
                } else {
                    "DROPPED"
                },
            ),
        ];
        let query = head.uri.path_and_query().and_then(PathAndQuery::query);
        attributes.extend(query.map(|query| KeyValue::new("url.query", query.to_owned())));
        if let Some(response) = exchange.response.get() {
            let status = i64::from(response.status.as_u16());
            attributes.push(KeyValue::new("http.response.status_code", status));
        }
        let failure = exchange.refused.or(end.failure);
        attributes.extend(failure.map(|failure| KeyValue::new("error.type", failure.to_string())));
        decided_by(exchange, &mut attributes);
        filters::attributes(exchange, &mut attributes);
        self.end(&mut attributes, "source", &exchange.ends.source);
        self.end(&mut attributes, "destination", &exchange.ends.destination);
        attributes
    }

    fn end(&self, attributes: &mut Vec<KeyValue>, name: &str, end: &identity::End) {
        let key = |what: &str| format!("weft.{name}.{what}");
        let number = i64::from(end.identity.0);
        attributes.push(KeyValue::new(key("identity"), number));
        attributes.push(KeyValue::new(key("labels"), self.labels(end.identity)));
        attributes.push(KeyValue::new(key("address"), end.address.to_string()));
    }

    fn labels(&self, identity: NumericIdentity) -> Value {
        let config = self.shared.config.load();
        let labels = match config.snapshot.identity_labels(identity) {
            Some(labels) => labels.to_strings(),
            None => identity
                .reserved_name()
                .map(|name| format!("reserved:{name}"))
                .into_iter()
                .collect(),
        };
        let labels = labels.into_iter().map(StringValue::from).collect();
        Value::Array(Array::String(labels))
    }
}

/// What decided: the rule of each direction that had one, the rule that was
/// decisive, and for a refusal without a rule where and why.
fn decided_by(exchange: &Exchange, attributes: &mut Vec<KeyValue>) {
    let mut decisive = None;
    for (direction, decision) in exchange.decisions.iter() {
        if let Some(rule) = &decision.rule {
            let key = format!("weft.rule.{}", direction.as_str());
            attributes.push(KeyValue::new(key, rule.to_string()));
        }
        if !decision.allowed {
            attributes.push(KeyValue::new("weft.denied", direction.as_str()));
            if decision.rule.is_none() {
                attributes.push(KeyValue::new("weft.reason", "no rule matched"));
            }
        }
        // What one direction allowed does not explain why the other denied.
        if decision.rule.is_some() || !decision.allowed {
            decisive = decision.rule.as_ref();
        }
    }
    attributes.extend(decisive.map(|rule| KeyValue::new("weft.rule", rule.to_string())));
    let refused = exchange.refused.map(|failure| failure.to_string());
    attributes.extend(refused.map(|reason| KeyValue::new("weft.reason", reason)));
}

/// Errors as the HTTP conventions have them: a 5xx always, a 4xx only for the
/// one who asked.
fn status(exchange: &Exchange, end: End, kind: &SpanKind) -> Status {
    if let Some(failure) = exchange.refused.or(end.failure) {
        return Status::error(failure.to_string());
    }
    let code = exchange
        .response
        .get()
        .map_or(0, |response| response.status.as_u16());
    let error = code >= 500 || (code >= 400 && *kind == SpanKind::Client);
    if error {
        Status::error("")
    } else {
        Status::Unset
    }
}

fn end_time(start: SystemTime, duration: Duration) -> SystemTime {
    start.checked_add(duration).unwrap_or(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_counted() {
        let metrics = Metrics::new();
        let (sender, mut receiver) = mpsc::channel(2);
        let queue = Queue {
            sender,
            metrics: metrics.clone(),
        };
        for span in 0..5 {
            queue.push(span);
        }
        assert_eq!(metrics.lost_spans.get(), 3);
        assert_eq!(receiver.try_recv(), Ok(0));
        queue.push(5);
        assert_eq!(metrics.lost_spans.get(), 3);
    }
}
