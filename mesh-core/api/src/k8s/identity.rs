//! CiliumIdentity: a number and the labels it stands for.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::ClusterResourceScope;
use kube::api::{ObjectMeta, TypeMeta};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weft_core::model::{Label, LabelError, Labels, NumericIdentity};

use super::policy::{GROUP, VERSION};

/// A CiliumIdentity object. Its name is the number: two label sets can never
/// share one, because an API server holds one object of a name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CiliumIdentity {
    /// `apiVersion` and `kind`.
    #[serde(flatten, default)]
    pub types: Option<TypeMeta>,
    /// The name is the number.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// The labels: keys with their source, `k8s:app`, and values.
    #[serde(rename = "security-labels", default)]
    pub security_labels: BTreeMap<String, String>,
}

impl CiliumIdentity {
    /// The object for these labels and number.
    pub fn new(identity: NumericIdentity, labels: &Labels) -> Self {
        let key = |label: &Label| format!("{}:{}", label.source().as_str(), label.key());
        Self {
            types: Some(TypeMeta::resource::<Self>()),
            metadata: ObjectMeta {
                name: Some(identity.to_string()),
                ..ObjectMeta::default()
            },
            security_labels: labels
                .iter()
                .map(|label| (key(label), label.value().to_owned()))
                .collect(),
        }
    }

    /// The number; `None` when the name is no number of the cluster's range.
    pub fn identity(&self) -> Option<NumericIdentity> {
        let number = self.metadata.name.as_deref()?.parse().ok()?;
        Some(NumericIdentity(number)).filter(|identity| identity.is_cluster())
    }

    /// The labels.
    ///
    /// # Errors
    /// The first key that is no label.
    pub fn labels(&self) -> Result<Labels, LabelError> {
        let texts = self
            .security_labels
            .iter()
            .map(|(key, value)| format!("{key}={value}").parse::<Label>());
        texts.collect()
    }
}

impl kube::Resource for CiliumIdentity {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "CiliumIdentity".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        VERSION.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "ciliumidentities".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The fields beside metadata, for the definition's schema.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct IdentityFields {
    /// The labels that the number stands for: keys with their source.
    security_labels: BTreeMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_round_trip() {
        let labels = Labels::parse_all(["k8s:app=x", "k8s:io.kubernetes.pod.namespace=default"]);
        let labels = labels.unwrap();
        let object = CiliumIdentity::new(NumericIdentity(4711), &labels);
        let json = serde_json::to_value(&object).unwrap();
        assert_eq!(json["metadata"]["name"], "4711");
        assert_eq!(json["kind"], "CiliumIdentity");
        assert_eq!(json["security-labels"]["k8s:app"], "x");
        let read: CiliumIdentity = serde_json::from_value(json).unwrap();
        assert_eq!(read.labels().unwrap(), labels);
        assert_eq!(read.identity(), Some(NumericIdentity(4711)));
    }

    #[test]
    fn only_numbers_of_the_cluster_are_identities() {
        for name in ["7", "16777216", "x", ""] {
            let mut object = CiliumIdentity::default();
            object.metadata.name = Some(name.into());
            assert_eq!(object.identity(), None, "{name}");
        }
    }
}
