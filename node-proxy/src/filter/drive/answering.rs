//! The way of an answer back through the filters that its request has passed.

use std::cell::RefCell;
use std::task::{Context, Poll, ready};

use weft_wasm_host::Side;

use super::{Drive, LOST, Progress, Stop};
use crate::filter::answer::AnswerBody;
use crate::filter::exchange::Answer;
use crate::filter::stage::Stage;
use crate::upstream::UpstreamBody;

impl Drive {
    /// There is an answer, which goes back through the filters that the request
    /// has passed. Those that have seen some of another answer see nothing of
    /// this one.
    pub fn answer(&mut self, head: Answer, body: AnswerBody) {
        if let Some(lent) = &mut self.lent {
            lent.answered(head);
        }
        let passed = self.stages.iter().take(self.answering);
        let fresh = passed.take_while(|stage| !stage.seen(Side::Response).begun);
        self.answering = fresh.count();
        self.answer = body;
        self.answered = Progress::default();
        self.charge();
    }

    /// Goes on sending the request of an answer that is being read. Its body
    /// comes from here too, so the exchange is left alone meanwhile.
    pub fn send_on(drive: &RefCell<Self>, context: &mut Context<'_>) {
        let answer = std::mem::replace(&mut drive.borrow_mut().answer, AnswerBody::Empty);
        let answer = answer.send_on(context);
        drive.borrow_mut().answer = answer;
    }

    /// Whether the answer's head has come through all filters.
    ///
    /// # Errors
    /// Why it goes no further; those before that filter are still to see what
    /// comes in its place.
    pub fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        if self.answered.stopped {
            // Whoever sends the request has heard of it first.
            let stop = self.stopped.take();
            return Poll::Ready(Err(stop.unwrap_or(Stop::Failure(LOST))));
        }
        if self.answering == 0 {
            self.answered.begun = true;
            self.answered.read = self.answer.is_over();
            self.answered.sent = self.answered.read;
            return Poll::Ready(Ok(()));
        }
        let part = ready!(self.poll_out(Side::Response, self.answering, context))?;
        self.answered.sent = part.is_none_or(|part| part.ends());
        Poll::Ready(Ok(()))
    }

    /// Whether no filter looks at the exchange any more: an answer goes to the
    /// client as it is.
    #[must_use]
    pub fn is_left(&self) -> bool {
        self.answering == 0 && self.request.sent && !self.answered.stopped
    }

    /// The answer goes past all filters. False if it does already.
    pub fn leave(&mut self) -> bool {
        std::mem::take(&mut self.answering) > 0
    }

    /// Takes the answer's head, which is sent now.
    pub fn send_answer(&mut self) -> Option<Answer> {
        let stages = self.stages.iter().take(self.answering);
        let read = stages.into_iter().any(Stage::sees_more_of_answer);
        self.lent.as_mut()?.send_answer(read)
    }

    /// The upstream's body, where no filter looks at it or can stop it any more.
    pub fn take_answer(&mut self) -> Option<UpstreamBody> {
        if self.answering > 0 || !self.request.sent {
            return None;
        }
        match std::mem::replace(&mut self.answer, AnswerBody::Empty) {
            AnswerBody::Upstream(body) => Some(body),
            other => {
                self.answer = other;
                None
            }
        }
    }
}
