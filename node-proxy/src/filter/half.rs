//! One message inside of one filter: what the filter holds of it, and what it
//! has let go.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};
use weft_wasm_host::Step;

use crate::upstream::Content;

/// A part of a message. The fields of heads and trailers are where the exchange
/// is.
#[derive(Debug)]
pub(super) enum Part {
    /// The head; nothing follows it if `end` is set.
    Head { end: bool },
    /// Some of the body, the last of it and of the message if `end` is set.
    Data { content: Content, end: bool },
    /// The trailers are there: the message is over.
    Trailers,
}

impl Part {
    /// Whether nothing follows it.
    pub(super) fn ends(&self) -> bool {
        match self {
            Self::Head { end } | Self::Data { end, .. } => *end,
            Self::Trailers => true,
        }
    }
}

/// One message inside of one filter.
#[derive(Debug, Default)]
pub(super) struct Half {
    /// The filter sees no more of it.
    pub(super) pass: bool,
    /// The filter holds it until a fetch or a timer decides.
    pub(super) waiting: bool,
    held: Vec<Part>,
    /// Bytes of body that are held.
    bytes: usize,
    out: VecDeque<Part>,
    /// The last part has come.
    pub(super) ended: bool,
}

impl Half {
    /// The filter is asked about this part.
    pub(super) fn hold(&mut self, part: Part) {
        self.ended = part.ends();
        if let Part::Data { content, .. } = &part {
            self.bytes += content.remaining();
        }
        self.held.push(part);
    }

    /// Passes a part that the filter is not asked about.
    pub(super) fn let_through(&mut self, part: Part) {
        self.ended = part.ends();
        self.out.push_back(part);
    }

    /// Whether the filter holds something.
    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Bytes of body that it holds.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Does what the filter wants done with what it holds.
    pub(super) fn step(&mut self, step: &Step) {
        self.waiting = matches!(step, Step::Pending) && self.holds();
        match step {
            Step::Pending | Step::More | Step::Reply(_) => {}
            Step::Proceed => self.release(),
            Step::Emit(bytes) => {
                self.replace(bytes.clone());
                self.release();
            }
            Step::Pass => self.pass(),
        }
    }

    /// Lets everything go on, also what is still to come.
    pub(super) fn pass(&mut self) {
        self.pass = true;
        self.waiting = false;
        self.release();
    }

    /// The next part that was let go.
    pub(super) fn take(&mut self) -> Option<Part> {
        self.out.pop_front()
    }

    /// The part that was taken last was not wanted yet.
    pub(super) fn put_back(&mut self, part: Part) {
        self.out.push_front(part);
    }

    /// Bytes of body that are let go, when that is all there is.
    pub(super) fn whole(&self) -> Option<usize> {
        let last = self.out.back()?;
        if !last.ends() {
            return None;
        }
        let length = |part: &Part| match part {
            Part::Data { content, .. } => content.remaining(),
            Part::Head { .. } | Part::Trailers => 0,
        };
        Some(self.out.iter().map(length).sum())
    }

    /// Whether some of a body was let go and is still here.
    pub(super) fn has_body(&self) -> bool {
        let mut parts = self.out.iter();
        parts.any(|part| matches!(part, Part::Data { .. }))
    }

    fn release(&mut self) {
        self.bytes = 0;
        self.out.extend(self.held.drain(..));
    }

    /// These bytes come in place of all held parts of the body.
    fn replace(&mut self, bytes: Bytes) {
        let trailers = matches!(self.held.last(), Some(Part::Trailers));
        let head = matches!(self.held.first(), Some(Part::Head { .. }));
        let over = self.ended && !trailers;
        self.held.clear();
        if head {
            let end = over && bytes.is_empty();
            self.held.push(Part::Head { end });
        }
        if !bytes.is_empty() || over && !head {
            let length = bytes.len();
            self.held.push(Part::Data {
                content: Content::alone(bytes, length),
                end: over,
            });
        }
        if trailers {
            self.held.push(Part::Trailers);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use weft_wasm_host::Step;

    use super::{Half, Part};
    use crate::upstream::Content;

    fn data(text: &'static str, end: bool) -> Part {
        Part::Data {
            content: Content::alone(Bytes::from_static(text.as_bytes()), text.len()),
            end,
        }
    }

    /// What comes out of it, in short.
    fn out(half: &mut Half) -> Vec<String> {
        std::iter::from_fn(|| half.take())
            .map(|part| match part {
                Part::Head { end } => format!("head {end}"),
                Part::Data { content, end } => {
                    format!("{} {end}", String::from_utf8_lossy(&content.bytes))
                }
                Part::Trailers => "trailers".to_owned(),
            })
            .collect()
    }

    #[test]
    fn what_is_held_goes_in_its_order() {
        let mut half = Half::default();
        half.hold(Part::Head { end: false });
        half.step(&Step::More);
        half.hold(data("ab", false));
        half.step(&Step::Pending);
        assert!(half.waiting && half.bytes() == 2 && out(&mut half).is_empty());
        half.step(&Step::Proceed);
        assert_eq!(out(&mut half), ["head false", "ab false"]);
        assert!(!half.waiting && half.bytes() == 0);
        // Nobody holds anything: nobody waits.
        half.step(&Step::Pending);
        assert!(!half.waiting);
    }

    #[test]
    fn other_bytes_come_in_place_of_the_body_that_is_held() {
        let emitted = |parts: Vec<Part>, bytes: &'static str| {
            let mut half = Half::default();
            parts.into_iter().for_each(|part| half.hold(part));
            half.step(&Step::Emit(Bytes::from_static(bytes.as_bytes())));
            out(&mut half)
        };
        let head = |end| Part::Head { end };
        let whole = vec![head(false), data("a", false), data("b", true)];
        assert_eq!(emitted(whole, "xyz"), ["head false", "xyz true"]);
        let whole = vec![head(false), data("a", true)];
        assert_eq!(emitted(whole, ""), ["head true"]);
        assert_eq!(emitted(vec![head(true)], "x"), ["head false", "x true"]);
        assert_eq!(emitted(vec![head(true)], ""), ["head true"]);
        assert_eq!(emitted(vec![data("a", false)], ""), [""; 0]);
        assert_eq!(emitted(vec![data("a", true)], ""), [" true"]);
        let with_trailers = vec![data("a", false), Part::Trailers];
        assert_eq!(emitted(with_trailers, "b"), ["b false", "trailers"]);
    }

    #[test]
    fn all_of_it_is_known_when_the_end_was_let_go() {
        let mut half = Half::default();
        half.let_through(Part::Head { end: false });
        half.let_through(data("abc", false));
        assert_eq!(half.whole(), None);
        half.let_through(data("d", true));
        assert_eq!(half.whole(), Some(4));
    }
}
