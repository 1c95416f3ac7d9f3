//! What a component may ask of the host.

use std::time::Duration;

use http::StatusCode;

use super::bindings::weft::filter::{host, types as wit};
use super::convert;
use crate::exchange::Exchange;
use crate::headers::{self, Put};
use crate::instance::{State, Wanted};
use crate::log::one_line_of;
use crate::random;
use crate::types::{ContextId, Labels};

/// Attributes that one event of a span may have.
const ATTRIBUTES_PER_EVENT: usize = 16;
/// Longest name, key or value that a filter may give a span.
const MAX_MARK: usize = 1024;

impl wit::Host for State<()> {}

/// Where a function is in [`super::in_place`], that one is called.
impl host::Host for State<()> {
    fn get_header(&mut self, ctx: u64, of: wit::Fields, name: Vec<u8>) -> Option<Vec<u8>> {
        let fields = self.fields(ContextId(ctx), convert::fields(of))?;
        let value = headers::values(fields, &name).next()?;
        Some(value.as_bytes().to_vec())
    }

    fn get_all(&mut self, ctx: u64, of: wit::Fields, name: Vec<u8>) -> Vec<Vec<u8>> {
        let Some(fields) = self.fields(ContextId(ctx), convert::fields(of)) else {
            return Vec::new();
        };
        headers::values(fields, &name)
            .map(|value| value.as_bytes().to_vec())
            .collect()
    }

    fn entries(&mut self, ctx: u64, of: wit::Fields) -> Vec<wit::HeaderResult> {
        let Some(fields) = self.fields(ContextId(ctx), convert::fields(of)) else {
            return Vec::new();
        };
        fields
            .iter()
            .map(|(name, value)| wit::HeaderResult {
                name: name.as_str().as_bytes().to_vec(),
                value: value.as_bytes().to_vec(),
            })
            .collect()
    }

    fn set_header(&mut self, ctx: u64, of: wit::Fields, name: Vec<u8>, value: Vec<u8>) -> bool {
        let header = self.header(&name, &value);
        header
            .and_then(|header| {
                self.put_header(ContextId(ctx), convert::fields(of), header, Put::Replace)
            })
            .is_ok()
    }

    fn append_header(&mut self, ctx: u64, of: wit::Fields, name: Vec<u8>, value: Vec<u8>) -> bool {
        let header = self.header(&name, &value);
        header
            .and_then(|header| {
                self.put_header(ContextId(ctx), convert::fields(of), header, Put::Append)
            })
            .is_ok()
    }

    fn remove_header(&mut self, ctx: u64, of: wit::Fields, name: Vec<u8>) -> bool {
        self.drop_header(ContextId(ctx), convert::fields(of), &name)
            .is_ok()
    }

    fn set_target(&mut self, ctx: u64, part: String, value: String) -> bool {
        let Some(part) = convert::target(&part) else {
            return false;
        };
        self.exchange(ContextId(ctx))
            .is_some_and(|exchange| exchange.set_target(part, &value))
    }

    fn get_status(&mut self, ctx: u64) -> Option<u16> {
        let status = self.exchange(ContextId(ctx))?.status()?;
        Some(status.as_u16())
    }

    fn set_status(&mut self, ctx: u64, status: u16) -> bool {
        let Ok(status) = StatusCode::from_u16(status) else {
            return false;
        };
        (200..600).contains(&status.as_u16())
            && self
                .exchange(ContextId(ctx))
                .is_some_and(|exchange| exchange.set_status(status))
    }

    fn get_attributes(&mut self, ctx: u64) -> wit::Attributes {
        let exchange = self.exchange(ContextId(ctx));
        convert::attributes(exchange.map(|exchange| exchange as &dyn Exchange))
    }

    fn start_fetch(
        &mut self,
        ctx: u64,
        request: wit::FetchRequest,
    ) -> Result<u64, wit::FetchErrorResult> {
        convert::fetch_request(request)
            .and_then(|request| State::start_fetch(self, ContextId(ctx), request))
            .map_err(convert::fetch_error)
    }

    fn cancel_fetch(&mut self, ctx: u64, id: u64) {
        self.cancel(ContextId(ctx), id, Wanted::Fetch);
    }

    fn kv_get(&mut self, key: String) -> Option<wit::KvEntry> {
        let now = self.env.clock.monotonic();
        self.env.kv.get(&key, now).map(convert::kv_entry)
    }

    fn kv_set(
        &mut self,
        key: String,
        value: Vec<u8>,
        ttl_ms: Option<u64>,
    ) -> Result<u64, wit::KvError> {
        let (now, ttl) = (self.env.clock.monotonic(), ttl(ttl_ms));
        self.env
            .kv
            .set(&key, &value, ttl, now)
            .map_err(convert::kv_error)
    }

    fn kv_cas(
        &mut self,
        key: String,
        version: Option<u64>,
        value: Vec<u8>,
        ttl_ms: Option<u64>,
    ) -> Result<u64, wit::KvError> {
        let (now, ttl) = (self.env.clock.monotonic(), ttl(ttl_ms));
        self.env
            .kv
            .compare_and_swap(&key, version, &value, ttl, now)
            .map_err(convert::kv_error)
    }

    fn kv_remove(&mut self, key: String) {
        self.env.kv.remove(&key);
    }

    fn kv_incr(
        &mut self,
        key: String,
        delta: i64,
        ttl_ms: Option<u64>,
    ) -> Result<i64, wit::KvError> {
        let (now, ttl) = (self.env.clock.monotonic(), ttl(ttl_ms));
        self.env
            .kv
            .increment(&key, delta, ttl, now)
            .map_err(convert::kv_error)
    }

    fn metric(
        &mut self,
        kind: wit::MetricKind,
        name: String,
        labels: Vec<wit::Label>,
    ) -> Result<u32, String> {
        self.define_metric(convert::metric_kind(kind), &name, convert::labels(labels))
    }

    fn metric_add(&mut self, id: u32, delta: f64) {
        if let Some(metric) = self.metric_of(id) {
            metric.add(delta);
        }
    }

    fn metric_record(&mut self, id: u32, value: f64) {
        if let Some(metric) = self.metric_of(id) {
            metric.record(value);
        }
    }

    fn span_attribute(&mut self, ctx: u64, key: String, value: String) {
        if let Some(exchange) = self.mark(ContextId(ctx)) {
            exchange.span_attribute(&mark(&key), &mark(&value));
        }
    }

    fn span_event(&mut self, ctx: u64, name: String, attributes: Vec<wit::Label>) {
        if let Some(exchange) = self.mark(ContextId(ctx)) {
            let attributes: Labels = attributes
                .iter()
                .take(ATTRIBUTES_PER_EVENT)
                .map(|label| (mark(&label.key), mark(&label.value)))
                .collect();
            exchange.span_event(&mark(&name), &attributes);
        }
    }

    fn log(&mut self, ctx: u64, level: wit::Level, message: String, labels: Vec<wit::Label>) {
        let (level, labels) = (convert::level(level), convert::labels(labels));
        self.write_log(ContextId(ctx), level, &message, &labels);
    }

    fn set_timer(&mut self, ctx: u64, after_ms: u64) -> u64 {
        // 0 is no timer: one that never runs out.
        State::set_timer(self, ContextId(ctx), Duration::from_millis(after_ms)).unwrap_or_default()
    }

    fn cancel_timer(&mut self, ctx: u64, id: u64) {
        self.cancel(ContextId(ctx), id, Wanted::Timer);
    }

    fn wall_clock(&mut self) -> u64 {
        self.env.clock.wall()
    }

    fn monotonic_clock(&mut self) -> u64 {
        self.env.clock.monotonic()
    }

    fn random(&mut self, count: u32) -> Vec<u8> {
        random::bytes(count as usize)
    }
}

/// What a filter says of a span.
fn mark(text: &str) -> String {
    one_line_of(text, MAX_MARK)
}

fn ttl(ms: Option<u64>) -> Option<Duration> {
    ms.map(Duration::from_millis)
}
