//! Whether the API server may accept a filter: what nodes would refuse is refused
//! at once, with the path of the field.
//!
//! ```text
//! API server ── TLS (server, certificate) ── review ── schemas ── the module's bytes
//! ```
//!
//! A module carries the schema of its configuration, so nothing of it is run here.
//! Where the schema cannot be had, the object is accepted with a warning: nodes check
//! it in any case before it comes into force. For the same reason the API server
//! goes on without an operator.

mod bodies;
mod certificate;
mod registration;
mod request;
mod review;
mod schemas;
mod seats;
mod server;

use std::sync::Arc;

use kube::{Api, Client};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::OperatorArgs;
use crate::filter::ClientError;
use registration::Webhook;
use review::Reviewer;
use schemas::Schemas;
use server::Certificates;

/// What the API server trusts; none before there is a certificate.
pub(super) struct Admission {
    webhook: Webhook,
    certificates: Certificates,
}

/// Serves reviews, whichever operator works: the Service leads to any of them.
///
/// # Errors
/// When the file of authorities cannot be used.
pub(super) fn serve(
    client: &Client,
    args: &OperatorArgs,
    stop: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<Admission, ClientError> {
    let schemas = Schemas::new(args.origins.origins().open(client.clone())?);
    let webhook = Webhook {
        namespace: args.lease_namespace.clone(),
        service: args.admission_service.clone(),
    };
    let secrets = Api::namespaced(client.clone(), &args.lease_namespace);
    let (sender, certificates) = watch::channel(None);
    tasks.spawn(certificate::keep(
        secrets,
        webhook.names(),
        certificate::AGAIN,
        sender,
        stop.clone(),
    ));
    tasks.spawn(server::serve(
        args.admission_listen,
        certificates.clone(),
        Arc::new(Reviewer::new(schemas)),
        stop.clone(),
    ));
    Ok(Admission {
        webhook,
        certificates,
    })
}

impl Admission {
    /// Has the API server ask, and trust who answers.
    pub(super) fn register(
        self,
        client: Client,
        stop: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) {
        let Self {
            webhook,
            certificates,
        } = self;
        tasks.spawn(registration::keep(
            client,
            webhook,
            certificates,
            stop.clone(),
        ));
    }
}
