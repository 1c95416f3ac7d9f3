//! One watch per kind, merged into one channel of changes.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use kube::core::DynamicObject;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{ccnp_resource, cnp_resource, convert, identity_resource};
use crate::state::{Change, Delta, Keyed, ObjectKey, PolicyKind};

/// First and longest wait between attempts while the API is away or a kind is
/// not installed yet.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LAST: Duration = Duration::from_secs(5);
/// Changes that may wait for the reconciler.
const CHANNEL: usize = 1024;

/// Receives changes of every kind.
pub type Watched = mpsc::Receiver<Change>;

/// Starts the watches; they end when `stop` is cancelled or the receiver is
/// dropped. An API that is away is retried for ever: nothing is forgotten
/// meanwhile.
pub fn spawn(client: &Client, stop: &CancellationToken, tasks: &mut JoinSet<()>) -> Watched {
    let (sender, receiver) = mpsc::channel(CHANNEL);
    let watch = Spawner {
        sender,
        stop: stop.clone(),
    };
    let all = || client.clone();
    watch.kind::<core::Pod, _>(tasks, Api::all(all()), convert::pod, Change::Pods);
    watch.kind::<core::Namespace, _>(
        tasks,
        Api::all(all()),
        convert::namespace,
        Change::Namespaces,
    );
    watch.kind::<core::Node, _>(tasks, Api::all(all()), convert::node, Change::Nodes);
    watch.kind::<core::Service, _>(tasks, Api::all(all()), convert::service, Change::Services);
    watch.kind::<discovery::EndpointSlice, _>(
        tasks,
        Api::all(all()),
        convert::slice,
        Change::Slices,
    );
    let dynamic = |resource| Api::<DynamicObject>::all_with(client.clone(), &resource);
    watch.kind(tasks, dynamic(cnp_resource()), convert::policy, |delta| {
        Change::Policies(PolicyKind::CiliumNetworkPolicy, delta)
    });
    watch.kind(tasks, dynamic(ccnp_resource()), convert::policy, |delta| {
        Change::Policies(PolicyKind::CiliumClusterwideNetworkPolicy, delta)
    });
    watch.kind(
        tasks,
        dynamic(identity_resource()),
        convert::identity,
        Change::Identities,
    );
    receiver
}

struct Spawner {
    sender: mpsc::Sender<Change>,
    stop: CancellationToken,
}

impl Spawner {
    fn kind<K, T>(
        &self,
        tasks: &mut JoinSet<()>,
        api: Api<K>,
        convert: fn(K) -> Option<T>,
        change: fn(Delta<T>) -> Change,
    ) where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
        K::DynamicType: Eq + Hash + Clone,
        T: Keyed + Send + 'static,
    {
        let sender = self.sender.clone();
        let stop = self.stop.clone();
        tasks.spawn(async move {
            let follow = follow(api, Kind::Installed, convert, change, sender);
            stop.run_until_cancelled(follow).await;
        });
    }
}

/// Whether the API has to know a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Without it nothing goes on.
    Installed,
    /// Where it is not there, there are no objects of it. But an API server that
    /// starts may not know it for a moment: where some objects are known, only a
    /// kind that was missing for so long is gone with them.
    Optional {
        /// Some are known from before.
        known: bool,
        /// How long it may be missing.
        patience: Duration,
    },
}

/// Follows the objects of a kind, until the receiver is dropped.
pub(crate) async fn follow<K, T, C>(
    api: Api<K>,
    kind: Kind,
    convert: fn(K) -> Option<T>,
    change: impl Fn(Delta<T>) -> C,
    sender: mpsc::Sender<C>,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    T: Keyed,
{
    let url = api.resource_url().to_owned();
    let stream = watcher::watcher(api, watcher::Config::default());
    pin_mut!(stream);
    let mut listing: Vec<T> = Vec::new();
    let mut wait = BACKOFF_FIRST;
    let mut missing = Missing::new(kind);
    while let Some(event) = stream.next().await {
        let delta = match event {
            Ok(event) => {
                // That a listing begins says nothing: each attempt does.
                if !matches!(event, Event::Init) {
                    wait = BACKOFF_FIRST;
                    missing.since = None;
                }
                match event {
                    Event::Init => {
                        listing.clear();
                        None
                    }
                    Event::InitApply(object) => {
                        listing.extend(convert(object));
                        None
                    }
                    Event::InitDone => Some(Delta::Replace(std::mem::take(&mut listing))),
                    Event::Apply(object) => applied(object, convert),
                    Event::Delete(object) => Some(Delta::Delete(object_key(&object))),
                }
            }
            Err(error) => {
                let unknown = missing.optional() && is_unknown(&error);
                // The first failures are ordinary: kinds that the operator is
                // about to install, an API server that restarts.
                if wait >= BACKOFF_LAST && !unknown {
                    warn!(%url, %error, "watch fails, still trying");
                } else {
                    debug!(%url, %error, "watch failed, trying again");
                }
                if unknown && missing.for_good() {
                    let none = change(Delta::Replace(Vec::new()));
                    if sender.send(none).await.is_err() {
                        return;
                    }
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(BACKOFF_LAST);
                None
            }
        };
        if let Some(delta) = delta {
            missing.note(&delta);
            if sender.send(change(delta)).await.is_err() {
                return;
            }
        }
    }
}

/// How long the API has not known a kind.
struct Missing {
    kind: Kind,
    /// Some objects of it are known.
    known: bool,
    since: Option<Instant>,
}

impl Missing {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            known: matches!(kind, Kind::Optional { known: true, .. }),
            since: None,
        }
    }

    fn optional(&self) -> bool {
        matches!(self.kind, Kind::Optional { .. })
    }

    fn note<T>(&mut self, delta: &Delta<T>) {
        match delta {
            Delta::Replace(list) => self.known = !list.is_empty(),
            Delta::Apply(_) => self.known = true,
            Delta::Delete(_) => {}
        }
    }

    /// It is unknown now: whether it is time to believe that there is none.
    fn for_good(&mut self) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        match self.kind {
            Kind::Optional { patience, .. } => !self.known || since.elapsed() >= patience,
            Kind::Installed => false,
        }
    }
}

/// Whether the API does not know the kind.
fn is_unknown(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => {
            matches!(error, kube::Error::Api(status) if status.code == 404)
        }
        _ => false,
    }
}

/// An object that no longer converts (a slice that lost its service) is gone
/// as far as the agent is concerned.
fn applied<K: Resource, T: Keyed>(object: K, convert: fn(K) -> Option<T>) -> Option<Delta<T>> {
    let key = object_key(&object);
    Some(match convert(object) {
        Some(item) => Delta::Apply(item),
        None => Delta::Delete(key),
    })
}

fn object_key<K: Resource>(object: &K) -> ObjectKey {
    ObjectKey::new(object.namespace().unwrap_or_default(), object.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::testing::api;

    /// How long it took to hear that there is nothing.
    async fn heard(known: bool, patience: Duration) -> Duration {
        let start = Instant::now();
        let (sender, mut receiver) = mpsc::channel(1);
        let api = Api::<core::ConfigMap>::all(api(&[]));
        let kind = Kind::Optional { known, patience };
        let none: fn(core::ConfigMap) -> Option<crate::state::Namespace> = |_| None;
        tokio::spawn(follow(api, kind, none, |delta| delta, sender));
        let heard = tokio::time::timeout(Duration::from_secs(20), receiver.recv());
        let heard = heard.await.expect("in time").expect("not ended");
        assert_eq!(heard, Delta::Replace(Vec::new()));
        start.elapsed()
    }

    #[tokio::test]
    async fn a_kind_that_is_not_installed_has_no_objects() {
        let patience = Duration::from_secs(3600);
        heard(false, patience).await;
        // Those that there were may come back.
        let patience = Duration::from_millis(300);
        assert!(heard(true, patience).await >= patience);
    }
}
