//! `weft-agent relay`: every node's flows from one place.
//!
//! Nodes come from the Kubernetes API; each serves its own flows. A question
//! is put to all of them at once and their answers are merged by time.

mod discover;
mod flows;
mod merge;
mod peers;
mod service;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tracing::info;
use weft_api::hubble::observer::observer_server::ObserverServer;

use crate::observer::routes;
use peers::{AddressTemplate, Peers};
use service::RelayService;

/// Flags of `relay`.
#[derive(Clone, Debug, Args)]
pub struct RelayArgs {
    /// TCP address to serve on.
    #[arg(long, env = "WEFT_RELAY_LISTEN", default_value = "127.0.0.1:4245")]
    pub listen: SocketAddr,
    /// Kubeconfig file; without it the pod's service account is used.
    #[arg(long, env = "WEFT_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Where a node's observer is: `{node}` is its name, `{ip}` its address.
    #[arg(long, env = "WEFT_RELAY_PEER_ADDRESS", default_value = "{ip}:4244")]
    pub peer_address: AddressTemplate,
}

/// Relays until `shutdown` is cancelled.
///
/// # Errors
/// When there is no way to the Kubernetes API, or the address cannot be bound.
pub async fn run(args: RelayArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let client = crate::kube::client(args.kubeconfig.as_deref()).await?;
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("listening on {}", args.listen))?;
    let peers = Peers::default();
    info!(listen = %args.listen, "relaying flows");
    let follow_nodes = discover::run(client, args.peer_address, peers.clone(), shutdown.clone());
    let (served, ()) = tokio::join!(serve(listener, peers, shutdown), follow_nodes);
    served.context("serving flows")
}

async fn serve(
    listener: TcpListener,
    peers: Peers,
    shutdown: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let service = RelayService::new(peers, shutdown.clone());
    let routes = routes(ObserverServer::new(service)).await;
    Server::builder()
        .add_routes(routes)
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), shutdown.cancelled_owned())
        .await
}
