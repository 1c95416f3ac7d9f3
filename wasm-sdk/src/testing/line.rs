//! One message on its way through the filter.

use std::collections::VecDeque;

use super::limits::check_reply;
use super::message::{Message, Pairs, first};
use crate::sys::types::{Chunk, Reply, Step};

/// Bytes that may be held, as in the proxy unless the filter's limits say otherwise.
pub(super) const MAX_HELD: usize = 1 << 20;

/// What the filter gets next.
pub(super) enum Part {
    Chunk(Chunk),
    Trailers,
}

/// How far a message has come.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum State {
    /// The filter decides.
    Held,
    /// The filter wants the next part.
    Feeding,
    /// It goes on with no further call.
    Passed,
    Replied(Reply),
    Failed(String),
}

pub(super) struct Line {
    pub(super) headers: Pairs,
    pub(super) trailers: Pairs,
    pub(super) state: State,
    pub(super) head_sent: bool,
    /// The filter has been shown all of it.
    over: bool,
    incoming: VecDeque<Vec<u8>>,
    has_trailers: bool,
    held: Vec<u8>,
    sent: Vec<u8>,
}

impl Line {
    pub(super) fn new(message: Message) -> Self {
        let parts: VecDeque<_> = message.parts.into();
        Self {
            over: parts.is_empty() && message.trailers.is_none(),
            headers: message.headers,
            has_trailers: message.trailers.is_some(),
            trailers: message.trailers.unwrap_or_default(),
            state: State::Held,
            head_sent: false,
            incoming: parts,
            held: Vec::new(),
            sent: Vec::new(),
        }
    }

    /// Nothing follows the head.
    pub(super) const fn is_over(&self) -> bool {
        self.over
    }

    /// The next part, where the filter wants one.
    pub(super) fn feed(&mut self) -> Option<Part> {
        if self.state != State::Feeding || self.over {
            return None;
        }
        self.state = State::Held;
        if let Some(data) = self.incoming.pop_front() {
            self.held.extend_from_slice(&data);
            let end = self.incoming.is_empty() && !self.has_trailers;
            self.over = end;
            return Some(Part::Chunk(Chunk { data, end }));
        }
        self.over = true;
        Some(Part::Trailers)
    }

    /// Does what the filter says. `too_large` is the answer where it holds more than it may.
    pub(super) fn apply(&mut self, step: Step, too_large: u16) {
        if matches!(
            self.state,
            State::Passed | State::Replied(_) | State::Failed(_)
        ) {
            return;
        }
        match step {
            Step::Pending => {}
            Step::More => {
                assert!(
                    !self.over,
                    "the filter wants more of a message that is over"
                );
                self.state = State::Feeding;
                if self.held.len() > MAX_HELD {
                    self.state = State::Replied(Reply {
                        status: too_large,
                        headers: Vec::new(),
                        body: Vec::new(),
                        reason: "more is held than the limits allow".to_owned(),
                    });
                }
            }
            Step::Proceed => self.go_on(None),
            Step::Emit(bytes) => self.go_on(Some(bytes)),
            Step::Pass => {
                self.go_on(None);
                self.pass_rest();
            }
            Step::Reply(reply) => {
                self.state = match check_reply(&reply) {
                    Ok(()) => State::Replied(reply),
                    Err(why) => State::Failed(format!("the filter answered with {why}")),
                };
            }
            Step::Fail(reason) => self.state = State::Failed(reason),
        }
    }

    /// Goes by without a call.
    pub(super) fn pass(&mut self) {
        self.apply(Step::Pass, 0);
    }

    fn go_on(&mut self, bytes: Option<Vec<u8>>) {
        self.head_sent = true;
        let held = std::mem::take(&mut self.held);
        self.sent.extend(bytes.unwrap_or(held));
        if self.over {
            self.state = State::Passed;
        } else {
            self.state = State::Feeding;
        }
    }

    fn pass_rest(&mut self) {
        for part in self.incoming.drain(..) {
            self.sent.extend(part);
        }
        self.over = true;
        self.state = State::Passed;
    }
}

/// What has become of a message so far.
#[derive(Debug, Clone, PartialEq)]
pub struct MessageView {
    pub(super) state: State,
    pub(super) head_sent: bool,
    pub(super) headers: Pairs,
    pub(super) trailers: Pairs,
    pub(super) sent: Vec<u8>,
}

impl MessageView {
    pub(super) fn of(line: &Line) -> Self {
        Self {
            state: line.state.clone(),
            head_sent: line.head_sent,
            headers: line.headers.clone(),
            trailers: line.trailers.clone(),
            sent: line.sent.clone(),
        }
    }

    /// All of it has gone on.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.state == State::Passed
    }

    /// The filter holds it, or a part of it: it waits for a fetch or a timer.
    #[must_use]
    pub fn held(&self) -> bool {
        self.state == State::Held
    }

    /// Its head has gone on.
    #[must_use]
    pub const fn head_sent(&self) -> bool {
        self.head_sent
    }

    /// The first value of a header, as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        first(&self.headers, name)
    }

    /// All values of a header, as text.
    #[must_use]
    pub fn header_values(&self, name: &str) -> Vec<String> {
        self.headers
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
            .collect()
    }

    /// The first value of a trailer, as text.
    #[must_use]
    pub fn trailer(&self, name: &str) -> Option<String> {
        first(&self.trailers, name)
    }

    /// The bytes of its body that have gone on.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.sent
    }
}
