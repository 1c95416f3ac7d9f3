//! The `spec` of filters, field by field. The text of the comments becomes the
//! descriptions that `kubectl explain` prints.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::Value;

use super::super::spec::{AnyObject, LabelSelector};

/// What a filter is, where it runs, and what it may take.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct FilterText {
    /// The pods that the filter serves, by their labels; `{}` selects all of them.
    pub selector: Option<LabelSelector>,
    /// The namespaces whose pods the filter serves, by their labels; all of them where it is
    /// absent.
    pub namespaces: Option<LabelSelector>,
    /// The Service whose requests the filter sees. Instead of a selector.
    pub target_ref: Option<TargetRef>,
    /// Which requests: those that the pods get (ingress), or those that they send (egress).
    #[schemars(extend("enum" = ["ingress", "egress"], "default" = "ingress"))]
    pub direction: Option<String>,
    /// TCP ports that the requests are for: numbers, or ranges such as `8000-8080`. For ingress
    /// all ports where it is absent; egress has to say.
    pub ports: Option<Vec<IntOrText>>,
    /// When in a request's way: before policy has judged it, after that, or once it is known
    /// where it goes.
    #[schemars(extend("enum" = ["beforePolicy", "afterPolicy", "upstream"], "default" = "afterPolicy"))]
    pub phase: Option<String>,
    /// Filters of one phase run by this number, the lowest first; by name where it is the same.
    #[schemars(extend("default" = 0))]
    pub priority: Option<i64>,
    /// The module: what is compiled and run.
    pub module: ModuleText,
    /// The filter's own configuration. The filter checks it when it is loaded; what it says
    /// stands in the status.
    #[schemars(with = "Option<AnyObject>")]
    pub config: Option<Value>,
    /// What the filter may take.
    pub limits: Option<LimitsText>,
    /// What becomes of requests when the filter fails: `closed` (503) or `open` (as if it were
    /// not there); or an object with one of them for each of load, config, trap and timeout.
    pub on_error: Option<OnErrorText>,
    /// Whether the requests of a worker share an instance, or each has one of its own.
    #[schemars(extend("enum" = ["worker", "request"], "default" = "worker"))]
    pub isolation: Option<String>,
    /// The Services that the filter may call: `name:port`, or `name.namespace:port`.
    pub callouts: Option<Vec<String>>,
}

/// The Service that a filter is for.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub(super) struct TargetRef {
    /// Group of the kind: empty, as Service has it.
    pub group: Option<String>,
    /// `Service`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its namespace. A namespaced filter may leave it out and name no other than its own.
    pub namespace: Option<String>,
}

/// Where the module is.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ModuleText {
    /// `file://NAME` (below the agent's --module-dir), `configmap://NAME/KEY`, `https://...` or
    /// `oci://REGISTRY/REPOSITORY:TAG` or `...@sha256:DIGEST`.
    pub url: String,
    /// SHA-256 of the module itself, 64 hexadecimal digits. Required for what is fetched from
    /// elsewhere, unless an oci:// reference ends in @sha256:DIGEST.
    pub sha256: Option<String>,
    /// The Secret of type kubernetes.io/dockerconfigjson that opens the registry of an oci://
    /// reference: its name, in the filter's namespace; NAMESPACE/NAME in a WeftClusterFilter.
    pub image_pull_secret: Option<String>,
}

/// What one filter may take; each limit has a default.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct LimitsText {
    /// CPU time of one event: `5ms`, at most `1s`.
    pub deadline: Option<String>,
    /// CPU time to start and to take the configuration: `1s`, at most `10s`.
    pub start_deadline: Option<String>,
    /// Memory of an instance: `32Mi`, at most `256Mi`.
    pub memory: Option<IntOrText>,
    /// Requests in one instance at once.
    pub contexts: Option<i64>,
    /// Fetches of one request at once.
    pub fetches_per_context: Option<i64>,
    /// Body of a fetch's request, and of its answer: `1Mi`, at most `64Mi`.
    pub fetch_body: Option<IntOrText>,
    /// Longest time that a fetch may take: `30s`, at most `5m`.
    pub fetch_timeout: Option<String>,
    /// Body that is held for it: `1Mi`, at most `64Mi`.
    pub held_body: Option<IntOrText>,
}

/// `closed`, `open`, or an object with one for each kind of failure.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct OnErrorText(pub Value);

impl JsonSchema for OnErrorText {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "OnError".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-preserve-unknown-fields": true })
    }

    fn inline_schema() -> bool {
        true
    }
}

/// A number, or a text that stands for one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum IntOrText {
    Int(i64),
    Text(String),
}

impl JsonSchema for IntOrText {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "IntOrString".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-int-or-string": true })
    }

    fn inline_schema() -> bool {
        true
    }
}
