//! One watch per kind, merged into one channel of changes.

use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

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
    /// Where it is not there, there are no objects of it.
    Optional,
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
    while let Some(event) = stream.next().await {
        let delta = match event {
            Ok(event) => {
                wait = BACKOFF_FIRST;
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
                // The first failures are ordinary: kinds that the operator is
                // about to install, an API server that restarts.
                if wait >= BACKOFF_LAST && !(kind == Kind::Optional && is_unknown(&error)) {
                    warn!(%url, %error, "watch fails, still trying");
                } else {
                    debug!(%url, %error, "watch failed, trying again");
                }
                if kind == Kind::Optional && is_unknown(&error) {
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
        if let Some(delta) = delta
            && sender.send(change(delta)).await.is_err()
        {
            return;
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
