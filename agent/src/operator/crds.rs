//! Installs the resource definitions that are missing.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt as _};
use tracing::{info, warn};

/// Wait between attempts while the API is away or refuses.
const RETRY: Duration = Duration::from_secs(1);

/// Creates what is missing and leaves alone what is there: a cluster may carry
/// newer or stricter definitions of the same kinds. Tries until all are there.
pub async fn ensure(client: &Client) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in weft_api::k8s::crds() {
        loop {
            match api.create(&PostParams::default(), &definition).await {
                Ok(_) => {
                    info!(name = %definition.name_any(), "installed a resource definition");
                    break;
                }
                Err(kube::Error::Api(status)) if status.code == 409 => break,
                Err(error) => {
                    warn!(name = %definition.name_any(), %error, "cannot install, trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}
