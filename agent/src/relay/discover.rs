//! Peers from the Node objects of the Kubernetes API.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::{StreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::Node;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::peers::{AddressTemplate, Peer, Peers};

/// Wait between attempts while the API is away; the peers known so far serve
/// on meanwhile.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps the peers as the nodes are, until `stop` is cancelled.
pub(super) async fn run(
    client: Client,
    template: AddressTemplate,
    peers: Peers,
    stop: CancellationToken,
) {
    let nodes: Api<Node> = Api::all(client);
    let events = watcher::watcher(nodes, watcher::Config::default());
    pin_mut!(events);
    let mut listed = BTreeSet::new();
    loop {
        let Some(Some(event)) = stop.run_until_cancelled(events.next()).await else {
            return;
        };
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(node)) => {
                listed.extend(node.metadata.name.clone());
                put(&peers, &template, &node);
            }
            Ok(Event::InitDone) => peers.retain(|name| listed.contains(name)),
            Ok(Event::Apply(node)) => put(&peers, &template, &node),
            Ok(Event::Delete(node)) => {
                let gone = node.metadata.name.unwrap_or_default();
                info!(node = %gone, "peer gone");
                peers.retain(|name| name != gone);
            }
            Err(error) => {
                warn!(%error, "nodes cannot be watched, trying again");
                let pause = tokio::time::sleep(RETRY);
                if stop.run_until_cancelled(pause).await.is_none() {
                    return;
                }
            }
        }
    }
}

fn put(peers: &Peers, template: &AddressTemplate, node: &Node) {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let Some(address) = template.of(name, internal_ip(node)) else {
        info!(node = name, "a node without an address");
        return;
    };
    match Peer::new(name, &address) {
        Ok(peer) => peers.put(peer),
        Err(error) => warn!(node = name, address, %error, "no address of a peer"),
    }
}

fn internal_ip(node: &Node) -> Option<&str> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let internal = addresses
        .iter()
        .find(|address| address.type_ == "InternalIP");
    internal.map(|address| address.address.as_str())
}
