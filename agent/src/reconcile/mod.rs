//! The one task that owns the state: changes in, kernel and snapshots out.

mod describe;
mod pass;
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
use crate::identity::CidrIdentities;
use crate::kube::Watched;
use crate::policy::{LastGood, Repository};
use crate::program::{Kernel, Programmer};
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
}

/// What the reconciler listens to.
pub struct Inputs {
    /// Changes of the cluster.
    pub watched: Watched,
    /// Changes of the node's interfaces.
    pub monitor: Monitor,
    /// What is known of the proxy.
    pub proxy: watch::Receiver<ProxyStatus>,
    /// Questions to the API.
    pub work: Work,
}

/// Runs until `stop` is cancelled or the watch ends.
pub async fn run<K: Kernel>(start: Start<K>, mut inputs: Inputs, stop: CancellationToken) {
    let mut engine = Engine::new(start);
    let mut due: Option<Instant> = None;
    let mut look = true;
    inputs.proxy.mark_changed();
    loop {
        let wait = due.map(tokio::time::sleep_until);
        let timer = async {
            match wait {
                Some(wait) => wait.await,
                None => std::future::pending().await,
            }
        };
        let soon = Instant::now() + GATHER;
        let mut gather = |at: Instant| due = Some(due.map_or(at, |earlier| earlier.min(at)));
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            // Before the changes: a stream of them must not put it off.
            () = timer => {}
            change = inputs.watched.recv() => {
                let Some(change) = change else { return };
                if engine.change(change) {
                    gather(soon);
                }
                continue;
            }
            () = inputs.monitor.changed() => {
                look = true;
                gather(soon);
                continue;
            }
            done = inputs.work.next() => {
                match done {
                    Done::Identity { labels, result } => engine.allocated(labels, result),
                    Done::Confirmed { uid, ifindex, found } => engine.confirmed(uid, ifindex, found),
                }
                gather(soon);
                continue;
            }
            changed = inputs.proxy.changed() => {
                if changed.is_err() {
                    return;
                }
                let proxy = inputs.proxy.borrow_and_update().clone();
                engine.proxy(proxy);
                // An answer opens what waits for it: at once.
                gather(Instant::now());
                continue;
            }
        }
        due = None;
        if !engine.in_sync() {
            engine.describe_waiting();
            continue;
        }
        if look {
            match inputs.monitor.read().await {
                Ok(interfaces) => engine.interfaces(interfaces),
                Err(error) => debug!(%error, "interfaces not read, trying again"),
            }
        }
        // Compiling and writing maps may take milliseconds: not on a worker
        // that others wait for.
        let pass = tokio::task::block_in_place(|| engine.pass(&mut inputs.work));
        look = pass.waiting;
        let again = pass
            .again
            .map(Instant::from_std)
            .into_iter()
            .chain(pass.waiting.then(|| Instant::now() + LOOK_AGAIN))
            .min();
        due = again;
    }
}
