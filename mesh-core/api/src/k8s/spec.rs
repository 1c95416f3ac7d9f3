//! The `spec` of policies, field by field.
//!
//! Fields of type [`NotYet`] belong to the policy language but are refused for
//! now; their place in the object is here. The text of the comments becomes
//! the descriptions that `kubectl explain` prints.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub(super) use super::schema::NOT_YET;

/// A field that is known but refused: it cannot be honoured yet, and leaving
/// it out silently would change what the policy means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NotYet(pub Value);

/// Pods, by their labels. Every requirement must hold; an empty selector
/// selects every pod of the policy's scope.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Label keys and the values they must have. A key may carry its source
    /// (`k8s:app`, `any:app`, `reserved:host`); without one it means any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_labels: Option<BTreeMap<String, String>>,
    /// Requirements that are more than equality.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_expressions: Option<Vec<LabelRequirement>>,
}

/// One requirement on a label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelRequirement {
    /// Label key, with or without a source.
    pub key: String,
    /// In, NotIn, Exists or DoesNotExist.
    #[schemars(extend("enum" = ["In", "NotIn", "Exists", "DoesNotExist"]))]
    pub operator: String,
    /// Values for In and NotIn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<String>>,
}

/// What a policy says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicySpec {
    /// The pods that the policy applies to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_selector: Option<LabelSelector>,
    /// The nodes that the policy applies to (clusterwide policies only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<NotYet>,
    /// What may reach the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<IngressRule>>,
    /// What may not reach the pods, whatever else allows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_deny: Option<Vec<IngressDenyRule>>,
    /// What the pods may reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<EgressRule>>,
    /// What the pods may not reach, whatever else allows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_deny: Option<Vec<EgressDenyRule>>,
    /// Whether traffic that no rule allows is denied. Unset: in the directions
    /// that the policy has rules for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_default_deny: Option<DefaultDeny>,
    /// Labels of the rule itself; they select nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<AnyObject>>")]
    pub labels: Option<Vec<Value>>,
    /// What the policy is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Text for the logs of the rule's decisions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<NotYet>,
}

/// Default deny by direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DefaultDeny {
    /// Towards the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<bool>,
    /// From the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<bool>,
}

/// Traffic that may reach the pods. At most one kind of peer; none means any
/// peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IngressRule {
    /// Pods. Within the policy's namespace unless a namespace is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_endpoints: Option<Vec<LabelSelector>>,
    /// Address prefixes outside the cluster.
    #[serde(rename = "fromCIDR", skip_serializing_if = "Option::is_none")]
    pub from_cidr: Option<Vec<String>>,
    /// Address prefixes outside the cluster, with exceptions.
    #[serde(rename = "fromCIDRSet", skip_serializing_if = "Option::is_none")]
    pub from_cidr_set: Option<Vec<CidrRule>>,
    /// Peers known by name: world, cluster, host and so on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_entities: Option<Vec<String>>,
    /// Addresses from a cloud provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_groups: Option<NotYet>,
    /// Nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_nodes: Option<NotYet>,
    /// Ports; none means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_ports: Option<Vec<PortRule>>,
    /// ICMP types.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmps: Option<NotYet>,
    /// Whether both ends must prove who they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
}

/// Traffic that may not reach the pods.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IngressDenyRule {
    /// Pods. Within the policy's namespace unless a namespace is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_endpoints: Option<Vec<LabelSelector>>,
    /// Address prefixes outside the cluster.
    #[serde(rename = "fromCIDR", skip_serializing_if = "Option::is_none")]
    pub from_cidr: Option<Vec<String>>,
    /// Address prefixes outside the cluster, with exceptions.
    #[serde(rename = "fromCIDRSet", skip_serializing_if = "Option::is_none")]
    pub from_cidr_set: Option<Vec<CidrRule>>,
    /// Peers known by name: world, cluster, host and so on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_entities: Option<Vec<String>>,
    /// Addresses from a cloud provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_groups: Option<NotYet>,
    /// Nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_nodes: Option<NotYet>,
    /// Ports; none means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_ports: Option<Vec<PortDenyRule>>,
    /// ICMP types.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmps: Option<NotYet>,
}

/// Traffic that the pods may send. At most one kind of peer; none means any
/// peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressRule {
    /// Pods. Within the policy's namespace unless a namespace is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_endpoints: Option<Vec<LabelSelector>>,
    /// Address prefixes outside the cluster.
    #[serde(rename = "toCIDR", skip_serializing_if = "Option::is_none")]
    pub to_cidr: Option<Vec<String>>,
    /// Address prefixes outside the cluster, with exceptions.
    #[serde(rename = "toCIDRSet", skip_serializing_if = "Option::is_none")]
    pub to_cidr_set: Option<Vec<CidrRule>>,
    /// Peers known by name: world, cluster, host and so on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_entities: Option<Vec<String>>,
    /// Services and the pods behind them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_services: Option<NotYet>,
    /// Addresses from a cloud provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_groups: Option<NotYet>,
    /// Nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_nodes: Option<NotYet>,
    /// Names, as they resolve for the pod.
    #[serde(rename = "toFQDNs", skip_serializing_if = "Option::is_none")]
    pub to_fqdns: Option<NotYet>,
    /// Ports; none means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_ports: Option<Vec<PortRule>>,
    /// ICMP types.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmps: Option<NotYet>,
    /// Whether both ends must prove who they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication: Option<Authentication>,
}

/// Traffic that the pods may not send.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressDenyRule {
    /// Pods. Within the policy's namespace unless a namespace is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_endpoints: Option<Vec<LabelSelector>>,
    /// Address prefixes outside the cluster.
    #[serde(rename = "toCIDR", skip_serializing_if = "Option::is_none")]
    pub to_cidr: Option<Vec<String>>,
    /// Address prefixes outside the cluster, with exceptions.
    #[serde(rename = "toCIDRSet", skip_serializing_if = "Option::is_none")]
    pub to_cidr_set: Option<Vec<CidrRule>>,
    /// Peers known by name: world, cluster, host and so on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_entities: Option<Vec<String>>,
    /// Services and the pods behind them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_services: Option<NotYet>,
    /// Addresses from a cloud provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_groups: Option<NotYet>,
    /// Nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_nodes: Option<NotYet>,
    /// Ports; none means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_ports: Option<Vec<PortDenyRule>>,
    /// ICMP types.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmps: Option<NotYet>,
}

/// Whether both ends must prove who they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Authentication {
    /// Only `disabled` so far: there is no mutual TLS yet that could be
    /// required.
    pub mode: String,
}

/// An address prefix with exceptions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CidrRule {
    /// The prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cidr: Option<String>,
    /// A named group of prefixes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cidr_group_ref: Option<NotYet>,
    /// Groups of prefixes, by label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cidr_group_selector: Option<NotYet>,
    /// Prefixes inside it that are not meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub except: Option<Vec<String>>,
}

/// Ports, and what the proxy judges there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortRule {
    /// Ports, 40 at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PortProtocol>>,
    /// TLS towards the client.
    #[serde(rename = "terminatingTLS", skip_serializing_if = "Option::is_none")]
    pub terminating_tls: Option<NotYet>,
    /// TLS towards the server.
    #[serde(rename = "originatingTLS", skip_serializing_if = "Option::is_none")]
    pub originating_tls: Option<NotYet>,
    /// Names in the TLS handshake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_names: Option<NotYet>,
    /// A listener of one's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<NotYet>,
    /// What the proxy judges.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rules: Option<L7Rules>,
}

/// Ports that are denied.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PortDenyRule {
    /// Ports, 40 at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PortProtocol>>,
}

/// A port or a range of ports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortProtocol {
    /// Number, as text, or the name of a container port; 0 means every port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Last port of a range.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_port: Option<i32>,
    /// TCP, UDP, SCTP or ANY (all three), which is the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
}

/// What the proxy judges; one kind only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct L7Rules {
    /// Requests that pass; an empty list passes all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<Vec<PortRuleHttp>>,
    /// Names that may be asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<NotYet>,
    /// Topics and roles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kafka: Option<NotYet>,
}

/// An HTTP request. Every field that is set must match.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortRuleHttp {
    /// Regular expression for path and query, matched in full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Regular expression for the method, matched in full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Regular expression for the host, matched in full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// `Name: value` for an exact value, `Name` for presence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<Vec<String>>,
    /// Headers with something to do when they do not match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_matches: Option<Vec<HeaderMatch>>,
}

/// A header that must have a value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HeaderMatch {
    /// Name of the header.
    pub name: String,
    /// The value; without one, presence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// A secret that holds the value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<NotYet>,
    /// What to do when the header does not match: nothing set, the rule does
    /// not match; LOG, ADD, DELETE or REPLACE.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mismatch: Option<String>,
}

/// An object of any shape.
#[derive(JsonSchema)]
#[schemars(extend("x-kubernetes-preserve-unknown-fields" = true))]
pub(super) struct AnyObject {}
