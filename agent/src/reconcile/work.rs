//! Questions to the API that the reconciler does not wait for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{Api, Client, ResourceExt as _};
use tokio::task::JoinSet;
use tracing::{debug, warn};
use weft_core::model::{Labels, NumericIdentity};

use crate::identity::{AllocateError, KubeIdentities, Numbers, allocate};
use crate::kube::event;
use crate::state::ObjectKey;

/// Wait before a failed question is asked again.
const RETRY: Duration = Duration::from_millis(500);
/// How often something is told to an API that is away.
const TELLING: u32 = 120;

/// An answer.
#[derive(Debug)]
pub enum Done {
    /// The number of a label set, or none yet.
    Identity {
        /// The labels.
        labels: Labels,
        /// Their number.
        result: Option<NumericIdentity>,
    },
    /// Whether a pod goes on living.
    Confirmed {
        /// Its uid.
        uid: String,
        /// The interface that it was asked for.
        ifindex: u32,
        /// It does; none when the API could not be asked.
        lives: Option<bool>,
    },
    /// Something was told, or the API would not hear it.
    Told,
}

/// Asks questions; each one once at a time.
pub struct Work {
    client: Client,
    identities: KubeIdentities,
    tasks: JoinSet<Done>,
    allocating: BTreeSet<Labels>,
    confirming: BTreeSet<(String, u32)>,
}

impl Work {
    /// Through this client.
    pub fn new(client: Client) -> Self {
        Self {
            identities: KubeIdentities::new(&client),
            client,
            tasks: JoinSet::new(),
            allocating: BTreeSet::new(),
            confirming: BTreeSet::new(),
        }
    }

    /// Asks for the number of a label set.
    pub fn allocate(&mut self, known: &Arc<Numbers>, labels: Labels) {
        if !self.allocating.insert(labels.clone()) {
            return;
        }
        let (api, known) = (self.identities.clone(), known.clone());
        self.tasks.spawn(async move {
            let result = match allocate(&api, &known, &labels).await {
                Ok(id) => Some(id),
                Err(error) => {
                    warn_allocation(&error, &labels);
                    tokio::time::sleep(RETRY).await;
                    None
                }
            };
            Done::Identity { labels, result }
        });
    }

    /// Asks whether a pod goes on living under this uid.
    pub fn confirm(&mut self, key: &ObjectKey, uid: String, ifindex: u32) {
        if !self.confirming.insert((uid.clone(), ifindex)) {
            return;
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let name = key.name.clone();
        self.tasks.spawn(async move {
            let lives = match api.get_opt(&name).await {
                Ok(pod) => Some(pod.is_some_and(|pod| is_living(&pod, &uid))),
                Err(_) => {
                    tokio::time::sleep(RETRY).await;
                    None
                }
            };
            Done::Confirmed {
                uid,
                ifindex,
                lives,
            }
        });
    }

    /// Tells users something about an object. An API that is away is told later;
    /// what it refuses is left at that.
    pub fn tell(&mut self, event: Event) {
        let client = self.client.clone();
        self.tasks.spawn(async move {
            for _ in 0..TELLING {
                match event::tell(&client, &event).await {
                    Err(error) if !matches!(error, kube::Error::Api(_)) => {
                        tokio::time::sleep(RETRY).await;
                    }
                    Err(error) => {
                        debug!(%error, "an event was refused");
                        break;
                    }
                    Ok(_) => break,
                }
            }
            Done::Told
        });
    }

    /// The next answer; pending for ever while nothing is asked.
    pub async fn next(&mut self) -> Done {
        loop {
            match self.tasks.join_next().await {
                Some(Ok(done)) => {
                    match &done {
                        Done::Identity { labels, .. } => {
                            self.allocating.remove(labels);
                        }
                        Done::Confirmed { uid, ifindex, .. } => {
                            self.confirming.remove(&(uid.clone(), *ifindex));
                        }
                        Done::Told => {}
                    }
                    return done;
                }
                Some(Err(error)) => warn!(%error, "a question to the API was lost"),
                None => std::future::pending::<()>().await,
            }
        }
    }
}

/// Whether it is this pod and it goes on living: the address of one that is
/// being deleted may be another's already.
fn is_living(pod: &Pod, uid: &str) -> bool {
    pod.uid().as_deref() == Some(uid) && pod.metadata.deletion_timestamp.is_none()
}

fn warn_allocation(error: &AllocateError, labels: &Labels) {
    warn!(%error, labels = ?labels.to_strings(), "no identity yet, trying again");
}
