//! A request and its response in a test.

use std::rc::Rc;

use super::driver::Core;
use super::line::{MessageView, State};
use super::message::{Pairs, TestRequest, TestResponse, first};
use super::proxy::Open;
use crate::Attributes;
use crate::filter::Filter;
use crate::sys::types::Reply;

/// A request and its response; the exchange is over when it is dropped.
#[must_use = "the exchange is over when it is dropped"]
pub struct TestExchange<F: Filter> {
    core: Rc<Core<F>>,
    ctx: u64,
}

impl<F: Filter> TestExchange<F> {
    pub(super) fn send(core: Rc<Core<F>>, request: TestRequest) -> Self {
        let ctx = core.begin(request);
        Self { core, ctx }
    }

    /// Sends the response to a request that has gone on.
    ///
    /// # Panics
    /// Where the request's head has not gone on, or there is a response already.
    pub fn respond(&self, response: TestResponse) {
        self.core.respond(self.ctx, response);
    }

    /// What has become of the request.
    #[must_use]
    pub fn request(&self) -> MessageView {
        self.read(|open| MessageView::of(&open.request))
    }

    /// What has become of the response.
    ///
    /// # Panics
    /// Where there was none.
    #[must_use]
    pub fn response(&self) -> MessageView {
        self.read(|open| MessageView::of(open.response.as_ref().expect("there is a response")))
    }

    /// The response's status as it is now.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.read(|open| open.status)
    }

    /// Where the request goes, and what else is known of it.
    #[must_use]
    pub fn attributes(&self) -> Attributes {
        self.read(|open| open.attributes.clone())
    }

    /// The filter's own answer, to request or response.
    #[must_use]
    pub fn reply(&self) -> Option<TestReply> {
        self.read(|open| {
            let response = open.response.as_ref().map(|line| &line.state);
            match (&open.request.state, response) {
                (State::Replied(reply), _) | (_, Some(State::Replied(reply))) => {
                    Some(TestReply::of(reply))
                }
                _ => None,
            }
        })
    }

    /// Why the filter could not decide, about request or response.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.read(|open| {
            let response = open.response.as_ref().map(|line| &line.state);
            match (&open.request.state, response) {
                (State::Failed(why), _) | (_, Some(State::Failed(why))) => Some(why.clone()),
                _ => None,
            }
        })
    }

    /// An attribute of the span.
    #[must_use]
    pub fn span_attribute(&self, key: &str) -> Option<String> {
        self.read(|open| {
            let found = open.span.iter().find(|(name, _)| name == key);
            found.map(|(_, value)| value.clone())
        })
    }

    /// Names of the span's events, in order.
    #[must_use]
    pub fn span_events(&self) -> Vec<String> {
        self.read(|open| {
            open.span_events
                .iter()
                .map(|(name, _)| name.clone())
                .collect()
        })
    }

    fn read<T>(&self, read: impl FnOnce(&Open) -> T) -> T {
        let open = self.core.proxy().open.borrow();
        read(open.get(&self.ctx).expect("the exchange is open"))
    }
}

impl<F: Filter> Drop for TestExchange<F> {
    fn drop(&mut self) {
        self.core.end(self.ctx);
    }
}

/// An answer of the filter's own.
#[derive(Debug, Clone, PartialEq)]
pub struct TestReply {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: Vec<u8>,
    /// Why, for flows and spans.
    pub reason: String,
    headers: Pairs,
}

impl TestReply {
    fn of(reply: &Reply) -> Self {
        Self {
            status: reply.status,
            body: reply.body.clone(),
            reason: reply.reason.clone(),
            headers: reply
                .headers
                .iter()
                .map(|header| (header.name.clone(), header.value.clone()))
                .collect(),
        }
    }

    /// The first value of a header, as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        first(&self.headers, name)
    }

    /// Its body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
