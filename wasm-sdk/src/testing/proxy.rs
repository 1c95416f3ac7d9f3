//! The functions of the host, for one instance.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use super::limits;
use super::line::{Line, State};
use super::message::{Pairs, TestFetch};
use super::sorted;
use super::store::Shared;
use crate::headers::{MAX_VALUE, is_name, is_reserved, is_value};
use crate::runtime::Side;
use crate::sys::host::{Host, nothing_known};
use crate::sys::types::{
    Attributes, Event, FetchError, FetchRequest, Fetched, Fields, Header, KvEntry, KvError, Label,
    Level, MetricKind,
};

/// A line of the log.
#[derive(Debug, Clone, PartialEq)]
pub struct LogLine {
    /// How urgent it is.
    pub level: Level,
    /// Its text.
    pub message: String,
    /// Its fields, in the order of their keys.
    pub fields: Vec<(String, String)>,
}

impl LogLine {
    /// The value of a field.
    #[must_use]
    pub fn field(&self, key: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }
}

/// An exchange, as the proxy keeps it.
pub(super) struct Open {
    pub(super) attributes: Attributes,
    pub(super) request: Line,
    pub(super) response: Option<Line>,
    pub(super) status: Option<u16>,
    pub(super) span: Vec<(String, String)>,
    pub(super) span_events: Vec<(String, Vec<(String, String)>)>,
    /// Bytes of headers that the filter wrote.
    pub(super) written: usize,
}

impl Open {
    pub(super) fn line(&mut self, side: Side) -> Option<&mut Line> {
        match side {
            Side::Request => Some(&mut self.request),
            Side::Response => self.response.as_mut(),
        }
    }
}

/// Something that will happen.
struct Due {
    id: u64,
    ctx: u64,
    side: Side,
    at: Duration,
    event: Event,
}

struct Metric {
    kind: MetricKind,
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

pub(super) struct Proxy {
    shared: Rc<Shared>,
    pub(super) open: RefCell<BTreeMap<u64, Open>>,
    next_id: Cell<u64>,
    due: RefCell<Vec<Due>>,
    metrics: RefCell<Vec<Metric>>,
    logs: RefCell<Vec<LogLine>>,
    /// Whose event the filter is working on.
    current: Cell<Option<(u64, Side)>>,
    call: RefCell<Call>,
}

/// What the running call did so far.
#[derive(Default)]
struct Call {
    asked: usize,
    logged: usize,
    marked: usize,
}

impl Proxy {
    pub(super) fn new(shared: Rc<Shared>) -> Self {
        Self {
            shared,
            open: RefCell::default(),
            next_id: Cell::new(1),
            due: RefCell::default(),
            metrics: RefCell::default(),
            logs: RefCell::default(),
            current: Cell::new(None),
            call: RefCell::default(),
        }
    }

    /// A call of the filter begins.
    pub(super) fn begin_call(&self) {
        self.call.take();
    }

    pub(super) fn shared(&self) -> Rc<Shared> {
        self.shared.clone()
    }

    pub(super) fn next_id(&self) -> u64 {
        self.next_id.replace(self.next_id.get() + 1)
    }

    pub(super) fn set_current(&self, current: Option<(u64, Side)>) {
        self.current.set(current);
    }

    /// When the next thing happens.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.due.borrow().iter().map(|due| due.at).min()
    }

    /// What is due first, if it is by now.
    pub(super) fn take_due(&self) -> Option<(u64, Side, Event)> {
        let now = self.shared.now();
        let mut due = self.due.borrow_mut();
        let (at, _) = due
            .iter()
            .enumerate()
            .filter(|(_, due)| due.at <= now)
            .min_by_key(|(_, due)| (due.at, due.id))?;
        let due = due.remove(at);
        Some((due.ctx, due.side, due.event))
    }

    pub(super) fn forget(&self, ctx: u64) {
        self.due.borrow_mut().retain(|due| due.ctx != ctx);
        self.open.borrow_mut().remove(&ctx);
    }

    pub(super) fn metric_value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let mut labels: Vec<(String, String)> = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        labels.sort();
        let metrics = self.metrics.borrow();
        let found = metrics
            .iter()
            .find(|metric| metric.name == name && metric.labels == labels);
        found.map_or(0.0, |metric| metric.value)
    }

    pub(super) fn logs(&self) -> Vec<LogLine> {
        self.logs.borrow().clone()
    }

    /// The message that something which is asked for now is about.
    fn side_of(&self, ctx: u64) -> Side {
        if let Some((current, side)) = self.current.get()
            && current == ctx
        {
            return side;
        }
        let mut open = self.open.borrow_mut();
        let response_alone = open
            .get_mut(&ctx)
            .is_some_and(|open| open.request.state != State::Held && open.response.is_some());
        if response_alone {
            Side::Response
        } else {
            Side::Request
        }
    }

    fn fields<T>(&self, ctx: u64, of: Fields, read: impl FnOnce(&mut Pairs) -> T) -> Option<T> {
        let mut open = self.open.borrow_mut();
        let open = open.get_mut(&ctx)?;
        let line = open.line(side(of))?;
        Some(read(if is_head(of) {
            &mut line.headers
        } else {
            &mut line.trailers
        }))
    }

    /// Whether a header may be changed still.
    fn may_change(&self, ctx: u64, of: Fields, name: &[u8]) -> bool {
        let mut open = self.open.borrow_mut();
        let line = open.get_mut(&ctx).and_then(|open| open.line(side(of)));
        is_name(name)
            && !is_reserved(of, name)
            && line.is_some_and(|line| !(is_head(of) && line.head_sent))
    }

    fn put(&self, ctx: u64, of: Fields, (name, value): (&[u8], &[u8]), replaces: bool) -> bool {
        let good = is_value(value) && value.len() <= MAX_VALUE;
        if !good || !self.may_change(ctx, of, name) {
            return false;
        }
        let written = self.open.borrow().get(&ctx).map_or(0, |open| open.written);
        let after = written + name.len() + value.len();
        let put = self.fields(ctx, of, |fields| {
            let replaced: &[u8] = if replaces { name } else { &[] };
            if after > limits::MAX_WRITTEN || !limits::has_room(fields, replaced) {
                return false;
            }
            if replaces {
                fields.retain(|(key, _)| key != name);
            }
            fields.push((name.to_vec(), value.to_vec()));
            true
        });
        let put = put == Some(true);
        if put && let Some(open) = self.open.borrow_mut().get_mut(&ctx) {
            open.written = after;
        }
        put
    }

    /// Whether the filter may wait for one more of these.
    fn may_wait(&self, ctx: u64, fetch: bool) -> bool {
        let mut call = self.call.borrow_mut();
        call.asked += 1;
        let due = self.due.borrow();
        let same = |due: &&Due| due.ctx == ctx && matches!(due.event, Event::FetchDone(_)) == fetch;
        call.asked <= limits::ASKED_PER_CALL
            && due.iter().filter(same).count() < limits::at_once(ctx)
    }

    /// Whether the filter may say something more about a span in this call.
    fn may_mark(&self) -> bool {
        let mut call = self.call.borrow_mut();
        call.marked += 1;
        call.marked <= limits::SAID_PER_CALL
    }

    fn schedule(&self, ctx: u64, at: Duration, event: impl FnOnce(u64) -> Event) -> u64 {
        let id = self.next_id();
        let side = self.side_of(ctx);
        self.due.borrow_mut().push(Due {
            id,
            ctx,
            side,
            at,
            event: event(id),
        });
        id
    }

    fn unschedule(&self, id: u64) {
        self.due.borrow_mut().retain(|due| due.id != id);
    }
}

const fn side(of: Fields) -> Side {
    match of {
        Fields::RequestHeaders | Fields::RequestTrailers => Side::Request,
        Fields::ResponseHeaders | Fields::ResponseTrailers => Side::Response,
    }
}

const fn is_head(of: Fields) -> bool {
    matches!(of, Fields::RequestHeaders | Fields::ResponseHeaders)
}

impl Host for Proxy {
    fn get_header(&self, ctx: u64, of: Fields, name: &[u8]) -> Option<Vec<u8>> {
        self.get_all(ctx, of, name).into_iter().next()
    }

    fn get_all(&self, ctx: u64, of: Fields, name: &[u8]) -> Vec<Vec<u8>> {
        self.fields(ctx, of, |fields| {
            let found = fields.iter().filter(|(key, _)| key == name);
            found.map(|(_, value)| value.clone()).collect()
        })
        .unwrap_or_default()
    }

    fn entries(&self, ctx: u64, of: Fields) -> Vec<Header> {
        self.fields(ctx, of, |fields| {
            let headers = fields.iter().map(|(name, value)| Header {
                name: name.clone(),
                value: value.clone(),
            });
            headers.collect()
        })
        .unwrap_or_default()
    }

    fn set_header(&self, ctx: u64, of: Fields, name: &[u8], value: &[u8]) -> bool {
        self.put(ctx, of, (name, value), true)
    }

    fn append_header(&self, ctx: u64, of: Fields, name: &[u8], value: &[u8]) -> bool {
        self.put(ctx, of, (name, value), false)
    }

    fn remove_header(&self, ctx: u64, of: Fields, name: &[u8]) -> bool {
        self.may_change(ctx, of, name)
            && self
                .fields(ctx, of, |fields| fields.retain(|(key, _)| key != name))
                .is_some()
    }

    fn set_target(&self, ctx: u64, part: &str, value: &str) -> bool {
        let mut open = self.open.borrow_mut();
        let Some(open) = open.get_mut(&ctx) else {
            return false;
        };
        let bad = value.is_empty() || value.bytes().any(|byte| !byte.is_ascii_graphic());
        if bad || open.request.head_sent {
            return false;
        }
        let target = match part {
            "path" if value.starts_with('/') => &mut open.attributes.path,
            "authority" => &mut open.attributes.authority,
            "method" => &mut open.attributes.method,
            _ => return false,
        };
        value.clone_into(target);
        true
    }

    fn get_status(&self, ctx: u64) -> Option<u16> {
        self.open.borrow().get(&ctx)?.status
    }

    fn set_status(&self, ctx: u64, status: u16) -> bool {
        let mut open = self.open.borrow_mut();
        let Some(open) = open.get_mut(&ctx) else {
            return false;
        };
        let may = (200..600).contains(&status)
            && open.response.as_ref().is_some_and(|line| !line.head_sent);
        if may {
            open.status = Some(status);
        }
        may
    }

    fn get_attributes(&self, ctx: u64) -> Attributes {
        let open = self.open.borrow();
        open.get(&ctx)
            .map_or_else(nothing_known, |open| open.attributes.clone())
    }

    fn start_fetch(&self, ctx: u64, request: &FetchRequest) -> Result<u64, FetchError> {
        limits::check_fetch(request)?;
        if !self.may_wait(ctx, true) {
            return Err(FetchError::Overloaded);
        }
        let fetch = TestFetch::of(request);
        let timeout = fetch.timeout;
        let answer = self.shared.fetch(fetch).ok_or(FetchError::NoEndpoint)?;
        let (after, result) = match answer.after {
            Some(after) if after <= timeout => (after, answer.result),
            _ => (timeout, Err(FetchError::Timeout)),
        };
        let at = self.shared.now() + after;
        Ok(self.schedule(ctx, at, |id| Event::FetchDone(Fetched { id, result })))
    }

    fn cancel_fetch(&self, _ctx: u64, id: u64) {
        self.unschedule(id);
    }

    fn kv_get(&self, key: &str) -> Option<KvEntry> {
        self.shared.get(key)
    }

    fn kv_set(&self, key: &str, value: &[u8], ttl_ms: Option<u64>) -> Result<u64, KvError> {
        self.shared.set(key, value, ttl_ms)
    }

    fn kv_cas(
        &self,
        key: &str,
        version: Option<u64>,
        value: &[u8],
        ttl_ms: Option<u64>,
    ) -> Result<u64, KvError> {
        self.shared.compare_and_set(key, version, value, ttl_ms)
    }

    fn kv_remove(&self, key: &str) {
        self.shared.remove(key);
    }

    fn kv_incr(&self, key: &str, delta: i64, ttl_ms: Option<u64>) -> Result<i64, KvError> {
        self.shared.increment(key, delta, ttl_ms)
    }

    fn metric(&self, kind: MetricKind, name: &str, labels: &[Label]) -> Result<u32, String> {
        limits::check_metric(name, labels, self.metrics.borrow().len())?;
        let labels = sorted(labels.iter().cloned());
        let mut metrics = self.metrics.borrow_mut();
        let found = metrics
            .iter()
            .position(|metric| metric.name == name && metric.labels == labels);
        let at = match found {
            Some(at) if metrics[at].kind != kind => {
                return Err("it is there already, of another kind".to_owned());
            }
            Some(at) => at,
            None => {
                metrics.push(Metric {
                    kind,
                    name: name.to_owned(),
                    labels,
                    value: 0.0,
                });
                metrics.len() - 1
            }
        };
        u32::try_from(at).map_err(|err| err.to_string())
    }

    fn metric_add(&self, id: u32, delta: f64) {
        if let Some(metric) = self.metrics.borrow_mut().get_mut(id as usize) {
            metric.value += delta;
        }
    }

    fn metric_record(&self, id: u32, value: f64) {
        if let Some(metric) = self.metrics.borrow_mut().get_mut(id as usize) {
            metric.value = value;
        }
    }

    fn span_attribute(&self, ctx: u64, key: &str, value: &str) {
        if self.may_mark()
            && let Some(open) = self.open.borrow_mut().get_mut(&ctx)
        {
            open.span.retain(|(name, _)| name != key);
            open.span.push((key.to_owned(), value.to_owned()));
        }
    }

    fn span_event(&self, ctx: u64, name: &str, attributes: &[Label]) {
        if self.may_mark()
            && let Some(open) = self.open.borrow_mut().get_mut(&ctx)
        {
            let attributes = sorted(attributes.iter().cloned());
            open.span_events.push((name.to_owned(), attributes));
        }
    }

    fn log(&self, _ctx: u64, level: Level, message: &str, labels: &[Label]) {
        let mut call = self.call.borrow_mut();
        call.logged += 1;
        if call.logged > limits::SAID_PER_CALL {
            return;
        }
        self.logs.borrow_mut().push(LogLine {
            level,
            message: message.to_owned(),
            fields: sorted(labels.iter().cloned()),
        });
    }

    fn set_timer(&self, ctx: u64, after_ms: u64) -> u64 {
        if !self.may_wait(ctx, false) {
            return 0;
        }
        let at = self.shared.now() + Duration::from_millis(after_ms);
        self.schedule(ctx, at, Event::Timer)
    }

    fn cancel_timer(&self, _ctx: u64, id: u64) {
        self.unschedule(id);
    }

    fn wall_clock(&self) -> u64 {
        u64::try_from(self.shared.wall_clock().as_nanos()).unwrap_or(u64::MAX)
    }

    fn monotonic_clock(&self) -> u64 {
        u64::try_from(self.shared.now().as_nanos()).unwrap_or(u64::MAX)
    }

    fn random(&self, count: u32) -> Vec<u8> {
        self.shared.random(count as usize)
    }
}
