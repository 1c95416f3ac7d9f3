//! The one task that owns the state: changes in, kernel and snapshots out.

mod bounds;
mod describe;
mod names;
mod pass;
mod publish;
mod work;

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use pass::Engine;
pub use pass::Settings;
use work::Done;
pub use work::Work;

use crate::control::{Control, ProxyStatus};
use crate::endpoint::Monitor;
use crate::filter::{Needed, Published, Resolved};
use crate::identity::CidrIdentities;
use crate::kube::Watched;
use crate::metrics::Metrics;
use crate::policy::{LastGood, Repository};
use crate::program::{Kernel, Programmer};
use crate::state::Change;
use crate::status::StatusSender;
use crate::view::ViewHandle;

/// Changes come in bursts (a rollout, an apply of several files); they are
/// gathered for this long and programmed at once.
const GATHER: Duration = Duration::from_millis(4);
/// While a pod waits for its interface the node is looked at this often even
/// if the kernel announced nothing: announcements can be lost.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Everything that the reconciler starts from.
pub struct Start<K> {
    /// This node.
    pub settings: Settings,
    /// The kernel.
    pub kernel: K,
    /// What a former run left in it.
    pub programmer: Programmer,
    /// The endpoints among that.
    pub found: Vec<crate::endpoint::Found>,
    /// The numbers of ranges among that.
    pub cidrs: CidrIdentities,
    /// The policies, with what was kept on disk.
    pub repository: Repository,
    /// Where valid policies are kept.
    pub last_good: LastGood,
    /// Snapshots go here.
    pub control: Control,
    /// Readers of flows look here.
    pub view: ViewHandle,
    /// The admin socket looks here.
    pub status: StatusSender,
    /// What is counted.
    pub metrics: Metrics,
    /// Told the filters that something on this node meets.
    pub needed: watch::Sender<Needed>,
    /// Told which versions of them are in the snapshot.
    pub published: watch::Sender<Published>,
}

/// What the reconciler listens to.
pub struct Inputs {
    /// Changes of the cluster.
    pub watched: Watched,
    /// Changes of the node's interfaces.
    pub monitor: Monitor,
    /// What is known of the proxy.
    pub proxy: watch::Receiver<ProxyStatus>,
    /// The filters in force; none before they are known.
    pub filters: watch::Receiver<Resolved>,
    /// Questions to the API.
    pub work: Work,
}

/// What happened.
enum Input {
    Change(Change),
    Interfaces,
    Answer(Done),
    Proxy(ProxyStatus),
    Filters(Resolved),
}

impl Inputs {
    /// The next thing that happens; none when a source has ended. May be
    /// dropped while it waits without losing anything.
    async fn next(&mut self) -> Option<Input> {
        tokio::select! {
            change = self.watched.recv() => change.map(Input::Change),
            () = self.monitor.changed() => Some(Input::Interfaces),
            done = self.work.next() => Some(Input::Answer(done)),
            changed = self.proxy.changed() => {
                changed.ok()?;
                Some(Input::Proxy(self.proxy.borrow_and_update().clone()))
            }
            changed = self.filters.changed() => {
                changed.ok()?;
                Some(Input::Filters(self.filters.borrow_and_update().clone()))
            }
        }
    }
}

/// When to program next, and why.
#[derive(Default)]
struct Due {
    at: Option<Instant>,
    /// The node's interfaces have to be read.
    look: bool,
    /// Something else than the interfaces changed.
    changed: bool,
}

impl Due {
    fn at(&mut self, when: Instant) {
        self.at = Some(self.at.map_or(when, |earlier| earlier.min(when)));
    }

    async fn wait(&self) {
        match self.at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

/// Runs until `stop` is cancelled or the watch ends.
pub async fn run<K: Kernel>(start: Start<K>, mut inputs: Inputs, stop: CancellationToken) {
    let mut engine = Engine::new(start);
    let mut due = Due {
        look: true,
        ..Due::default()
    };
    inputs.proxy.mark_changed();
    inputs.filters.mark_changed();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // Before what happens next: a stream of it must not put this off.
            () = due.wait() => due = program(&mut engine, &mut inputs, due).await,
            input = inputs.next() => match input {
                Some(input) => take(&mut engine, input, &mut due),
                None => return,
            },
        }
    }
}

fn take<K: Kernel>(engine: &mut Engine<K>, input: Input, due: &mut Due) {
    let soon = Instant::now() + GATHER;
    match input {
        Input::Change(change) => {
            if !engine.change(change) {
                return;
            }
            due.changed = true;
        }
        Input::Interfaces => due.look = true,
        Input::Answer(Done::Identity { labels, result }) => {
            engine.allocated(labels, result);
            due.changed = true;
        }
        Input::Answer(Done::Told) => return,
        Input::Answer(Done::Confirmed {
            uid,
            ifindex,
            lives,
        }) => {
            engine.confirmed(uid, ifindex, lives);
            due.changed = true;
        }
        Input::Filters(filters) => {
            if !filters.is_some_and(|filters| engine.filters(filters)) {
                return;
            }
            due.changed = true;
        }
        Input::Proxy(proxy) => {
            engine.proxy(proxy);
            due.changed = true;
            // An answer opens what waits for it: at once.
            return due.at(Instant::now());
        }
    }
    due.at(soon);
}

/// Programs what is due and says when to come again.
async fn program<K: Kernel>(engine: &mut Engine<K>, inputs: &mut Inputs, due: Due) -> Due {
    if !engine.in_sync() {
        engine.describe_waiting();
        return Due { at: None, ..due };
    }
    let mut next = Due::default();
    let mut changed = due.changed;
    if due.look {
        match inputs.monitor.read().await {
            Ok(interfaces) => changed |= engine.interfaces(interfaces),
            Err(error) => {
                debug!(%error, "interfaces not read, trying again");
                next.look = true;
                next.at(Instant::now() + LOOK_AGAIN);
            }
        }
    }
    // What was announced may be none of our pods' business, and what failed or
    // waits is due although nothing changed.
    if !changed && due.look && !engine.unfinished() {
        return next;
    }
    // Compiling and writing maps may take milliseconds: not on a worker that
    // others wait for.
    let passed = tokio::task::block_in_place(|| engine.pass(&mut inputs.work));
    if passed.waiting {
        next.look = true;
        next.at(Instant::now() + LOOK_AGAIN);
    }
    if let Some(again) = passed.again {
        next.changed = true;
        next.at(Instant::from_std(again));
    }
    next
}

#[cfg(test)]
mod tests;
