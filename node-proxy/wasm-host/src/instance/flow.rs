//! How far the messages of a context are, and what a filter may answer.

use super::State;
use super::contexts::Waiting;
use crate::exchange::Exchange;
use crate::fault::Fault;
use crate::types::{Command, ContextId, Event, Side, Step};

/// Who was in an instance, with what was lent.
pub(crate) type Inside = Vec<(ContextId, Option<Box<dyn Exchange>>)>;

impl<X: Default> State<X> {
    /// Notes what an event is about. False if nobody waits for it any more.
    pub(crate) fn accept(&mut self, id: ContextId, event: &Event) -> Result<bool, Fault> {
        self.running = id;
        let context = self
            .contexts
            .get_mut(id)
            .ok_or(Fault::Misuse("an event of a context that is not open"))?;
        let (number, fetch) = match event {
            Event::FetchDone { id, .. } => (*id, true),
            Event::Timer { id } => (*id, false),
            message => {
                if id == ContextId::INSTANCE {
                    return Err(Fault::Misuse("a message without a context"));
                }
                let side = message.side().unwrap_or(Side::Request);
                context.side = side;
                let message = context.message(side);
                let (bytes, ended) = arrived(event);
                message.held = message.held.saturating_add(bytes);
                message.ended |= ended;
                return Ok(true);
            }
        };
        let waiting = Waiting { id: number, fetch };
        let Some(at) = context.waiting.iter().position(|one| *one == waiting) else {
            return Ok(false);
        };
        context.waiting.swap_remove(at);
        context.side = side_of(number);
        self.fetches -= usize::from(fetch);
        Ok(true)
    }

    /// A filter answers so about a message: can that be done?
    pub(crate) fn answer(&mut self, id: ContextId, side: Side, step: Step) -> Result<Step, Fault> {
        let given = match &step {
            Step::Emit(bytes) => bytes.len(),
            Step::Reply(reply) => reply.body.len(),
            _ => 0,
        };
        if given > 0 && !self.may_give(given) {
            let most = self.env.limits.output();
            let what = format!("{given} bytes, where one event gives out {most} at most");
            return Err(Fault::Answer(what));
        }
        self.decided(id, side, step)
    }

    /// The same, where it is known what was given out.
    pub(crate) fn decided(&mut self, id: ContextId, side: Side, step: Step) -> Result<Step, Fault> {
        let most = self.env.limits.held_body;
        let Some(context) = self.contexts.get_mut(id) else {
            return Ok(step);
        };
        let replied = context.replied;
        let message = context.message(side);
        message.waits = matches!(step, Step::Pending | Step::More);
        message.passed = matches!(step, Step::Pass);
        match &step {
            Step::More if message.ended => {
                message.waits = false;
                let what = "that it wants more of a message of which nothing follows";
                return Err(Fault::Answer(what.to_owned()));
            }
            Step::More if message.held > most => {
                message.waits = false;
                return Err(Fault::Held { side, most });
            }
            Step::Pending | Step::More => {}
            // It is answered already.
            Step::Reply(_) if replied => return Ok(Step::Pass),
            Step::Reply(_) => {
                message.held = 0;
                context.replied = true;
            }
            Step::Proceed | Step::Emit(_) | Step::Pass => message.held = 0,
        }
        Ok(step)
    }

    /// Whether the running event may give out so many bytes more.
    pub(crate) fn may_give(&mut self, bytes: usize) -> bool {
        let given = self.given.saturating_add(bytes);
        let may = given <= self.env.limits.output();
        if may {
            self.given = given;
        }
        may
    }

    /// Who is in it when it ends; cancels what anybody in it waits for. What was asked for and has not
    /// been told never was.
    pub(crate) fn retire(mut self, commands: &mut Vec<(ContextId, Command)>) -> Inside {
        let ids: Vec<ContextId> = self.contexts.ids().collect();
        for id in ids.iter().chain([&ContextId::INSTANCE]) {
            let waiting = self.contexts.get_mut(*id);
            let waiting = waiting.map(|context| std::mem::take(&mut context.waiting));
            for one in waiting.unwrap_or_default() {
                withdraw(&mut self.commands, *id, one);
            }
        }
        let of_cancelling = |command: &Command| {
            matches!(
                command,
                Command::CancelFetch { .. } | Command::CancelTimer { .. }
            )
        };
        commands.extend(
            self.commands
                .into_iter()
                .filter(|(_, command)| of_cancelling(command)),
        );
        ids.into_iter()
            .filter_map(|id| Some((id, self.contexts.remove(id)?.exchange)))
            .collect()
    }
}

/// Bytes of a body that come with a part of a message, and whether it is the last one.
const fn arrived(event: &Event) -> (usize, bool) {
    match event {
        Event::RequestHeaders { end } | Event::ResponseHeaders { end } => (0, *end),
        Event::RequestBody { data, end } | Event::ResponseBody { data, end } => (data.len(), *end),
        Event::RequestTrailers | Event::ResponseTrailers => (0, true),
        Event::FetchDone { .. } | Event::Timer { .. } => (0, false),
    }
}

/// The message during which a fetch or a timer was asked for.
pub(crate) const fn side_of(number: u64) -> Side {
    match number & 1 {
        0 => Side::Request,
        _ => Side::Response,
    }
}

/// Nobody waits for it any more. Where nobody was asked yet either, nobody hears of it.
pub(super) fn withdraw(commands: &mut Vec<(ContextId, Command)>, of: ContextId, waiting: Waiting) {
    // What is cancelled at once is the last one.
    let asked = commands.iter().rposition(|(_, command)| match command {
        Command::StartFetch { id, .. } => waiting.fetch && *id == waiting.id,
        Command::SetTimer { id, .. } => !waiting.fetch && *id == waiting.id,
        _ => false,
    });
    match asked {
        Some(at) => drop(commands.remove(at)),
        None => commands.push((of, cancel(waiting))),
    }
}

const fn cancel(waiting: Waiting) -> Command {
    match waiting.fetch {
        true => Command::CancelFetch { id: waiting.id },
        false => Command::CancelTimer { id: waiting.id },
    }
}
