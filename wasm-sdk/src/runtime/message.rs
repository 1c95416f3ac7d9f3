//! One message of an exchange: which part of it is at hand, and what its reader makes of it.

use crate::sys::types::{Chunk, Step};

/// What of a message has come.
pub(crate) enum Reached {
    Head { end: bool },
    Part(Chunk),
    Trailers,
}

/// What the reader gets next.
pub(crate) enum Next {
    Part(Vec<u8>),
    /// The body is over; whether trailers have come.
    End {
        trailers: bool,
    },
    /// The next part has to be asked for.
    Wait,
}

#[derive(Default)]
pub(crate) struct Message {
    /// The filter's interests name the body.
    reads_body: bool,
    /// Came and was not read yet.
    part: Option<Vec<u8>>,
    /// Neither body nor trailers follow.
    ended: bool,
    trailers: bool,
    /// The head goes on before the filter has decided.
    released: bool,
    /// The task waits for the next part.
    wants: bool,
    /// The host was told to give the next part, and whether it was told to let go what it held.
    asked: Option<bool>,
    /// Goes on in place of all parts that are held.
    out: Option<Vec<u8>>,
    /// The task waits for a body that never comes.
    unwanted: bool,
}

impl Message {
    pub(crate) fn new(reads_body: bool) -> Self {
        Self {
            reads_body,
            ..Self::default()
        }
    }

    pub(crate) fn arrived(&mut self, reached: Reached) {
        self.asked = None;
        match reached {
            Reached::Head { end } => self.ended = end,
            Reached::Part(chunk) => {
                self.ended = chunk.end;
                // It is held together with what was replaced, and so must be in the replacement.
                if let Some(out) = &mut self.out {
                    out.extend_from_slice(&chunk.data);
                }
                if !chunk.data.is_empty() {
                    self.part = Some(chunk.data);
                }
            }
            Reached::Trailers => {
                self.ended = true;
                self.trailers = true;
            }
        }
    }

    pub(crate) fn begin_poll(&mut self) {
        self.wants = false;
    }

    /// The next part of the body.
    pub(crate) fn next(&mut self) -> Next {
        if let Some(part) = self.part.take() {
            return Next::Part(part);
        }
        if self.ended {
            return Next::End {
                trailers: self.trailers,
            };
        }
        self.unwanted |= !self.reads_body;
        self.wants = true;
        Next::Wait
    }

    /// The task waits for a body that its filter's interests do not name.
    pub(crate) const fn is_unwanted(&self) -> bool {
        self.unwanted
    }

    pub(crate) fn release(&mut self) {
        self.released = true;
    }

    pub(crate) fn replace(&mut self, bytes: Vec<u8>) {
        self.out = Some(bytes);
    }

    /// The step while the task waits.
    pub(crate) fn waiting(&mut self) -> Step {
        if !self.wants || self.asked == Some(self.released) {
            return Step::Pending;
        }
        self.asked = Some(self.released);
        if self.released {
            self.out.take().map_or(Step::Proceed, Step::Emit)
        } else {
            Step::More
        }
    }

    /// The step when the task has let the message go on.
    pub(crate) fn passed(&mut self) -> Step {
        self.out.take().map_or(Step::Pass, Step::Emit)
    }
}
