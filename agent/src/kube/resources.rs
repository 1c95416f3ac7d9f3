//! The custom resources that the agent reads and writes.

use kube::core::{ApiResource, GroupVersionKind};

/// `CiliumNetworkPolicy`, namespaced.
pub fn cnp_resource() -> ApiResource {
    resource("CiliumNetworkPolicy", "ciliumnetworkpolicies")
}

/// `CiliumClusterwideNetworkPolicy`, cluster-scoped.
pub fn ccnp_resource() -> ApiResource {
    resource(
        "CiliumClusterwideNetworkPolicy",
        "ciliumclusterwidenetworkpolicies",
    )
}

/// `CiliumEnvoyConfig`.
pub fn cec_resource() -> ApiResource {
    resource("CiliumEnvoyConfig", "ciliumenvoyconfigs")
}

/// `CiliumClusterwideEnvoyConfig`, cluster-scoped.
pub fn ccec_resource() -> ApiResource {
    resource(
        "CiliumClusterwideEnvoyConfig",
        "ciliumclusterwideenvoyconfigs",
    )
}

/// `CiliumIdentity`, cluster-scoped; the name is the number.
pub fn identity_resource() -> ApiResource {
    resource("CiliumIdentity", "ciliumidentities")
}

fn resource(kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("cilium.io", "v2", kind), plural)
}
