//! What the API server asks the operators about: the ValidatingWebhookConfiguration.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use weft_api::k8s::filter::{FilterKind, GROUP, VERSION, plural};

use super::certificate::Certificate;
use super::review::ANSWER_WITHIN;
use super::server::{Certificates, PATH};

/// Name of the configuration.
const NAME: &str = "weft-filters";
/// Name of the webhook in it: what users are told refused their object.
const HOOK: &str = "filters.weft.dev";
/// Whose fields these are.
const MANAGER: &str = "weft-operator";
/// Port of the Service.
const PORT: u16 = 443;
/// How long the API server waits for an answer and for the network.
const API_TIMEOUT: Duration = ANSWER_WITHIN.saturating_add(Duration::from_secs(1));
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

    /// The object, for those who trust the authority of this certificate.
    fn configuration(&self, certificate: &Certificate) -> Value {
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
                        "path": format!("{PATH}{}", certificate.token), "port": PORT,
                    },
                    "caBundle": STANDARD.encode(&certificate.authority),
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
                "timeoutSeconds": API_TIMEOUT.as_secs(),
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
    mut certificates: Certificates,
    stop: CancellationToken,
) {
    let api: Api<ValidatingWebhookConfiguration> = Api::all(client);
    let params = PatchParams::apply(MANAGER).force();
    let mut told = None;
    loop {
        let certificate = certificates.borrow_and_update().clone();
        let mut wait = AGAIN;
        if let Some(certificate) = certificate {
            let object = webhook.configuration(&certificate);
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
            changed = certificates.changed() => if changed.is_err() { return },
            // What was refused is tried again; what is there may have been changed by somebody.
            () = tokio::time::sleep(wait) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::admission::certificate;

    #[test]
    fn the_object_is_one_that_kubernetes_knows() {
        let webhook = Webhook {
            namespace: "mesh".to_owned(),
            service: "checks".to_owned(),
        };
        let certificate = certificate::tests::made();
        let object = webhook.configuration(&certificate);
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
        assert_eq!(hook.timeout_seconds, Some(10));
        let asked = &hook.client_config;
        let authority = asked.ca_bundle.as_ref().expect("an authority");
        assert_eq!(authority.0, certificate.authority);
        let service = asked.service.as_ref().expect("a Service");
        let path = service.path.as_deref().expect("a path");
        assert_eq!(path, format!("/admission/filters/{}", certificate.token));
        assert_eq!(webhook.names()[0], "checks.mesh.svc");
    }
}
