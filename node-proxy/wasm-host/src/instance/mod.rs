//! What both kinds of instances have: their contexts, what they ask for, and what they share with
//! other instances of the filter.

mod contexts;
mod flow;
mod names;
mod state;

use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

use crate::budget::Memory;
use crate::clock::Clock;
use crate::exchange::Exchange;
use crate::fault::Fault;
use crate::limits::Limits;
use crate::log::Log;
use crate::shared::kv::Kv;
use crate::shared::metrics::Metrics;
use crate::shared::queue::Queues;
use crate::types::{Command, ContextId, Event, Interests, Side, Step};

pub(crate) use contexts::{Context, Contexts, Message, index as place};
pub(crate) use state::{State, Wanted, arm};

/// What all instances of a filter have in common.
pub(crate) struct Env {
    /// Namespace and name of the object that it comes from.
    pub(crate) name: String,
    pub(crate) config: Bytes,
    pub(crate) limits: Limits,
    pub(crate) kv: Arc<Kv>,
    pub(crate) queues: Arc<Queues>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) log: Arc<dyn Log>,
    /// Of a proxy-wasm filter.
    pub(crate) plugin: Plugin,
}

/// What only proxy-wasm filters are told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plugin {
    /// Its name; the filter's where it is empty.
    pub name: String,
    /// One module may hold several filters; this says which one it is to be.
    pub root_id: String,
    /// Of the shared machine, in words of Envoy.
    pub vm_id: String,
    /// Given to `proxy_on_vm_start`.
    pub vm_config: Bytes,
    /// What `get_property` knows of the node: `node.id`, `node.cluster`.
    pub node_id: String,
    /// See `node_id`.
    pub node_cluster: String,
}

/// An instance of a filter, of whichever kind: one per worker, driven by that worker alone. It is
/// called, answers, and is left alone; it never waits and never calls back. What it wants besides
/// (fetches, timers) is collected in [`Guest::commands`].
///
/// After a fault that [`Fault::is_fatal`] it must not be called again, but for
/// [`Guest::retire`].
pub trait Guest: Send {
    /// The next call begins now, by the filter's clock. It lets calls that follow closely share one
    /// reading of the CPU time.
    fn begins_at(&mut self, now: u64);

    /// A new exchange begins.
    ///
    /// # Errors
    /// [`Fault::NoRoom`] beyond the filter's limit; otherwise what its code did.
    fn open(&mut self) -> Result<ContextId, Fault>;

    /// Hands the exchange over, for as long as the filter is to see it.
    fn lend(&mut self, context: ContextId, exchange: Box<dyn Exchange>);

    /// Takes it back.
    fn reclaim(&mut self, context: ContextId) -> Option<Box<dyn Exchange>>;

    /// Tells the filter what happened. The step is for the message that the event is a part of;
    /// for a fetch or a timer, for the message during whose event it was asked for ([`side_of`]).
    /// What nobody waits for any more is answered with [`Step::Pending`], without a call.
    ///
    /// # Errors
    /// What came of it instead.
    fn on_event(&mut self, context: ContextId, event: Event) -> Result<Step, Fault>;

    /// Whether the filter has let all of an exchange pass that it wants to see, and waits for
    /// nothing: it has forgotten it already, and closing it calls none of its code.
    fn is_over(&self, _context: ContextId) -> bool {
        false
    }

    /// The exchange is over: the filter is told, what it still waited for is cancelled, and what
    /// was lent comes back. The other half is what the filter's code did.
    fn close(&mut self, context: ContextId) -> (Option<Box<dyn Exchange>>, Result<(), Fault>);

    /// Looks whether something waits for the instance that no event announces: messages in queues
    /// that it listens to.
    ///
    /// # Errors
    /// What the filter's code did.
    fn poll(&mut self) -> Result<(), Fault>;

    /// What the filter asked for since the last call, into `commands`.
    fn commands(&mut self, commands: &mut Vec<(ContextId, Command)>);

    /// Contexts that are open.
    fn contexts(&self) -> usize;

    /// Those of them whose exchange is over, and which the filter does not let go yet.
    fn lingering(&self) -> usize {
        0
    }

    /// Ends contexts whose exchange has been over for long. To be called now and then.
    ///
    /// # Errors
    /// What the filter's code did.
    fn sweep(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    /// What it wants to see as it is configured.
    fn interests(&self) -> Interests;

    /// Bytes of its memory.
    fn memory(&self) -> usize;

    /// CPU time of the last call of it, from its start to its end of which so much time has passed.
    fn used(&self, passed: Duration) -> Duration;

    /// Ends it. Returns who was in it; what it and they still waited for is cancelled in `commands`.
    fn retire(
        self: Box<Self>,
        commands: &mut Vec<(ContextId, Command)>,
    ) -> Vec<(ContextId, Option<Box<dyn Exchange>>)>;
}

/// The message during whose event a fetch or a timer was asked for: the step that it is answered
/// with is for that one.
#[must_use]
pub const fn side_of(id: u64) -> Side {
    flow::side_of(id)
}
