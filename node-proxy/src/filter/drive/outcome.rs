//! What ends an exchange in a filter: an answer, a failure, too much of a body.

use weft_wasm_host::{Fault, Reply, Side};

use super::{Drive, EXCHANGE, STAGE, Stop};
use crate::failure::Failure;
use crate::filter::run::Outcome;
use crate::filter::stage::Stage;

impl Drive {
    /// Charges the source for what is kept here of its messages.
    pub(super) fn charge(&mut self) {
        let stages = self.stages.iter().map(Stage::kept);
        let kept = stages.sum::<usize>() + self.answer.kept();
        self.held.set(EXCHANGE + STAGE * self.stages.len() + kept);
    }

    /// What is kept is charged to the source, and what a filter holds is
    /// bounded for each.
    pub(super) fn within_bounds(&mut self, at: usize, side: Side) -> Result<(), Stop> {
        self.charge();
        let Some(stage) = self.stages.get(at) else {
            return Ok(());
        };
        if stage.holds_too_much(side) {
            return Err(self.held_too_much(at, side));
        }
        let holds = self.stages.iter().any(Stage::holds_body);
        if holds && self.known.account.is_full() {
            return Err(Failure::MEMORY.into());
        }
        Ok(())
    }

    /// The exchange ends here: so many filters see what is answered, and what
    /// was held is not sent on by whoever asks for the next part.
    fn end_at(&mut self, answering: usize) {
        self.answering = answering;
        self.request.stopped = true;
        self.answered.stopped = true;
    }

    fn held_too_much(&mut self, at: usize, side: Side) -> Stop {
        if let Some(stage) = self.stages.get_mut(at) {
            stage.outcome = Outcome::TooLarge;
            stage.skip_silently();
            let reason = "holds more of a body than its limits allow";
            self.mark = Some(stage.mark(reason, None));
        }
        self.end_at(at);
        Stop::Failure(match side {
            Side::Request => Failure::RequestBodyTooLarge,
            Side::Response => Failure::ResponseBodyTooLarge,
        })
    }

    /// A filter failed: its policy decides.
    pub(super) fn failed(&mut self, at: usize, fault: &Fault) -> Result<(), Stop> {
        let Some(stage) = self.stages.get_mut(at) else {
            return Ok(());
        };
        if let Fault::Held { side, .. } = fault {
            return Err(self.held_too_much(at, *side));
        }
        let kind = fault.kind();
        if stage.goes_on_without(kind) {
            stage.skip(kind);
            return Ok(());
        }
        stage.outcome = Outcome::Failed(kind);
        stage.skip_silently();
        self.mark = Some(stage.mark(&fault.to_string(), None));
        self.end_at(at);
        Err(Failure::Filter(kind).into())
    }

    /// A filter answers the request itself.
    pub(super) fn replied(&mut self, at: usize, side: Side, reply: Box<Reply>) -> Stop {
        let mut answering = at;
        if let Some(stage) = self.stages.get_mut(at) {
            let status = reply.status.as_u16();
            stage.outcome = Outcome::Replied(status);
            if side == Side::Request && stage.sees_own_answer() {
                stage.leave_request();
                answering += 1;
            } else {
                stage.skip_silently();
            }
            self.mark = Some(stage.mark(&reply.reason, Some(status)));
        }
        self.end_at(answering);
        Stop::Reply(reply)
    }
}
