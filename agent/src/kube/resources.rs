//! The custom resources that the agent reads and writes.

use kube::core::{ApiResource, GroupVersionKind};
use weft_api::k8s::filter::{self, FilterKind, FilterReport};

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

/// A kind of filters.
pub fn filter_resource(kind: FilterKind) -> ApiResource {
    let gvk = GroupVersionKind::gvk(filter::group(kind), filter::VERSION, kind.as_str());
    ApiResource::from_gvk_with_plural(&gvk, filter::plural(kind))
}

/// What nodes say of their filters, cluster-scoped; the name is the node's.
pub fn filter_report_resource() -> ApiResource {
    let gvk = GroupVersionKind::gvk(filter::GROUP, filter::VERSION, FilterReport::KIND);
    ApiResource::from_gvk_with_plural(&gvk, FilterReport::PLURAL)
}

fn resource(kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("cilium.io", "v2", kind), plural)
}
