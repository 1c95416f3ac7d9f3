//! The Kubernetes API as the agent sees it: a client, and a watch that turns
//! objects into the plain state of [`crate::state`].

pub(crate) mod convert;
pub(crate) mod event;
mod resources;
mod watch;

use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

pub use resources::{
    ccec_resource, ccnp_resource, cec_resource, cnp_resource, filter_report_resource,
    filter_resource, identity_resource,
};
pub(crate) use watch::{Kind, follow};
pub use watch::{Watched, spawn as spawn_watch};

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig file cannot be used.
    #[error("kubeconfig: {0}")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// Neither a kubeconfig nor a service account was found.
    #[error("no way to the API: {0}")]
    Infer(#[from] kube::config::InferConfigError),
    /// The configuration was read but no client comes of it.
    #[error("client: {0}")]
    Client(#[from] Box<kube::Error>),
}

/// A client from the kubeconfig file, or from the pod's service account.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, ClientError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
        }
        None => Config::infer().await?,
    };
    // A dead API server must be noticed before the next policy change is due;
    // watches are renewed by the server well within the read timeout.
    config.connect_timeout = Some(Duration::from_secs(5));
    Client::try_from(config).map_err(|error| ClientError::Client(Box::new(error)))
}
