//! One message on its way through the filter.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use weft_wasm_host::{Event, Fault, Reply, Side, Step};

/// Parts in which bodies come, as from a socket.
const PART: usize = 64 << 10;

/// How far it has come.
#[derive(Debug)]
pub(super) enum State {
    /// The filter decides.
    Held,
    /// The filter wants the next part.
    Feeding,
    /// It has gone on.
    Passed,
    /// The filter answered.
    Replied(Box<Reply>),
    /// The filter holds more than it may.
    TooLarge,
    /// The filter failed.
    Failed(Fault),
}

#[derive(Debug)]
pub(super) struct Line {
    side: Side,
    pub(super) state: State,
    /// Its head has gone on.
    pub(super) head_sent: bool,
    /// The filter has been shown all of it.
    over: bool,
    incoming: VecDeque<Bytes>,
    held: BytesMut,
    most: usize,
    pub(super) sent: BytesMut,
}

impl Line {
    /// A message with this body, of which at most so many bytes may be held.
    pub(super) fn new(side: Side, mut body: Bytes, most: usize) -> Self {
        let mut incoming = VecDeque::new();
        while !body.is_empty() {
            incoming.push_back(body.split_to(PART.min(body.len())));
        }
        Self {
            side,
            state: State::Held,
            head_sent: false,
            over: incoming.is_empty(),
            incoming,
            held: BytesMut::new(),
            most,
            sent: BytesMut::new(),
        }
    }

    pub(super) fn head(&self) -> Event {
        match self.side {
            Side::Request => Event::RequestHeaders { end: self.over },
            Side::Response => Event::ResponseHeaders { end: self.over },
        }
    }

    pub(super) const fn is_held(&self) -> bool {
        matches!(self.state, State::Held)
    }

    pub(super) const fn has_passed(&self) -> bool {
        matches!(self.state, State::Passed)
    }

    /// The next part, where the filter wants one; what it does not want to see goes by.
    pub(super) fn feed(&mut self, wants_body: bool) -> Option<Event> {
        if !matches!(self.state, State::Feeding) {
            return None;
        }
        if !wants_body {
            self.apply(Ok(Step::Pass));
            return None;
        }
        let data = self.incoming.pop_front()?;
        self.state = State::Held;
        self.held.extend_from_slice(&data);
        self.over = self.incoming.is_empty();
        let end = self.over;
        Some(match self.side {
            Side::Request => Event::RequestBody { data, end },
            Side::Response => Event::ResponseBody { data, end },
        })
    }

    /// Does what the filter says, where anything is left to be done.
    pub(super) fn apply(&mut self, step: Result<Step, Fault>) {
        if !matches!(self.state, State::Held | State::Feeding) {
            return;
        }
        match step {
            Ok(Step::Pending) => {}
            // There is no more: filters for proxy-wasm hold a whole body so.
            Ok(Step::More) if self.over => {}
            Ok(Step::More) if self.held.len() > self.most => self.state = State::TooLarge,
            Ok(Step::More) => self.state = State::Feeding,
            Ok(Step::Proceed) => self.go_on(None),
            Ok(Step::Emit(bytes)) => self.go_on(Some(bytes)),
            Ok(Step::Pass) => {
                self.go_on(None);
                for part in self.incoming.drain(..) {
                    self.sent.extend_from_slice(&part);
                }
                self.state = State::Passed;
            }
            Ok(Step::Reply(reply)) => self.state = State::Replied(reply),
            Err(fault) => self.state = State::Failed(fault),
        }
    }

    fn go_on(&mut self, bytes: Option<Bytes>) {
        self.head_sent = true;
        let held = self.held.split();
        match bytes {
            Some(bytes) => self.sent.extend_from_slice(&bytes),
            None => self.sent.extend_from_slice(&held),
        }
        self.state = if self.over {
            State::Passed
        } else {
            State::Feeding
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(body: usize) -> Line {
        Line::new(Side::Request, vec![b'x'; body].into(), 2 * PART)
    }

    fn parts(line: &mut Line) -> usize {
        let mut parts = 0;
        while line.feed(true).is_some() {
            parts += 1;
            line.apply(Ok(Step::Proceed));
        }
        parts
    }

    #[test]
    fn a_body_comes_in_parts_and_goes_on() {
        for (bytes, expected) in [(0, 0), (1, 1), (PART, 1), (PART + 1, 2)] {
            let mut line = line(bytes);
            line.apply(Ok(Step::Proceed));
            assert_eq!(parts(&mut line), expected, "{bytes}");
            assert!(line.has_passed());
            assert_eq!(line.sent.len(), bytes);
        }
    }

    #[test]
    fn what_is_held_is_replaced_as_a_whole() {
        let mut line = line(PART + 1);
        line.apply(Ok(Step::More));
        assert!(line.feed(true).is_some());
        line.apply(Ok(Step::More));
        assert!(line.feed(true).is_some());
        assert!(!line.head_sent);
        line.apply(Ok(Step::Emit(Bytes::from_static(b"short"))));
        assert!(line.has_passed());
        assert_eq!(&line.sent[..], b"short");
    }

    #[test]
    fn a_whole_body_can_be_held() {
        let mut line = line(1);
        line.apply(Ok(Step::More));
        assert!(line.feed(true).is_some());
        line.apply(Ok(Step::More));
        assert!(line.is_held());
        assert!(line.feed(true).is_none());
        line.apply(Ok(Step::Proceed));
        assert!(line.has_passed());
    }

    #[test]
    fn no_more_is_held_than_allowed() {
        let mut line = line(3 * PART + 1);
        line.apply(Ok(Step::More));
        for _part in 0..3 {
            assert!(line.feed(true).is_some());
            line.apply(Ok(Step::More));
        }
        assert!(matches!(line.state, State::TooLarge));
    }

    #[test]
    fn what_the_filter_does_not_want_to_see_goes_by() {
        let mut line = line(PART + 1);
        line.apply(Ok(Step::Proceed));
        assert!(line.feed(false).is_none());
        assert!(line.has_passed());
        assert_eq!(line.sent.len(), PART + 1);
    }
}
