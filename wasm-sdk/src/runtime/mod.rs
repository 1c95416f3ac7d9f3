//! The executor inside of a filter: events in, steps out. A task is one direction of an exchange;
//! what it waits for comes as a later event, so nothing here ever waits.

mod exchange;
mod message;
mod task;
mod wait;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

pub(crate) use exchange::{Answer, Exchange, Side};
pub(crate) use message::{Next, Reached};
pub(crate) use wait::Slot;

use crate::filter::{Filter, Flow};
use crate::sys::types::{Event, Manifest, Step};
use crate::{Error, Interests, Plugin, Request, Response};
use task::Task;

/// Context of the instance itself.
const INSTANCE: u64 = 0;

/// One instance of a filter, with the exchanges that are under way in it.
pub struct Runtime<F: Filter> {
    filter: RefCell<Option<Rc<F>>>,
    /// What the filter wants to see as it is configured.
    interests: Cell<Interests>,
    exchanges: RefCell<Exchanges>,
    /// One that is over, for the next one.
    spare: Cell<Option<Rc<Exchange>>>,
    instance: Rc<Exchange>,
}

type Exchanges = HashMap<u64, Rc<Exchange>, BuildHasherDefault<ContextHasher>>;

/// The host gives out contexts; nobody else can choose them, so that spreading them is enough.
#[derive(Default)]
struct ContextHasher(u64);

impl Hasher for ContextHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 32;
    }
}

impl<F: Filter> Default for Runtime<F> {
    fn default() -> Self {
        Self::new()
    }
}

impl<F: Filter> Runtime<F> {
    /// An instance that has not been configured.
    #[must_use]
    pub fn new() -> Self {
        Self {
            filter: RefCell::new(None),
            interests: Cell::new(Interests::empty()),
            exchanges: RefCell::default(),
            spare: Cell::default(),
            instance: Rc::new(Exchange::new(INSTANCE)),
        }
    }

    /// What the filter says of itself.
    #[must_use]
    pub fn describe() -> Manifest {
        let schema = schemars::schema_for!(F::Config);
        Manifest {
            name: F::NAME.to_owned(),
            version: F::VERSION.to_owned(),
            sdk: concat!("weft-sdk ", env!("CARGO_PKG_VERSION")).to_owned(),
            interests: with_ends(F::INTERESTS),
            config_schema: serde_json::to_string(&schema).unwrap_or_default(),
        }
    }

    /// Reads the configuration and makes the filter of it. Returns what it wants to see so.
    ///
    /// # Errors
    /// A text for the one who wrote the configuration, which begins with the path of the field.
    pub fn configure(&self, json: &[u8]) -> Result<Interests, String> {
        let json = if json.trim_ascii().is_empty() {
            b"{}"
        } else {
            json
        };
        let mut reader = serde_json::Deserializer::from_slice(json);
        let config: F::Config =
            serde_path_to_error::deserialize(&mut reader).map_err(|err| field_error(&err))?;
        reader.end().map_err(|err| err.to_string())?;
        let plugin = Plugin::new(self.instance.clone());
        let filter = Rc::new(F::new(config, &plugin).map_err(|err| err.to_string())?);
        let interests = with_ends(filter.interests() & F::INTERESTS);
        self.interests.set(interests);
        self.filter.replace(Some(filter.clone()));
        let background = async move {
            filter.background(plugin).await?;
            Ok(Flow::Continue)
        };
        self.instance.begin(
            Side::Request,
            Task::new(INSTANCE, Side::Request, background),
            false,
        );
        if let Step::Fail(reason) = self.instance.drive(Side::Request) {
            return Err(reason);
        }
        self.nudge();
        Ok(interests)
    }

    /// One event.
    pub fn on_event(&self, ctx: u64, event: Event) -> Step {
        if ctx == INSTANCE {
            self.on_instance_event(event);
            self.nudge();
            return Step::Pending;
        }
        let known = self.exchanges.borrow().get(&ctx).cloned();
        let is_new = known.is_none();
        let exchange = known.unwrap_or_else(|| self.new_exchange(ctx));
        let step = self.handle(&exchange, event);
        if matches!(step, Step::Pass) && self.is_over(&exchange) {
            // The host says no more of it.
            if !is_new {
                self.forget(ctx);
            }
            if exchange.is_idle() {
                self.spare.set(Some(exchange));
            }
        } else if is_new && !exchange.is_idle() {
            // Most requests are done with at their first event, and are never entered.
            self.exchanges.borrow_mut().insert(ctx, exchange);
        }
        self.nudge();
        step
    }

    fn new_exchange(&self, ctx: u64) -> Rc<Exchange> {
        let new = Exchange::new(ctx);
        if let Some(mut spare) = self.spare.take()
            && let Some(exchange) = Rc::get_mut(&mut spare)
        {
            *exchange = new;
            return spare;
        }
        Rc::new(new)
    }

    /// The exchange is over.
    pub fn drop_context(&self, ctx: u64) {
        self.forget(ctx);
        self.nudge();
    }

    fn forget(&self, ctx: u64) {
        let exchange = self.exchanges.borrow_mut().remove(&ctx);
        if let Some(exchange) = exchange {
            exchange.end();
        }
    }

    /// Whether both messages have passed, as far as the filter wants to see them, and nothing is
    /// waited for.
    fn is_over(&self, exchange: &Exchange) -> bool {
        let sides = [
            (Side::Request, Interests::OF_REQUEST),
            (Side::Response, Interests::OF_RESPONSE),
        ];
        let interests = self.interests.get();
        let passed = sides
            .iter()
            .all(|(side, all)| !interests.intersects(*all) || exchange.has_passed(*side));
        passed && exchange.waits_for_nothing()
    }

    fn handle(&self, exchange: &Rc<Exchange>, event: Event) -> Step {
        match event {
            Event::RequestHeaders(end) => self.begin(exchange, Side::Request, end),
            Event::ResponseHeaders(end) => self.begin(exchange, Side::Response, end),
            Event::RequestBody(chunk) => exchange.arrived(Side::Request, Reached::Part(chunk)),
            Event::ResponseBody(chunk) => exchange.arrived(Side::Response, Reached::Part(chunk)),
            Event::RequestTrailers => exchange.arrived(Side::Request, Reached::Trailers),
            Event::ResponseTrailers => exchange.arrived(Side::Response, Reached::Trailers),
            Event::FetchDone(fetched) => exchange
                .fetched(fetched)
                .map_or(Step::Pending, |side| exchange.drive(side)),
            Event::Timer(id) => exchange
                .timer(id)
                .map_or(Step::Pending, |side| exchange.drive(side)),
        }
    }

    fn on_instance_event(&self, event: Event) {
        let side = match event {
            Event::Timer(id) => self.instance.timer(id),
            Event::FetchDone(fetched) => self.instance.fetched(fetched),
            _ => None,
        };
        if side.is_some()
            && let Step::Fail(reason) = self.instance.drive(Side::Request)
        {
            crate::Log::new(INSTANCE).error("the background task ended", &[("error", &reason)]);
        }
    }

    fn begin(&self, exchange: &Rc<Exchange>, side: Side, end: bool) -> Step {
        let Some(filter) = self.filter.borrow().clone() else {
            return Step::Fail("the filter is not configured".to_owned());
        };
        let ctx = exchange.ctx();
        let shared = exchange.clone();
        let task = match side {
            Side::Request => Task::new(ctx, side, filter.on_request(Request::new(shared))),
            Side::Response => Task::new(ctx, side, filter.on_response(Response::new(shared))),
        };
        exchange.begin(side, task, self.reads_body(side));
        exchange.arrived(side, Reached::Head { end })
    }

    /// Whether the body of this message comes at all.
    fn reads_body(&self, side: Side) -> bool {
        self.interests.get().contains(match side {
            Side::Request => Interests::REQUEST_BODY,
            Side::Response => Interests::RESPONSE_BODY,
        })
    }

    /// Tasks that were woken by another one's progress have no event of their own to go on with: a
    /// timer that has run out already is theirs. Where there are too many at once, the others wait
    /// for the next event of any exchange, as those timers are.
    fn nudge(&self) {
        let woken = task::take_woken();
        if woken.is_empty() {
            return;
        }
        let mut refused = Vec::new();
        for flag in woken {
            let (ctx, side) = flag.of();
            let exchange = if ctx == INSTANCE {
                Some(self.instance.clone())
            } else {
                self.exchanges.borrow().get(&ctx).cloned()
            };
            if exchange.is_some_and(|exchange| !exchange.nudge(side)) {
                refused.push(flag);
            }
        }
        task::wake_later(refused);
    }
}

impl<F: Filter> Drop for Runtime<F> {
    /// A task owns its exchange, and the exchange its tasks.
    fn drop(&mut self) {
        let exchanges = std::mem::take(&mut *self.exchanges.borrow_mut());
        for exchange in exchanges.into_values() {
            exchange.end();
        }
        self.instance.end();
    }
}

/// Trailers end a body, so that who wants to see a body wants them too.
fn with_ends(mut interests: Interests) -> Interests {
    for (body, trailers) in [
        (Interests::REQUEST_BODY, Interests::REQUEST_TRAILERS),
        (Interests::RESPONSE_BODY, Interests::RESPONSE_TRAILERS),
    ] {
        if interests.intersects(body | trailers) {
            interests |= body | trailers;
        }
    }
    interests
}

fn field_error(err: &serde_path_to_error::Error<serde_json::Error>) -> String {
    match err.path().to_string().as_str() {
        "." | "" => err.inner().to_string(),
        path => format!("{path}: {}", err.inner()),
    }
}

/// What becomes of a task's result.
fn outcome(result: Result<Flow, Error>) -> Result<Option<crate::Reply>, String> {
    match result {
        Ok(Flow::Continue) => Ok(None),
        Ok(Flow::Reply(reply)) => Ok(Some(reply)),
        Err(err) => Err(err.to_string()),
    }
}
