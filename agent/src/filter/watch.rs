//! The objects of filters and the ConfigMaps that they name, as they change.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::core::DynamicObject;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::debug;
use weft_core::filter::FilterKind;

use crate::kube::{Kind, convert, filter_resource, follow};
use crate::state::{Delta, ObjectKey, PolicyObject};

/// Changes that may wait.
pub const CHANNEL: usize = 256;

/// What was seen in the API.
#[derive(Debug)]
pub enum Seen {
    /// An object of a filter.
    Object(FilterKind, Delta<PolicyObject>),
    /// A ConfigMap that a filter names is there, or gone, or another.
    Map(ObjectKey),
}

/// How long the API may not know a kind of which there were objects.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the right to read a kind may be missing of which nothing is known.
const REFUSAL: Duration = Duration::from_secs(10);

/// Follows the objects of all kinds. One that the API does not know has none; of
/// those in `known` there were some before.
pub fn objects(
    client: &Client,
    known: &BTreeSet<FilterKind>,
    sender: &mpsc::Sender<Seen>,
    stop: &CancellationToken,
    tasks: &mut JoinSet<()>,
) {
    for kind in FilterKind::ALL {
        let api = Api::<DynamicObject>::all_with(client.clone(), &filter_resource(kind));
        let (sender, stop) = (sender.clone(), stop.clone());
        let installed = Kind::Optional {
            known: known.contains(&kind),
            patience: PATIENCE,
            refusal: REFUSAL,
        };
        tasks.spawn(async move {
            let seen = |delta| Seen::Object(kind, delta);
            let follow = follow(api, installed, convert::policy, seen, sender);
            Box::pin(stop.run_until_cancelled(follow)).await;
        });
    }
}

/// Follows ConfigMaps by their names: all others are nothing to us.
pub struct Maps {
    client: Client,
    sender: mpsc::Sender<Seen>,
    tasks: JoinSet<()>,
    followed: BTreeMap<(String, String), AbortHandle>,
}

impl Maps {
    /// None yet.
    pub fn new(client: Client, sender: mpsc::Sender<Seen>) -> Self {
        Self {
            client,
            sender,
            tasks: JoinSet::new(),
            followed: BTreeMap::new(),
        }
    }

    /// These are followed from now on.
    pub fn follow(&mut self, named: &BTreeSet<(String, String)>) {
        self.followed.retain(|key, task| {
            let stays = named.contains(key);
            if !stays {
                task.abort();
            }
            stays
        });
        // Those that were aborted.
        while self.tasks.try_join_next().is_some() {}
        for key in named {
            if !self.followed.contains_key(key) {
                let (namespace, name) = key.clone();
                let maps = Api::namespaced(self.client.clone(), &namespace);
                let sender = self.sender.clone();
                let task = self.tasks.spawn(map(maps, namespace, name, sender));
                self.followed.insert(key.clone(), task);
            }
        }
    }
}

/// Says when a ConfigMap changes.
async fn map(maps: Api<ConfigMap>, namespace: String, name: String, sender: mpsc::Sender<Seen>) {
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let changes = watcher(maps, only).default_backoff();
    pin_mut!(changes);
    while let Some(change) = changes.next().await {
        match change {
            // It is looked at when the listing is through.
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
            Ok(_) => {
                let key = ObjectKey::new(&*namespace, &*name);
                if sender.send(Seen::Map(key)).await.is_err() {
                    return;
                }
            }
            Err(error) => debug!(namespace, name, %error, "a ConfigMap cannot be watched"),
        }
    }
}
