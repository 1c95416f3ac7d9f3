//! The nouns of the mesh: labels, identities, endpoints, addresses.

mod endpoint;
mod hash;
mod identity;
mod label;
mod prefix_map;
mod security_labels;
mod traffic;

pub use endpoint::{Endpoint, EndpointId, NamedPorts, PodAddr};
pub use hash::{fnv1a, fnv1a_bytes};
pub use identity::{Candidates, NumericIdentity};
pub use label::{Label, LabelError, LabelSource, Labels};
pub use prefix_map::PrefixMap;
pub use security_labels::{
    CLUSTER_LABEL, NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX, SERVICE_ACCOUNT_LABEL,
    SecurityLabelInput, security_labels,
};
pub use traffic::{Direction, Protocol};
