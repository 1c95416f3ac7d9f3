//! Says of every Kubernetes NetworkPolicy that it is not enforced yet: the API
//! takes it, and nobody else would tell.

use std::time::Duration;

use futures_util::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::{Event, ObjectReference};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::kube::event::{self, Teller};

/// Wait between attempts while the API is away.
const RETRY: Duration = Duration::from_secs(1);
/// Why, as events name it.
const REASON: &str = "NotEnforced";
/// What users read.
const MESSAGE: &str = "weft does not enforce Kubernetes NetworkPolicy yet: \
                       write it as a CiliumNetworkPolicy";

/// Tells until `stop` is cancelled.
pub(super) async fn tell(client: Client, stop: CancellationToken) {
    let policies: Api<NetworkPolicy> = Api::all(client.clone());
    let policies = watcher(policies, watcher::Config::default()).applied_objects();
    pin_mut!(policies);
    while let Some(Some(next)) = stop.run_until_cancelled(policies.next()).await {
        match next {
            Ok(policy) => tell_of(&client, &policy).await,
            Err(error) => {
                debug!(%error, "network policies cannot be watched, trying again");
                let pause = tokio::time::sleep(RETRY);
                stop.run_until_cancelled(pause).await;
            }
        }
    }
}

async fn tell_of(client: &Client, policy: &NetworkPolicy) {
    match event::tell(client, &event(policy, Timestamp::now())).await {
        Ok(true) => {}
        // Told before, of this very version.
        Ok(false) => return,
        Err(error) => debug!(%error, "no event about a network policy"),
    }
    let namespace = policy.namespace().unwrap_or_default();
    warn!(namespace, policy = %policy.name_any(), "{MESSAGE}");
}

/// One for each version of an object.
fn event(policy: &NetworkPolicy, now: Timestamp) -> Event {
    let uid = policy.uid().unwrap_or_default();
    let generation = policy.metadata.generation.unwrap_or_default();
    let object = ObjectReference {
        resource_version: policy.resource_version(),
        ..policy.object_ref(&())
    };
    let teller = Teller {
        component: "weft-operator",
        host: None,
    };
    let about = [uid.as_str(), &generation.to_string()];
    event::warning(object, &about, (REASON, MESSAGE), teller, now)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn policy(uid: &str, generation: i64) -> NetworkPolicy {
        NetworkPolicy {
            metadata: ObjectMeta {
                name: Some("web".into()),
                namespace: Some("shop".into()),
                uid: Some(uid.into()),
                generation: Some(generation),
                ..ObjectMeta::default()
            },
            ..NetworkPolicy::default()
        }
    }

    #[test]
    fn each_version_of_an_object_has_one_event() {
        let name = |uid, generation| {
            let event = event(&policy(uid, generation), Timestamp::UNIX_EPOCH);
            event.metadata.name.expect("a name")
        };
        assert_eq!(name("a", 1), name("a", 1));
        assert_ne!(name("a", 1), name("a", 2));
        assert_ne!(name("a", 1), name("b", 1));
    }

    #[test]
    fn an_events_name_is_never_too_long() {
        let mut policy = policy("a", 1);
        policy.metadata.name = Some(format!("{}-{}", "a".repeat(235), "b".repeat(17)));
        let name = event(&policy, Timestamp::UNIX_EPOCH).metadata.name;
        let name = name.expect("a name");
        assert!(name.len() <= 253, "{name}");
        assert!(name.starts_with("aaa") && name.contains("a."), "{name}");
    }

    #[test]
    fn the_event_is_the_policys() {
        let event = event(&policy("a", 1), Timestamp::UNIX_EPOCH);
        assert_eq!(event.metadata.namespace.as_deref(), Some("shop"));
        let object = event.involved_object;
        assert_eq!(object.kind.as_deref(), Some("NetworkPolicy"));
        assert_eq!(object.api_version.as_deref(), Some("networking.k8s.io/v1"));
        assert_eq!(object.uid.as_deref(), Some("a"));
    }
}
