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
        /// How long the right to read its objects may be missing where none are
        /// known: a role may come a moment after the agent. Where some are, they
        /// hold until they can be read again.
        refusal: Duration,
    },
}

/// Why there may be no objects of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Absence {
    /// The API does not know it.
    Unknown,
    /// It may not be read. The API says so of what it does not know, too.
    Refused,
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
                    missing.told = false;
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
                let absence = absence(&error).filter(|_| missing.optional());
                // The first failures are ordinary: kinds that the operator is
                // about to install, an API server that restarts.
                let gone = absence.is_some_and(|absence| missing.for_good(absence));
                if gone && absence == Some(Absence::Refused) && !missing.told {
                    missing.told = true;
                    warn!(
                        right = %right(&url),
                        "the agent may not read objects of this kind and takes it that there are \
                         none: give its role this right where there are some"
                    );
                }
                if wait >= BACKOFF_LAST && absence != Some(Absence::Unknown) && !gone {
                    warn!(%url, %error, "watch fails, still trying");
                } else {
                    debug!(%url, %error, "watch failed, trying again");
                }
                if gone {
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
    /// It was said that it may not be read.
    told: bool,
}

impl Missing {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            known: matches!(kind, Kind::Optional { known: true, .. }),
            since: None,
            told: false,
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

    /// It is absent now: whether it is time to believe that there is none.
    fn for_good(&mut self, absence: Absence) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        match self.kind {
            Kind::Optional {
                patience, refusal, ..
            } => match absence {
                Absence::Unknown => !self.known || since.elapsed() >= patience,
                Absence::Refused => !self.known && since.elapsed() >= refusal,
            },
            Kind::Installed => false,
        }
    }
}

/// Whether this says that there may be no objects of the kind.
fn absence(error: &watcher::Error) -> Option<Absence> {
    use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
    let (InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error)) = error else {
        return None;
    };
    match error {
        kube::Error::Api(status) if status.code == 404 => Some(Absence::Unknown),
        kube::Error::Api(status) if status.code == 403 => Some(Absence::Refused),
        _ => None,
    }
}

/// What it takes to follow the objects at a URL: `/apis/GROUP/VERSION/RESOURCE`.
fn right(url: &str) -> String {
    let mut parts = url.rsplit('/');
    let (resource, _version) = (parts.next().unwrap_or_default(), parts.next());
    match parts.next() {
        None | Some("" | "api") => format!("list, watch {resource}"),
        Some(group) => format!("list, watch {resource}.{group}"),
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

    const LONG: Duration = Duration::from_secs(3600);

    /// How long it took to hear that there is nothing.
    async fn heard(client: Client, kind: Kind) -> Duration {
        let start = Instant::now();
        let (sender, mut receiver) = mpsc::channel(1);
        let api = Api::<core::ConfigMap>::all(client);
        let none: fn(core::ConfigMap) -> Option<crate::state::Namespace> = |_| None;
        tokio::spawn(follow(api, kind, none, |delta| delta, sender));
        let heard = tokio::time::timeout(Duration::from_secs(20), receiver.recv());
        let heard = heard.await.expect("in time").expect("not ended");
        assert_eq!(heard, Delta::Replace(Vec::new()));
        start.elapsed()
    }

    #[tokio::test]
    async fn a_kind_that_is_not_installed_has_no_objects() {
        let kind = |known, patience| Kind::Optional {
            known,
            patience,
            refusal: LONG,
        };
        heard(api(&[]), kind(false, LONG)).await;
        // Those that there were may come back.
        let patience = Duration::from_millis(300);
        assert!(heard(api(&[]), kind(true, patience)).await >= patience);
    }

    #[tokio::test]
    async fn a_kind_that_may_not_be_read_has_no_objects_after_a_while() {
        let refuse = |_| async {
            let status = r#"{"kind": "Status", "code": 403, "reason": "Forbidden"}"#;
            let mut response =
                http::Response::new(kube::client::Body::from(status.as_bytes().to_vec()));
            *response.status_mut() = http::StatusCode::FORBIDDEN;
            Ok::<_, std::convert::Infallible>(response)
        };
        let refusal = Duration::from_millis(300);
        let kind = Kind::Optional {
            known: false,
            patience: Duration::ZERO,
            refusal,
        };
        let client = Client::new(tower::service_fn(refuse), "default");
        assert!(heard(client, kind).await >= refusal);
    }

    #[test]
    fn objects_that_were_there_hold_while_they_may_not_be_read() {
        let mut known = Missing::new(Kind::Optional {
            known: true,
            patience: Duration::ZERO,
            refusal: Duration::ZERO,
        });
        assert!(!known.for_good(Absence::Refused));
        assert!(known.for_good(Absence::Unknown));
        let mut seen = Missing::new(Kind::Optional {
            known: false,
            patience: Duration::ZERO,
            refusal: Duration::ZERO,
        });
        assert!(seen.for_good(Absence::Refused));
        seen.note(&Delta::Replace(vec![()]));
        assert!(!seen.for_good(Absence::Refused));
    }

    #[test]
    fn the_missing_right_is_named() {
        let right_of = |url| right(url);
        assert_eq!(
            right_of("/apis/extensions.istio.io/v1alpha1/wasmplugins"),
            "list, watch wasmplugins.extensions.istio.io"
        );
        assert_eq!(right_of("/api/v1/configmaps"), "list, watch configmaps");
    }
}
