//! The kinds that are served: the built-in ones here, custom ones from their CRDs.

use std::borrow::Cow;

use serde_json::Value;

/// Names a resource: API group ("" for core) and plural.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceId {
    /// API group.
    pub group: Cow<'static, str>,
    /// Plural, as in paths.
    pub plural: Cow<'static, str>,
}

impl ResourceId {
    /// A resource whose names are known when compiling.
    pub const fn of(group: &'static str, plural: &'static str) -> Self {
        Self {
            group: Cow::Borrowed(group),
            plural: Cow::Borrowed(plural),
        }
    }

    /// Any resource.
    pub fn new(group: &str, plural: &str) -> Self {
        Self {
            group: Cow::Owned(group.to_owned()),
            plural: Cow::Owned(plural.to_owned()),
        }
    }
}

/// `namespaces`.
pub const NAMESPACES: ResourceId = ResourceId::of("", "namespaces");
/// `nodes`.
pub const NODES: ResourceId = ResourceId::of("", "nodes");
/// `pods`.
pub const PODS: ResourceId = ResourceId::of("", "pods");
/// `services`.
pub const SERVICES: ResourceId = ResourceId::of("", "services");
/// `serviceaccounts`.
pub const SERVICE_ACCOUNTS: ResourceId = ResourceId::of("", "serviceaccounts");
/// `events`.
pub const EVENTS: ResourceId = ResourceId::of("", "events");
/// `deployments.apps`.
pub const DEPLOYMENTS: ResourceId = ResourceId::of("apps", "deployments");
/// `replicasets.apps`.
pub const REPLICA_SETS: ResourceId = ResourceId::of("apps", "replicasets");
/// `daemonsets.apps`.
pub const DAEMON_SETS: ResourceId = ResourceId::of("apps", "daemonsets");
/// `endpointslices.discovery.k8s.io`.
pub const ENDPOINT_SLICES: ResourceId = ResourceId::of("discovery.k8s.io", "endpointslices");
/// `leases.coordination.k8s.io`.
pub const LEASES: ResourceId = ResourceId::of("coordination.k8s.io", "leases");
/// `validatingwebhookconfigurations.admissionregistration.k8s.io`.
pub const WEBHOOK_CONFIGURATIONS: ResourceId = ResourceId::of(
    "admissionregistration.k8s.io",
    "validatingwebhookconfigurations",
);
/// `customresourcedefinitions.apiextensions.k8s.io`.
pub const CRDS: ResourceId = ResourceId::of("apiextensions.k8s.io", "customresourcedefinitions");

/// One served resource.
#[derive(Debug, Clone, PartialEq)]
pub struct ResourceType {
    /// API group, "" for core.
    pub group: String,
    /// Served versions, the preferred one first. All show the same stored object.
    pub versions: Vec<Version>,
    /// Kind, as in manifests.
    pub kind: String,
    /// Kind of a list.
    pub list_kind: String,
    /// Plural, as in paths.
    pub plural: String,
    /// Singular, for kubectl's arguments.
    pub singular: String,
    /// kubectl's abbreviations.
    pub short_names: Vec<String>,
    /// Groups of resources such as `all`.
    pub categories: Vec<String>,
    /// Lives in a namespace.
    pub namespaced: bool,
    /// Has a status that the main resource cannot write.
    pub status: bool,
    /// Has `/scale`.
    pub scale: Option<Scale>,
    /// Defined by a CRD.
    pub custom: bool,
}

/// One version of a resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    /// Such as `v1` or `v2alpha1`.
    pub name: String,
    /// `additionalPrinterColumns` of a CRD's version.
    pub columns: Vec<Value>,
    /// `openAPIV3Schema` of a CRD's version; null when there is none.
    pub schema: Value,
}

/// Where a resource keeps what `/scale` shows (JSON pointers).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scale {
    /// Wanted replicas.
    pub spec: String,
    /// Counted replicas.
    pub status: String,
    /// Label selector, as object or text.
    pub selector: Option<String>,
}

impl ResourceType {
    /// Its name.
    pub fn id(&self) -> ResourceId {
        ResourceId::new(&self.group, &self.plural)
    }

    /// True for the resource of that name.
    pub fn is(&self, id: &ResourceId) -> bool {
        self.group == id.group && self.plural == id.plural
    }

    /// The preferred version.
    pub fn version(&self) -> &str {
        self.versions.first().map_or("v1", |v| v.name.as_str())
    }

    /// The version of that name.
    pub fn find_version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|v| v.name == name)
    }

    /// `apiVersion` of objects in this version.
    pub fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() {
            version.to_owned()
        } else {
            format!("{}/{version}", self.group)
        }
    }

    /// `deployments.apps`, the way errors name a resource.
    pub fn qualified(&self) -> String {
        qualified(&self.plural, &self.group)
    }

    /// `Deployment.apps`, the way validation errors name a kind.
    pub fn kind_qualified(&self) -> String {
        qualified(&self.kind, &self.group)
    }
}

fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() {
        name.to_owned()
    } else {
        format!("{name}.{group}")
    }
}

/// (group, kind, plural, short names, namespaced, has status, listed by `get all`)
type BuiltIn = (
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
    bool,
    bool,
    bool,
);

const BUILT_IN: &[BuiltIn] = &[
    ("", "Namespace", "namespaces", &["ns"], false, true, false),
    ("", "Node", "nodes", &["no"], false, true, false),
    ("", "Pod", "pods", &["po"], true, true, true),
    ("", "Service", "services", &["svc"], true, true, true),
    ("", "Endpoints", "endpoints", &["ep"], true, false, false),
    ("", "ConfigMap", "configmaps", &["cm"], true, false, false),
    ("", "Secret", "secrets", &[], true, false, false),
    (
        "",
        "ServiceAccount",
        "serviceaccounts",
        &["sa"],
        true,
        false,
        false,
    ),
    ("", "Event", "events", &["ev"], true, false, false),
    ("apps", "DaemonSet", "daemonsets", &["ds"], true, true, true),
    (
        "apps",
        "Deployment",
        "deployments",
        &["deploy"],
        true,
        true,
        true,
    ),
    (
        "apps",
        "ReplicaSet",
        "replicasets",
        &["rs"],
        true,
        true,
        true,
    ),
    (
        "discovery.k8s.io",
        "EndpointSlice",
        "endpointslices",
        &[],
        true,
        false,
        false,
    ),
    (
        "coordination.k8s.io",
        "Lease",
        "leases",
        &[],
        true,
        false,
        false,
    ),
    (
        "networking.k8s.io",
        "NetworkPolicy",
        "networkpolicies",
        &["netpol"],
        true,
        false,
        false,
    ),
    (
        "admissionregistration.k8s.io",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        &[],
        false,
        false,
        false,
    ),
    (
        "apiextensions.k8s.io",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        &["crd", "crds"],
        false,
        true,
        false,
    ),
];

/// The built-in resources, all in version `v1`.
pub fn built_in() -> impl Iterator<Item = ResourceType> {
    BUILT_IN.iter().map(
        |&(group, kind, plural, short_names, namespaced, status, all)| ResourceType {
            group: group.to_owned(),
            versions: vec![Version {
                name: "v1".to_owned(),
                columns: Vec::new(),
                schema: Value::Null,
            }],
            kind: kind.to_owned(),
            list_kind: format!("{kind}List"),
            plural: plural.to_owned(),
            singular: kind.to_lowercase(),
            short_names: short_names.iter().map(|s| (*s).to_owned()).collect(),
            categories: if all {
                vec!["all".to_owned()]
            } else {
                Vec::new()
            },
            namespaced,
            status,
            scale: matches!(kind, "Deployment" | "ReplicaSet").then(|| Scale {
                spec: "/spec/replicas".to_owned(),
                status: "/status/replicas".to_owned(),
                selector: Some("/spec/selector".to_owned()),
            }),
            custom: false,
        },
    )
}
