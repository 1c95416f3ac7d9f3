//! What the agent must know of its node before it can load anything.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::kube::convert;

/// Wait between attempts while the API is away or the node is incomplete.
const RETRY: Duration = Duration::from_millis(200);
/// Attempts that are not worth a line in the log.
const QUIET: u32 = 25;

/// The node's place in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// Its address.
    pub ip: Ipv4Addr,
    /// Network of its pods.
    pub pods: Ipv4Net,
}

/// Asks the API. When it cannot be asked, what was found last time holds: a
/// node does not change its addresses, and a restart of the agent must not
/// depend on the API being there.
pub async fn facts(client: &Client, name: &str, state_dir: &Path) -> NodeFacts {
    let kept = file(state_dir);
    let api: Api<Node> = Api::all(client.clone());
    let mut attempts = 0;
    loop {
        match api.get_opt(name).await {
            Ok(node) => {
                if let Some(facts) = node.and_then(convert::node).and_then(|node| of(&node)) {
                    if let Err(error) = keep(&kept, &facts) {
                        warn!(path = %kept.display(), %error, "node facts not kept");
                    }
                    return facts;
                }
                if attempts == QUIET {
                    info!(
                        node = name,
                        "waiting for its Node object, address and pod range"
                    );
                }
            }
            Err(error) => {
                if let Some(facts) = read(&kept) {
                    info!(%error, "the API is away: going on with what was known");
                    return facts;
                }
                if attempts == QUIET {
                    warn!(%error, "the API is away and nothing is known of the node yet");
                }
            }
        }
        attempts += 1;
        tokio::time::sleep(RETRY).await;
    }
}

fn of(node: &crate::state::Node) -> Option<NodeFacts> {
    Some(NodeFacts {
        ip: *node.addresses.first()?,
        pods: node.pod_ranges().next()?,
    })
}

fn file(state_dir: &Path) -> PathBuf {
    state_dir.join("node.json")
}

fn read(path: &Path) -> Option<NodeFacts> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn keep(path: &Path, facts: &NodeFacts) -> io::Result<()> {
    if read(path).as_ref() == Some(facts) {
        return Ok(());
    }
    crate::private::replace(path, &serde_json::to_vec(facts)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_known_survives() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = file(dir.path());
        assert_eq!(read(&path), None);
        let facts = NodeFacts {
            ip: Ipv4Addr::new(172, 18, 0, 2),
            pods: "10.244.1.0/24".parse().expect("a range"),
        };
        keep(&path, &facts).expect("kept");
        assert_eq!(read(&path), Some(facts));
    }
}
