//! Who is who: numbers for label sets, agreed on through the API, and numbers
//! for the address ranges that policies name.

mod allocate;
mod cidr;
mod numbers;

use std::collections::BTreeMap;

use weft_core::model::{Label, LabelError, LabelSource, Labels};
use weft_core::model::{SecurityLabelInput, security_labels};

pub use allocate::{AllocateError, IdentityApi, KubeIdentities, allocate};
pub use cidr::CidrIdentities;
pub use numbers::Numbers;

use crate::state::{ClusterState, Pod};

/// The labels that a pod's identity stands for; none while its namespace is
/// not known, because they would be incomplete.
pub fn pod_labels(pod: &Pod, state: &ClusterState, cluster: &str) -> Option<Labels> {
    Some(security_labels(&SecurityLabelInput {
        namespace: &pod.key.namespace,
        pod_labels: &pod.labels,
        namespace_labels: state.namespace_labels(&pod.key.namespace)?,
        service_account: &pod.service_account,
        cluster,
    }))
}

/// Labels as an identity object carries them: `source:key` -> value.
pub fn to_object_labels(labels: &Labels) -> BTreeMap<String, String> {
    labels
        .iter()
        .map(|label| {
            (
                format!("{}:{}", label.source().as_str(), label.key()),
                label.value().to_owned(),
            )
        })
        .collect()
}

/// Labels of an identity object.
///
/// # Errors
/// The first key that has no known source.
pub fn from_object_labels(object: &BTreeMap<String, String>) -> Result<Labels, LabelError> {
    object
        .iter()
        .map(|(key, value)| {
            let (source, rest) = key
                .split_once(':')
                .and_then(|(source, rest)| Some((LabelSource::from_name(source)?, rest)))
                .ok_or_else(|| LabelError::Source(key.clone()))?;
            Ok(Label::new(source, rest, value.as_str()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_survive_the_way_through_an_object() {
        let labels =
            Labels::parse_all(["k8s:app.kubernetes.io/name=x", "k8s:empty="]).expect("labels");
        let object = to_object_labels(&labels);
        assert_eq!(object["k8s:app.kubernetes.io/name"], "x");
        assert_eq!(from_object_labels(&object), Ok(labels));
        let foreign = BTreeMap::from([("container:x".to_owned(), String::new())]);
        assert!(from_object_labels(&foreign).is_err());
    }
}
