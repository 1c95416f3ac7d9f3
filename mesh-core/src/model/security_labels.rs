//! Which labels of a pod make its identity.

use std::collections::BTreeMap;

use super::{Label, LabelSource, Labels};

/// Key of the pod's namespace.
pub const NAMESPACE_LABEL: &str = "io.kubernetes.pod.namespace";
/// Prefix of the keys that carry the labels of the pod's namespace.
pub const NAMESPACE_LABELS_PREFIX: &str = "io.cilium.k8s.namespace.labels.";
/// Key of the cluster's name.
pub const CLUSTER_LABEL: &str = "io.cilium.k8s.policy.cluster";
/// Key of the pod's service account.
pub const SERVICE_ACCOUNT_LABEL: &str = "io.cilium.k8s.policy.serviceaccount";

/// Labels that differ between the pods of one workload or change with every
/// rollout. In an identity they would give each pod, or each rollout, a number
/// of its own, and no policy selects by them.
const CHURNING: [&str; 8] = [
    "pod-template-hash",
    "pod-template-generation",
    "controller-revision-hash",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/controller-uid",
    "controller-uid",
];

/// What a pod's identity is made of.
#[derive(Clone, Copy, Debug)]
pub struct SecurityLabelInput<'a> {
    /// Namespace of the pod.
    pub namespace: &'a str,
    /// Labels of the pod.
    pub pod_labels: &'a BTreeMap<String, String>,
    /// Labels of its namespace.
    pub namespace_labels: &'a BTreeMap<String, String>,
    /// Service account; empty means `default`.
    pub service_account: &'a str,
    /// Name of the cluster.
    pub cluster: &'a str,
}

/// The labels that a pod's identity stands for.
///
/// The namespace, cluster and service account come last, so that no pod can
/// claim another namespace by a label of its own.
pub fn security_labels(input: &SecurityLabelInput<'_>) -> Labels {
    let k8s = |key: &str, value: &str| Label::new(LabelSource::K8s, key, value);
    let own = input
        .pod_labels
        .iter()
        .filter(|(key, _)| !CHURNING.contains(&key.as_str()))
        // Namespace labels are the cluster's to give, never the pod's.
        .filter(|(key, _)| !key.starts_with(NAMESPACE_LABELS_PREFIX))
        .map(|(key, value)| k8s(key, value));
    let of_namespace = input
        .namespace_labels
        .iter()
        .map(|(key, value)| k8s(&format!("{NAMESPACE_LABELS_PREFIX}{key}"), value));
    let account = match input.service_account {
        "" => "default",
        account => account,
    };
    own.chain(of_namespace)
        .chain([
            k8s(NAMESPACE_LABEL, input.namespace),
            k8s(CLUSTER_LABEL, input.cluster),
            k8s(SERVICE_ACCOUNT_LABEL, account),
        ])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        pairs.iter().map(own).collect()
    }

    #[test]
    fn identity_of_a_pod() {
        let labels = security_labels(&SecurityLabelInput {
            namespace: "default",
            pod_labels: &map(&[
                ("app.kubernetes.io/name", "deathstar"),
                ("class", "deathstar"),
                ("org", "empire"),
                ("pod-template-hash", "b4b8ccfb5"),
            ]),
            namespace_labels: &map(&[("kubernetes.io/metadata.name", "default")]),
            service_account: "",
            cluster: "default",
        });
        assert_eq!(
            labels.to_strings(),
            [
                "k8s:app.kubernetes.io/name=deathstar",
                "k8s:class=deathstar",
                "k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=default",
                "k8s:io.cilium.k8s.policy.cluster=default",
                "k8s:io.cilium.k8s.policy.serviceaccount=default",
                "k8s:io.kubernetes.pod.namespace=default",
                "k8s:org=empire",
            ]
        );
    }

    #[test]
    fn a_pod_cannot_claim_another_namespace() {
        let labels = security_labels(&SecurityLabelInput {
            namespace: "evil",
            pod_labels: &map(&[
                (NAMESPACE_LABEL, "kube-system"),
                (SERVICE_ACCOUNT_LABEL, "admin"),
                ("io.cilium.k8s.namespace.labels.team", "trusted"),
            ]),
            namespace_labels: &map(&[]),
            service_account: "me",
            cluster: "default",
        });
        let get = |key| labels.get(LabelSource::K8s, key).map(Label::value);
        assert_eq!(get(NAMESPACE_LABEL), Some("evil"));
        assert_eq!(get(SERVICE_ACCOUNT_LABEL), Some("me"));
        assert_eq!(get("io.cilium.k8s.namespace.labels.team"), None);
    }
}
