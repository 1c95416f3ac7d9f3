//! The loop: feeds messages to the filter, and what is due.

use std::rc::Rc;
use std::time::Duration;

use super::line::{Line, Part, State};
use super::message::{TestRequest, TestResponse};
use super::proxy::{Open, Proxy};
use super::store::Shared;
use crate::filter::Filter;
use crate::runtime::{Runtime, Side};
use crate::sys::host;
use crate::sys::types::{Event, Interests, Step};

/// Events with no time passing, after which a test hangs.
const ENDLESS: usize = 100_000;

pub(super) struct Core<F: Filter> {
    runtime: Runtime<F>,
    proxy: Rc<Proxy>,
    interests: Interests,
}

impl<F: Filter> Core<F> {
    pub(super) fn new(json: &[u8], shared: Rc<Shared>) -> Result<Rc<Self>, String> {
        let mut core = Self {
            runtime: Runtime::new(),
            proxy: Rc::new(Proxy::new(shared)),
            interests: Interests::empty(),
        };
        {
            let _entered = host::enter(core.proxy.clone());
            core.proxy.begin_call();
            core.interests = core.runtime.configure(json)?;
        }
        core.settle();
        Ok(Rc::new(core))
    }

    pub(super) fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    pub(super) fn begin(&self, request: TestRequest) -> u64 {
        let ctx = self.proxy.next_id();
        let line = Line::new(request.message);
        let end = line.is_over();
        let open = Open {
            attributes: request.attributes,
            request: line,
            response: None,
            status: None,
            span: Vec::new(),
            span_events: Vec::new(),
            written: 0,
        };
        self.proxy.open.borrow_mut().insert(ctx, open);
        self.head(ctx, Side::Request, Event::RequestHeaders(end));
        ctx
    }

    pub(super) fn respond(&self, ctx: u64, response: TestResponse) {
        let line = Line::new(response.message);
        let end = line.is_over();
        {
            let mut open = self.proxy.open.borrow_mut();
            let open = open.get_mut(&ctx).expect("the exchange is open");
            assert!(open.request.head_sent, "the request has not been sent on");
            assert!(open.response.is_none(), "there is a response already");
            open.response = Some(line);
            open.status = Some(response.status);
        }
        self.head(ctx, Side::Response, Event::ResponseHeaders(end));
    }

    fn head(&self, ctx: u64, side: Side, event: Event) {
        let wanted = match side {
            Side::Request => Interests::REQUEST_HEADERS,
            Side::Response => Interests::RESPONSE_HEADERS,
        };
        if self.interests.contains(wanted) {
            self.deliver(ctx, side, event);
        } else {
            self.with_line(ctx, side, Line::pass);
        }
        self.settle();
    }

    pub(super) fn end(&self, ctx: u64) {
        {
            let _entered = host::enter(self.proxy.clone());
            self.proxy.begin_call();
            self.runtime.drop_context(ctx);
        }
        self.proxy.forget(ctx);
        self.settle();
    }

    pub(super) fn advance(&self, duration: Duration) {
        let shared = self.proxy.shared();
        let until = shared.now() + duration;
        while let Some(at) = self.proxy.next_due().filter(|at| *at <= until) {
            shared.set_now(at.max(shared.now()));
            self.settle();
        }
        shared.set_now(until);
        self.settle();
    }

    /// Goes on until nothing is due.
    fn settle(&self) {
        for _ in 0..ENDLESS {
            if let Some((ctx, side, event)) = self.proxy.take_due() {
                self.deliver(ctx, side, event);
            } else if let Some((ctx, side, event)) = self.next_part() {
                self.deliver(ctx, side, event);
            } else {
                return;
            }
        }
        panic!("the filter does not come to rest: it sets timers of no duration over and over");
    }

    fn next_part(&self) -> Option<(u64, Side, Event)> {
        let mut open = self.proxy.open.borrow_mut();
        for (ctx, open) in open.iter_mut() {
            for side in [Side::Request, Side::Response] {
                let Some(line) = open.line(side) else {
                    continue;
                };
                if line.state == State::Feeding && !self.wants_body(side) {
                    line.pass();
                    continue;
                }
                if let Some(part) = line.feed() {
                    return Some((*ctx, side, part_event(side, part)));
                }
            }
        }
        None
    }

    fn wants_body(&self, side: Side) -> bool {
        self.interests.contains(match side {
            Side::Request => Interests::REQUEST_BODY,
            Side::Response => Interests::RESPONSE_BODY,
        })
    }

    fn deliver(&self, ctx: u64, side: Side, event: Event) {
        self.proxy.set_current(Some((ctx, side)));
        let step = {
            let _entered = host::enter(self.proxy.clone());
            self.proxy.begin_call();
            self.runtime.on_event(ctx, event)
        };
        self.proxy.set_current(None);
        self.apply(ctx, side, step);
    }

    fn apply(&self, ctx: u64, side: Side, step: Step) {
        let too_large = match side {
            Side::Request => 413,
            Side::Response => 502,
        };
        self.with_line(ctx, side, |line| line.apply(step, too_large));
    }

    fn with_line(&self, ctx: u64, side: Side, change: impl FnOnce(&mut Line)) {
        let mut open = self.proxy.open.borrow_mut();
        if let Some(line) = open.get_mut(&ctx).and_then(|open| open.line(side)) {
            change(line);
        }
    }
}

fn part_event(side: Side, part: Part) -> Event {
    match (side, part) {
        (Side::Request, Part::Chunk(chunk)) => Event::RequestBody(chunk),
        (Side::Request, Part::Trailers) => Event::RequestTrailers,
        (Side::Response, Part::Chunk(chunk)) => Event::ResponseBody(chunk),
        (Side::Response, Part::Trailers) => Event::ResponseTrailers,
    }
}

impl<F: Filter> Drop for Core<F> {
    fn drop(&mut self) {
        // What the filter does when it is dropped still has its host.
        let _entered = host::enter(self.proxy.clone());
        self.runtime = Runtime::new();
    }
}
