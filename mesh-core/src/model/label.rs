//! Labels as the mesh sees them: a source, a key and a value.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Where a label comes from; the text before the first colon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LabelSource {
    /// A CIDR prefix that a policy names.
    Cidr,
    /// Kubernetes: labels of the pod, its namespace and its service account.
    K8s,
    /// The mesh's own names: `reserved:host`, `reserved:world`.
    Reserved,
}

impl LabelSource {
    /// The source as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cidr => "cidr",
            Self::K8s => "k8s",
            Self::Reserved => "reserved",
        }
    }

    /// The source of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "cidr" => Some(Self::Cidr),
            "k8s" => Some(Self::K8s),
            "reserved" => Some(Self::Reserved),
            _ => None,
        }
    }
}

/// Why a text is no label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// No known source before the first colon.
    #[error("label `{0}` has no known source (cidr:, k8s: or reserved:)")]
    Source(String),
    /// Nothing between the source and the value.
    #[error("label `{0}` has an empty key")]
    Key(String),
}

/// One label: `source:key=value`, or `source:key` where the value is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label {
    source: LabelSource,
    key: Box<str>,
    value: Box<str>,
}

impl Label {
    /// A label of these parts.
    pub fn new(source: LabelSource, key: impl Into<Box<str>>, value: impl Into<Box<str>>) -> Self {
        Self {
            source,
            key: key.into(),
            value: value.into(),
        }
    }

    /// Where the label comes from.
    pub fn source(&self) -> LabelSource {
        self.source
    }

    /// The key without its source.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The value, empty when there is none.
    pub fn value(&self) -> &str {
        &self.value
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source.as_str(), self.key)?;
        // Reserved labels are names; Kubernetes prints the `=` of an empty value.
        if self.value.is_empty() && self.source != LabelSource::K8s {
            return Ok(());
        }
        write!(f, "={}", self.value)
    }
}

impl FromStr for Label {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        let (source, rest) = text
            .split_once(':')
            .and_then(|(source, rest)| Some((LabelSource::from_name(source)?, rest)))
            .ok_or_else(|| LabelError::Source(text.to_owned()))?;
        let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
        if key.is_empty() {
            return Err(LabelError::Key(text.to_owned()));
        }
        Ok(Self::new(source, key, value))
    }
}

/// A set of labels, sorted by source and key; one value per source and key.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Box<[Label]>);

impl Labels {
    /// The labels of these texts.
    ///
    /// # Errors
    /// The first text that is no label.
    pub fn parse_all<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, LabelError> {
        texts.into_iter().map(Label::from_str).collect()
    }

    /// The labels in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Label> {
        self.0.iter()
    }

    /// How many labels there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no label.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The label with that source and key.
    pub fn get(&self, source: LabelSource, key: &str) -> Option<&Label> {
        let found = self
            .0
            .binary_search_by(|label| (label.source, &*label.key).cmp(&(source, key)));
        found.ok().and_then(|index| self.0.get(index))
    }

    /// The labels as text, in order.
    pub fn to_strings(&self) -> Vec<String> {
        self.iter().map(ToString::to_string).collect()
    }
}

impl FromIterator<Label> for Labels {
    /// A later label replaces an earlier one of the same source and key.
    fn from_iter<I: IntoIterator<Item = Label>>(labels: I) -> Self {
        let mut list: Vec<Label> = labels.into_iter().collect();
        list.reverse();
        // Stable: of equal keys the latest given comes first and is kept.
        list.sort_by(|a, b| (a.source, &a.key).cmp(&(b.source, &b.key)));
        list.dedup_by(|a, b| (a.source, &a.key) == (b.source, &b.key));
        Self(list.into_boxed_slice())
    }
}

impl<'a> IntoIterator for &'a Labels {
    type Item = &'a Label;
    type IntoIter = std::slice::Iter<'a, Label>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(ToString::to_string))
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        Self::parse_all(texts.iter().map(String::as_str)).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for text in [
            "k8s:app.kubernetes.io/name=tiefighter",
            "k8s:empty=",
            "reserved:world",
            "cidr:10.0.0.0/8",
            "k8s:odd=a=b:c",
        ] {
            assert_eq!(text.parse::<Label>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_has_no_source_or_key() {
        assert!(matches!(
            "app=x".parse::<Label>(),
            Err(LabelError::Source(_))
        ));
        assert!(matches!(
            "foo:app=x".parse::<Label>(),
            Err(LabelError::Source(_))
        ));
        assert!(matches!("k8s:=x".parse::<Label>(), Err(LabelError::Key(_))));
    }

    #[test]
    fn sorted_and_one_value_a_key() {
        let labels = Labels::parse_all(["k8s:org=empire", "k8s:app=x", "k8s:app=y"]).unwrap();
        assert_eq!(labels.to_strings(), ["k8s:app=y", "k8s:org=empire"]);
        assert_eq!(
            labels.get(LabelSource::K8s, "org").unwrap().value(),
            "empire"
        );
        assert_eq!(labels.get(LabelSource::Reserved, "org"), None);
    }
}
