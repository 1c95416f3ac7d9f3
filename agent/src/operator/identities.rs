//! Removes identity objects that no pod has carried for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::TryFutureExt as _;
use k8s_openapi::api::core::v1 as core;
use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::core::DynamicObject;
use kube::{Api, Client, ResourceExt as _};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};
use weft_core::model::Labels;

use crate::identity::pod_labels;
use crate::kube::{convert, identity_resource};
use crate::state::{Change, ClusterState, Delta};

/// Looks for unused identities until `stop` is cancelled. An identity goes
/// when it was unused at every look for at least `grace`.
pub async fn collect(client: Client, cluster: String, grace: Duration, stop: CancellationToken) {
    // Several looks within the grace period, so that one that fell into a
    // rollout's gap does not decide.
    let mut ticks = tokio::time::interval((grace / 4).max(Duration::from_secs(1)));
    let mut unused = Unused::default();
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let look = look(&client, &cluster, &mut unused, grace);
        match Box::pin(stop.run_until_cancelled(look)).await {
            Some(Err(error)) => debug!(%error, "identities not looked at, trying again later"),
            Some(Ok(())) => {}
            None => return,
        }
    }
}

async fn look(
    client: &Client,
    cluster: &str,
    unused: &mut Unused,
    grace: Duration,
) -> Result<(), kube::Error> {
    let identities: Api<DynamicObject> = Api::all_with(client.clone(), &identity_resource());
    let everything = ListParams::default();
    // Identities first: one that is made after this list is not judged by it.
    let objects = identities.list(&everything).await?;
    let pods: Api<core::Pod> = Api::all(client.clone());
    let namespaces: Api<core::Namespace> = Api::all(client.clone());
    let (pods, namespaces) = tokio::try_join!(
        pods.list(&everything).map_ok(|list| list.items),
        namespaces.list(&everything).map_ok(|list| list.items),
    )?;
    let mut state = ClusterState::default();
    let namespaces = namespaces.into_iter().filter_map(convert::namespace);
    state.apply(Change::Namespaces(Delta::Replace(namespaces.collect())));
    let used: BTreeSet<Labels> = pods
        .into_iter()
        .filter_map(convert::pod)
        .filter_map(|pod| pod_labels(&pod, &state, cluster))
        .collect();
    let mut versions = BTreeMap::new();
    let mut known = BTreeMap::new();
    for object in objects.items {
        let name = object.name_any();
        versions.insert(name.clone(), object.resource_version());
        if let Some(identity) = convert::identity(object) {
            known.insert(name, identity.labels);
        }
    }
    for name in unused.overdue(&known, &used, grace, Instant::now()) {
        // Only this very version: a node may have taken it up again.
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                resource_version: versions.remove(&name).flatten(),
                uid: None,
            }),
            ..DeleteParams::default()
        };
        match identities.delete(&name, &params).await {
            Ok(_) => info!(identity = %name, "removed an unused identity"),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Since when identities have been unused.
#[derive(Default)]
struct Unused(BTreeMap<String, Instant>);

impl Unused {
    /// Names of those that have been unused for `grace`.
    fn overdue(
        &mut self,
        known: &BTreeMap<String, Labels>,
        used: &BTreeSet<Labels>,
        grace: Duration,
        now: Instant,
    ) -> Vec<String> {
        self.0
            .retain(|name, _| known.get(name).is_some_and(|labels| !used.contains(labels)));
        known
            .iter()
            .filter(|(_, labels)| !used.contains(labels))
            .filter_map(|(name, _)| {
                let since = *self.0.entry(name.clone()).or_insert(now);
                (now.saturating_duration_since(since) >= grace).then(|| name.clone())
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(value: &str) -> Labels {
        Labels::parse_all([format!("k8s:app={value}").as_str()]).expect("labels")
    }

    #[test]
    fn only_what_stayed_unused_for_the_whole_grace_goes() {
        let grace = Duration::from_secs(60);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let known = BTreeMap::from([("300".to_owned(), labels("a")), ("301".into(), labels("b"))]);
        let b_used = BTreeSet::from([labels("b")]);
        let none = BTreeSet::new();
        let mut unused = Unused::default();
        assert!(unused.overdue(&known, &b_used, grace, at(0)).is_empty());
        assert!(unused.overdue(&known, &none, grace, at(59)).is_empty());
        assert_eq!(unused.overdue(&known, &none, grace, at(60)), ["300"]);
        // Used again in between: the wait starts over.
        let both = BTreeSet::from([labels("a"), labels("b")]);
        assert!(unused.overdue(&known, &both, grace, at(61)).is_empty());
        assert!(unused.overdue(&known, &none, grace, at(121)).is_empty());
    }
}
