//! One message inside of one filter: what the filter holds of it, and what it
//! has let go.

use bytes::{Buf, Bytes};
use weft_wasm_host::Step;

use super::queue::Queue;
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

    /// Bytes of body in it.
    fn length(&self) -> usize {
        match self {
            Self::Data { content, .. } => content.remaining(),
            Self::Head { .. } | Self::Trailers => 0,
        }
    }

    fn memory(&self) -> usize {
        PART + self.length()
    }
}

/// What a part takes beside its bytes, or instead of them if they are few: it
/// keeps the buffer alive that it was read into.
const PART: usize = 256;

/// One message inside of one filter.
#[derive(Debug, Default)]
pub(super) struct Half {
    /// The filter sees no more of it.
    pub(super) pass: bool,
    /// The filter holds it until a fetch or a timer decides.
    pub(super) waiting: bool,
    /// Other bytes came in place of its body.
    pub(super) replaced: bool,
    held: Queue<Part>,
    /// So many of those, the last ones, the filter has not been told of.
    untold: usize,
    /// Bytes of body that are held.
    bytes: usize,
    out: Queue<Part>,
    /// Memory of all parts.
    kept: usize,
    /// The first part has come.
    pub(super) begun: bool,
    /// The last part has come.
    pub(super) ended: bool,
}

impl Half {
    /// The filter is to be told of this part.
    pub(super) fn hold(&mut self, part: Part) {
        self.begun = true;
        self.ended = part.ends();
        self.bytes += part.length();
        self.kept += part.memory();
        self.untold += 1;
        self.held.push_back(part);
    }

    /// It is told of the next one.
    pub(super) fn told(&mut self) {
        self.untold = self.untold.saturating_sub(1);
    }

    /// Passes a part that the filter is not asked about.
    pub(super) fn let_through(&mut self, part: Part) {
        self.begun = true;
        self.ended = part.ends();
        self.kept += part.memory();
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

    /// Memory of what is here, whoever it waits for.
    pub(super) fn kept(&self) -> usize {
        self.kept
    }

    /// Does what the filter wants done with what it holds and has been told of.
    pub(super) fn step(&mut self, step: &Step) {
        let told = self.held.len().saturating_sub(self.untold);
        let untold = self.held.split_off(told);
        self.waiting = matches!(step, Step::Pending) && self.holds() && untold.is_empty();
        match step {
            Step::Pending | Step::More | Step::Reply(_) => {
                self.held.append(untold);
                return;
            }
            Step::Proceed => self.release(),
            Step::Emit(bytes) => {
                self.replace(bytes.clone(), self.ended && untold.is_empty());
                self.release();
            }
            Step::Pass => self.pass(),
        }
        self.held.append(untold);
        if self.pass {
            self.release();
        }
        self.bytes = self.held.iter().map(Part::length).sum();
        let parts = self.held.iter().chain(self.out.iter());
        self.kept = parts.map(Part::memory).sum();
    }

    /// Lets everything go on, also what is still to come.
    pub(super) fn pass(&mut self) {
        self.pass = true;
        self.waiting = false;
        self.untold = 0;
        self.release();
    }

    /// The next part that was let go.
    pub(super) fn take(&mut self) -> Option<Part> {
        let part = self.out.pop_front()?;
        self.kept -= part.memory();
        Some(part)
    }

    /// The part that was taken last was not wanted yet.
    pub(super) fn put_back(&mut self, part: Part) {
        self.kept += part.memory();
        self.out.push_front(part);
    }

    /// Bytes of body that are let go, when that is all there is.
    pub(super) fn whole(&self) -> Option<usize> {
        let last = self.out.iter().last()?;
        if !last.ends() {
            return None;
        }
        Some(self.out.iter().map(Part::length).sum())
    }

    /// Whether some of a body was let go and is still here.
    pub(super) fn has_body(&self) -> bool {
        let mut parts = self.out.iter();
        parts.any(|part| matches!(part, Part::Data { .. }))
    }

    fn release(&mut self) {
        self.bytes = 0;
        self.out.append(std::mem::take(&mut self.held));
    }

    /// These bytes come in place of all held parts of the body, with the last
    /// of which the message is over if it `ended`.
    fn replace(&mut self, bytes: Bytes, ended: bool) {
        let trailers = matches!(self.held.iter().last(), Some(Part::Trailers));
        let head = matches!(self.held.iter().next(), Some(Part::Head { .. }));
        let over = ended && !trailers;
        self.replaced = true;
        self.held = Queue::default();
        if head {
            let end = over && bytes.is_empty();
            self.held.push_back(Part::Head { end });
        }
        if !bytes.is_empty() || over && !head {
            let length = bytes.len();
            self.held.push_back(Part::Data {
                content: Content::alone(bytes, length),
                end: over,
            });
        }
        if trailers {
            self.held.push_back(Part::Trailers);
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

    /// A part that the filter is told of at once.
    fn tell(half: &mut Half, part: Part) {
        half.hold(part);
        half.told();
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
        tell(&mut half, Part::Head { end: false });
        half.step(&Step::More);
        tell(&mut half, data("ab", false));
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
    fn a_part_that_the_filter_has_not_seen_stays() {
        let decided = |step: &Step| {
            let mut half = Half::default();
            tell(&mut half, data("ab", false));
            half.step(&Step::Pending);
            half.hold(data("c", true));
            half.step(step);
            half
        };
        let mut half = decided(&Step::Proceed);
        assert_eq!(out(&mut half), ["ab false"]);
        assert_eq!((half.bytes(), half.waiting), (1, false));
        half.told();
        half.step(&Step::Proceed);
        assert_eq!(out(&mut half), ["c true"]);
        let mut half = decided(&Step::Emit(Bytes::from_static(b"x")));
        assert_eq!(out(&mut half), ["x false"]);
        let mut half = decided(&Step::Pass);
        assert_eq!(out(&mut half), ["ab false", "c true"]);
        assert_eq!(half.bytes(), 0);
    }

    #[test]
    fn all_that_is_here_is_kept() {
        let mut half = Half::default();
        tell(&mut half, data("abc", false));
        half.step(&Step::Proceed);
        half.hold(data("d", false));
        assert_eq!((half.bytes(), half.kept()), (1, 2 * super::PART + 4));
        let _taken = half.take();
        assert_eq!(half.kept(), super::PART + 1);
    }

    #[test]
    fn other_bytes_come_in_place_of_the_body_that_is_held() {
        let emitted = |parts: Vec<Part>, bytes: &'static str| {
            let mut half = Half::default();
            parts.into_iter().for_each(|part| tell(&mut half, part));
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
