//! What the agent tells about itself: the source of the admin socket.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::watch;

use crate::control::ProxyStatus;

/// How far an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointPhase {
    /// The pod is known, its interface is not there yet.
    WaitingForInterface,
    /// Its labels have no number yet.
    WaitingForIdentity,
    /// The proxy has not heard of it yet, or does not have the rules of its
    /// first policy.
    WaitingForProxy,
    /// The programs could not be attached or its maps not be written.
    Failed,
    /// Attached, and its policy is in the maps.
    Ready,
}

/// One pod of this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EndpointStatus {
    /// Number in the maps, 0 before it has one.
    pub id: u32,
    /// Its identity, 0 before it has one.
    pub identity: u32,
    /// Its address.
    pub ip: Ipv4Addr,
    /// How far it is.
    pub state: EndpointPhase,
    /// Policy revision that is in the maps for it.
    pub policy_revision: u64,
    /// Policies that select it isolate ingress.
    pub ingress_enforced: bool,
    /// Policies that select it isolate egress.
    pub egress_enforced: bool,
    /// Why it is not ready, or has less than its policies say.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// A policy object that is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RejectedPolicy {
    /// Kind of the object.
    pub kind: String,
    /// Namespace, empty for cluster-scoped kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Which fields, and why.
    pub reasons: Vec<String>,
    /// An earlier version of the object is still in force.
    pub last_good: bool,
}

/// Everything that `/v1/status` shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct AgentStatus {
    /// Version of weft.
    pub version: String,
    /// Name of the node.
    pub node: String,
    /// Kinds that were never listed; with any of them the agent is not ready.
    pub waiting_for: Vec<String>,
    /// Counts what was written to the maps.
    pub policy_revision: u64,
    /// The epoch that the datapath compares connections with.
    pub epoch: u32,
    /// Cluster-wide identities known.
    pub identities: usize,
    /// Services translated.
    pub services: usize,
    /// Entries in the policy map.
    pub policy_entries: usize,
    /// Version of the newest snapshot that was sent to the proxy.
    pub snapshot: String,
    /// Why a newer one was not sent, empty when there is none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub unsent: String,
    /// What is known of the proxy.
    pub proxy: ProxyStatus,
    /// Pods of this node by `namespace/name`.
    pub endpoints: BTreeMap<String, EndpointStatus>,
    /// Policy objects that are refused.
    pub rejected: Vec<RejectedPolicy>,
    /// The newest trouble with the kernel, empty when the last write worked.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub trouble: String,
}

impl AgentStatus {
    /// Why the agent is not ready, if so.
    pub fn not_ready(&self) -> Option<String> {
        if self.policy_revision > 0 {
            return None;
        }
        if !self.waiting_for.is_empty() {
            return Some(format!("waiting for {}", self.waiting_for.join(", ")));
        }
        if !self.trouble.is_empty() {
            return Some(self.trouble.clone());
        }
        Some("nothing programmed yet".into())
    }
}

/// The newest status; written by the reconciler alone.
pub type StatusSender = watch::Sender<Arc<AgentStatus>>;
/// Follows the status.
pub type StatusReceiver = watch::Receiver<Arc<AgentStatus>>;
