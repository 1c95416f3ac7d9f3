//! The status of filters: whether they are accepted, which an event says as well
//! when they are not, and what the nodes say of them.
//!
//! Nodes write a report each, and only the operator writes into the objects: what
//! thousands of nodes wrote there would wake all of them each time.

mod conditions;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::controller::{self, Action, Controller};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt as _};
use serde::Deserialize as _;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use weft_api::k8s::filter::{FilterReport, FilterStatus, NodeFilter, read};
use weft_core::filter::{FilterKey, FilterKind};

use super::status::{api_of, refusal};
use crate::kube::{Kind, event, filter_report_resource, filter_resource, follow};
use crate::state::{Delta, Keyed, ObjectKey};

/// Why, as events name it.
const REASON: &str = "FilterRefused";
/// Changes of an object, and of what nodes say of it, are gathered for this long.
const GATHER: Duration = Duration::from_millis(250);
/// Wait before a status that could not be written is written again.
const RETRY: Duration = Duration::from_secs(1);

/// Starts a controller for each kind, and what follows the nodes' reports.
pub(super) fn spawn(client: &Client, stop: &CancellationToken, tasks: &mut JoinSet<()>) {
    let reports = Reports::default();
    let mut wakers = BTreeMap::new();
    for kind in FilterKind::ALL {
        let resource = filter_resource(kind);
        let (waker, woken) = mpsc::channel(1);
        wakers.insert(kind, waker);
        let context = Arc::new(Context {
            client: client.clone(),
            kind,
            resource: resource.clone(),
            reports: reports.clone(),
        });
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let stop = stop.clone();
        tasks.spawn(
            Controller::new_with(api, watcher::Config::default(), resource)
                .with_config(controller::Config::default().debounce(GATHER))
                .reconcile_all_on(ReceiverStream::new(woken))
                .graceful_shutdown_on(stop.cancelled_owned())
                .run(reconcile, |_, _, _| Action::requeue(RETRY), context)
                .for_each(|result| async {
                    if let Err(error) = result {
                        debug!(%error, "status not written, trying again");
                    }
                }),
        );
    }
    tasks.spawn(gather(client.clone(), reports, wakers, stop.clone()));
}

/// What all nodes say. Clones are the same.
#[derive(Clone, Default)]
struct Reports(Arc<Mutex<Said>>);

#[derive(Default)]
struct Said {
    /// All reports were listed once.
    complete: bool,
    by_node: BTreeMap<String, BTreeMap<FilterKey, NodeFilter>>,
}

impl Reports {
    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What nodes say of a filter; none before all is known.
    fn of(&self, key: &FilterKey) -> Option<Vec<(String, NodeFilter)>> {
        let said = self.said();
        let nodes = said.by_node.iter();
        let nodes = nodes.filter_map(|(node, filters)| {
            let filter = filters.get(key)?.clone();
            Some((node.clone(), filter))
        });
        said.complete.then(|| nodes.collect())
    }

    /// Takes a change in; returns the filters of which something else is said now.
    fn apply(&self, delta: Delta<Report>) -> BTreeSet<FilterKey> {
        let mut said = self.said();
        let before = said.by_node.clone();
        match delta {
            Delta::Replace(all) => {
                said.complete = true;
                said.by_node = all.into_iter().map(|one| (one.node, one.filters)).collect();
            }
            Delta::Apply(one) => {
                said.by_node.insert(one.node, one.filters);
            }
            Delta::Delete(key) => {
                said.by_node.remove(&key.name);
            }
        }
        let mut changed = BTreeSet::new();
        let nodes = before.keys().chain(said.by_node.keys());
        for node in nodes {
            let (old, new) = (before.get(node), said.by_node.get(node));
            let keys = [old, new].into_iter().flatten().flat_map(BTreeMap::keys);
            let differ = |key: &&FilterKey| {
                let of = |side: Option<&BTreeMap<FilterKey, NodeFilter>>| {
                    side.and_then(|filters| filters.get(*key)).cloned()
                };
                of(old) != of(new)
            };
            changed.extend(keys.filter(differ).cloned());
        }
        changed
    }
}

/// The report of a node.
#[derive(Debug)]
struct Report {
    node: String,
    filters: BTreeMap<FilterKey, NodeFilter>,
}

impl Keyed for Report {
    fn key(&self) -> ObjectKey {
        ObjectKey::new("", &self.node)
    }
}

/// A report that cannot be read says nothing.
fn report(object: DynamicObject) -> Option<Report> {
    let node = object.name_any();
    let report = FilterReport::deserialize(&object.data).unwrap_or_default();
    let filters = report.filters.into_iter().filter_map(|filter| {
        let key = FilterKey {
            kind: FilterKind::from_name(&filter.kind)?,
            namespace: filter.namespace.as_str().into(),
            name: filter.name.as_str().into(),
        };
        Some((key, filter))
    });
    Some(Report {
        node,
        filters: filters.collect(),
    })
}

type Wakers = BTreeMap<FilterKind, mpsc::Sender<()>>;

/// Follows the reports and wakes the controllers of what they are about.
async fn gather(client: Client, reports: Reports, wakers: Wakers, stop: CancellationToken) {
    let api = Api::<DynamicObject>::all_with(client, &filter_report_resource());
    let (sender, mut changes) = mpsc::channel(64);
    let follow = follow(api, Kind::Installed, report, |delta| delta, sender);
    let wake = async {
        while let Some(delta) = changes.recv().await {
            let kinds: BTreeSet<_> = reports.apply(delta).iter().map(|key| key.kind).collect();
            for (kind, waker) in &wakers {
                if kinds.contains(kind) {
                    // A waker that is full will wake.
                    let _woken = waker.try_send(());
                }
            }
        }
    };
    let both = async { tokio::join!(follow, wake) };
    Box::pin(stop.run_until_cancelled(both)).await;
}

struct Context {
    client: Client,
    kind: FilterKind,
    resource: ApiResource,
    reports: Reports,
}

async fn reconcile(
    object: Arc<DynamicObject>,
    context: Arc<Context>,
) -> Result<Action, kube::Error> {
    let Ok(raw) = serde_json::to_value(&*object) else {
        return Ok(Action::await_change());
    };
    let verdict = read(context.kind, &raw);
    let key = weft_api::k8s::filter::key_of(context.kind, &raw);
    let nodes = context.reports.of(&key);
    let next = match &nodes {
        Some(_) => Action::await_change(),
        None => Action::requeue(RETRY),
    };
    let before = raw.get("status").cloned().unwrap_or_default();
    let before: FilterStatus = serde_json::from_value(before).unwrap_or_default();
    let generation = object.metadata.generation;
    let now = Timestamp::now();
    let Some(status) = conditions::changed(&before, generation, &verdict, nodes, now) else {
        return Ok(next);
    };
    let accepted = conditions::of(&status, FilterStatus::ACCEPTED);
    info!(filter = %key, accepted = accepted.map(|one| &*one.status),
        loaded = conditions::of(&status, FilterStatus::LOADED).map(|one| &*one.status),
        "status changed");
    if let Err(errors) = &verdict
        && conditions::of(&before, FilterStatus::ACCEPTED) != accepted
    {
        let message = errors.to_string();
        let event = refusal(&object, &context.resource, (REASON, &message), now);
        match event::tell(&context.client, &event).await {
            Err(kube::Error::Api(error)) => debug!(%error, "an event was refused"),
            told => drop(told?),
        }
    }
    let api = api_of(&context.client, &object, &context.resource);
    let status = Patch::Merge(json!({ "status": status }));
    let params = PatchParams::default();
    api.patch_status(&object.name_any(), &params, &status)
        .await?;
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> FilterKey {
        FilterKey {
            kind: FilterKind::WeftFilter,
            namespace: "shop".into(),
            name: name.into(),
        }
    }

    fn said(node: &str, filters: &[(&str, bool)]) -> Report {
        let filters = filters.iter().map(|(name, loaded)| {
            json!({"kind": "WeftFilter", "namespace": "shop", "name": name, "loaded": loaded})
        });
        let object = json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "WeftFilterReport",
            "metadata": {"name": node},
            "filters": filters.collect::<Vec<_>>(),
        });
        report(serde_json::from_value(object).expect("an object")).expect("a report")
    }

    fn keys(names: &[&str]) -> BTreeSet<FilterKey> {
        names.iter().map(|name| key(name)).collect()
    }

    #[test]
    fn a_report_wakes_what_it_says_something_else_of() {
        let reports = Reports::default();
        reports.apply(Delta::Apply(said("one", &[("a", true)])));
        assert_eq!(reports.of(&key("a")), None, "not all is known");
        let first = vec![
            said("one", &[("a", true), ("b", false)]),
            said("two", &[("a", false)]),
        ];
        assert_eq!(reports.apply(Delta::Replace(first)), keys(&["a", "b"]));
        let nodes = reports.of(&key("a")).expect("known");
        let nodes: Vec<_> = nodes
            .iter()
            .map(|(node, said)| (&**node, said.loaded))
            .collect();
        assert_eq!(nodes, [("one", true), ("two", false)]);
        let same = Delta::Apply(said("one", &[("a", true), ("b", false)]));
        assert!(reports.apply(same).is_empty());
        let less = Delta::Apply(said("one", &[("b", true)]));
        assert_eq!(reports.apply(less), keys(&["a", "b"]));
        let gone = Delta::Delete(ObjectKey::new("", "two"));
        assert_eq!(reports.apply(gone), keys(&["a"]));
        assert_eq!(reports.of(&key("a")), Some(Vec::new()));
    }

    #[test]
    fn a_report_that_cannot_be_read_says_nothing() {
        let object = json!({
            "apiVersion": "weft.dev/v1alpha1", "kind": "WeftFilterReport",
            "metadata": {"name": "one"}, "filters": {"a": 1},
        });
        let report = report(serde_json::from_value(object).expect("an object"));
        assert!(report.expect("a report").filters.is_empty());
    }
}
