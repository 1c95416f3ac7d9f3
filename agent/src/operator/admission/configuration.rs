//! What the API server asks the operators about: the ValidatingWebhookConfiguration.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use weft_api::k8s::filter::{FilterKind, GROUP, VERSION, plural};

use super::certificate::Certificate;
use super::server::{LONGEST, PATH};

/// Name of the configuration.
const NAME: &str = "weft-filters";
/// Name of the webhook in it: what users are told refused their object.
const HOOK: &str = "filters.weft.dev";
/// Whose fields these are.
const MANAGER: &str = "weft-operator";
/// Port of the Service.
const PORT: u16 = 443;
/// What the network may take, beside what an answer takes at most.
const MARGIN: Duration = Duration::from_secs(1);
/// Between two writes: it may have been changed, or removed, by somebody.
const AGAIN: Duration = Duration::from_secs(300);
/// Wait after one that failed.
const RETRY: Duration = Duration::from_secs(5);

/// Where the API server asks.
#[derive(Debug, Clone)]
pub(super) struct Webhook {
    /// Namespace of the Service.
    pub(super) namespace: String,
    /// Its name.
    pub(super) service: String,
}

impl Webhook {
    /// By which names it is reached.
    pub(super) fn names(&self) -> Vec<String> {
        let name = format!("{}.{}.svc", self.service, self.namespace);
        vec![name.clone(), format!("{name}.cluster.local")]
    }

    /// The object, for those who trust this authority (PEM).
    fn configuration(&self, authority: &[u8]) -> Value {
        let kinds = [FilterKind::WeftFilter, FilterKind::WeftClusterFilter];
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {
                "name": NAME,
                "labels": {"app.kubernetes.io/part-of": "weft"},
            },
            "webhooks": [{
                "name": HOOK,
                "clientConfig": {
                    "service": {
                        "namespace": self.namespace, "name": self.service,
                        "path": PATH, "port": PORT,
                    },
                    "caBundle": STANDARD.encode(authority),
                },
                "rules": [{
                    "apiGroups": [GROUP],
                    "apiVersions": [VERSION],
                    "resources": kinds.map(plural),
                    "operations": ["CREATE", "UPDATE"],
                    "scope": "*",
                }],
                // Nodes check as well: nothing comes into force that is wrong.
                "failurePolicy": "Ignore",
                "matchPolicy": "Equivalent",
                "sideEffects": "None",
                "timeoutSeconds": (LONGEST + MARGIN).as_secs(),
                "admissionReviewVersions": ["v1"],
            }],
        })
    }
}

/// Writes it whenever there is another certificate, and now and then, until `stop` is
/// cancelled.
pub(super) async fn keep(
    client: Client,
    webhook: Webhook,
    mut certificate: watch::Receiver<Option<Arc<Certificate>>>,
    stop: CancellationToken,
) {
    let api: Api<ValidatingWebhookConfiguration> = Api::all(client);
    let params = PatchParams::apply(MANAGER).force();
    let mut told = None;
    loop {
        let authority = certificate
            .borrow_and_update()
            .as_ref()
            .map(|one| one.authority.clone());
        let mut wait = AGAIN;
        if let Some(authority) = authority {
            let object = webhook.configuration(&authority);
            let written = api.patch(NAME, &params, &Patch::Apply(&object)).await;
            let said = written.err().map(|error| error.to_string());
            if told.as_ref() != Some(&said) {
                match &said {
                    None => info!(name = NAME, "filters are checked when they are applied"),
                    Some(error) => warn!(
                        error,
                        "the API server cannot be told to have filters checked; trying again"
                    ),
                }
            }
            if said.is_some() {
                wait = RETRY;
            }
            told = Some(said);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = certificate.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_is_one_that_kubernetes_knows() {
        let webhook = Webhook {
            namespace: "mesh".to_owned(),
            service: "checks".to_owned(),
        };
        let object = webhook.configuration(b"PEM");
        let read: ValidatingWebhookConfiguration =
            serde_json::from_value(object).expect("it is one");
        let hooks = read.webhooks.expect("webhooks");
        let [hook] = &hooks[..] else {
            panic!("{hooks:?}")
        };
        assert_eq!(hook.name, "filters.weft.dev");
        assert_eq!(hook.failure_policy.as_deref(), Some("Ignore"));
        assert_eq!(hook.side_effects, "None");
        let rules = hook.rules.as_ref().expect("rules");
        let resources = rules[0].resources.as_deref().expect("resources");
        assert_eq!(resources, ["weftfilters", "weftclusterfilters"]);
        assert_eq!(
            hook.client_config
                .ca_bundle
                .as_ref()
                .expect("an authority")
                .0,
            b"PEM"
        );
        assert_eq!(webhook.names()[0], "checks.mesh.svc");
    }
}
