//! What the operator writes into policies.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::FieldErrors;

/// Status of a policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PolicyStatus {
    /// Conditions by type; `Valid` says whether the object is accepted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// One condition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// What it is about: `Valid`; of filters `Accepted`, `Loaded`, `Configured`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False`, or `Unknown`.
    pub status: String,
    /// When the status changed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub last_transition_time: Option<Time>,
    /// A word for programs.
    pub reason: String,
    /// A sentence for people: which field, and why.
    pub message: String,
    /// Generation of the object that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

impl Condition {
    /// The type of the condition that says whether an object is accepted.
    pub const VALID: &str = "Valid";

    /// The `Valid` condition of an object that was just parsed. The caller
    /// sets the time, keeping the old one if the status did not change.
    pub fn valid<T>(parsed: &Result<T, FieldErrors>, generation: Option<i64>) -> Self {
        let (status, reason, message) = match parsed {
            Ok(_) => ("True", "Accepted", "Policy validation succeeded".to_owned()),
            Err(errors) => ("False", "Invalid", errors.to_string()),
        };
        Self {
            kind: Self::VALID.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: None,
            observed_generation: generation,
        }
    }

    /// Whether both say the same, apart from when.
    pub fn same_as(&self, other: &Self) -> bool {
        let timeless = |condition: &Self| Self {
            last_transition_time: None,
            ..condition.clone()
        };
        timeless(self) == timeless(other)
    }
}

/// A status of a shape that is not ours is no status: whatever someone wrote
/// there must not break the watch of all policies.
pub(super) fn lenient<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<PolicyStatus>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}
