//! Selecting endpoints by their labels.

use crate::model::{Label, LabelSource, Labels, NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX};

/// Which sources of labels a requirement looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceMatch {
    /// `any:`, and every key without a source.
    Any,
    /// Exactly this source.
    Is(LabelSource),
}

/// What a requirement says about the values of its key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operator {
    /// The key is there with one of these values (sorted).
    In(Vec<Box<str>>),
    /// The key is not there, or has none of these values (sorted).
    NotIn(Vec<Box<str>>),
    /// The key is there.
    Exists,
    /// The key is not there.
    DoesNotExist,
}

/// One requirement on a label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// Sources that count.
    pub source: SourceMatch,
    /// Key without its source.
    pub key: Box<str>,
    /// What must hold.
    pub operator: Operator,
}

impl Requirement {
    /// A requirement on a key as manifests write it: `key`, `any:key`,
    /// `k8s:key`, `reserved:key` or `cidr:key`. `None` when the text before
    /// the first colon is no source or the key is empty.
    pub fn parse(key: &str, operator: Operator) -> Option<Self> {
        let (source, key) = match key.split_once(':') {
            None => (SourceMatch::Any, key),
            Some(("any", key)) => (SourceMatch::Any, key),
            Some((source, key)) => (SourceMatch::Is(LabelSource::from_name(source)?), key),
        };
        (!key.is_empty()).then(|| Self {
            source,
            key: key.into(),
            operator,
        })
    }

    fn counts(&self, source: LabelSource) -> bool {
        match self.source {
            SourceMatch::Any => true,
            SourceMatch::Is(only) => only == source,
        }
    }

    fn matches(&self, labels: &Labels) -> bool {
        let mut with_key = labels
            .iter()
            .filter(|label| label.key() == &*self.key && self.counts(label.source()));
        let listed = |values: &[Box<str>], label: &Label| {
            values
                .binary_search_by(|value| (**value).cmp(label.value()))
                .is_ok()
        };
        match &self.operator {
            Operator::In(values) => with_key.any(|label| listed(values, label)),
            Operator::NotIn(values) => !with_key.any(|label| listed(values, label)),
            Operator::Exists => with_key.next().is_some(),
            Operator::DoesNotExist => with_key.next().is_none(),
        }
    }

    /// Whether it is about the pod's namespace.
    fn names_namespace(&self) -> bool {
        self.counts(LabelSource::K8s) && &*self.key == NAMESPACE_LABEL
    }
}

/// A conjunction of requirements; without any it matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointSelector {
    requirements: Vec<Requirement>,
}

impl EndpointSelector {
    /// A selector of these requirements.
    pub fn new(requirements: impl IntoIterator<Item = Requirement>) -> Self {
        let mut requirements: Vec<_> = requirements.into_iter().collect();
        for requirement in &mut requirements {
            if let Operator::In(values) | Operator::NotIn(values) = &mut requirement.operator {
                values.sort_unstable();
            }
        }
        requirements.sort();
        requirements.dedup();
        Self { requirements }
    }

    /// The requirements, sorted.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether labels meet every requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|one| one.matches(labels))
    }

    /// As the subject of a policy: a namespaced policy applies to pods of its
    /// own namespace, whatever it says about namespaces.
    #[must_use]
    pub fn for_subject(self, namespace: Option<&str>) -> Self {
        let Some(namespace) = namespace else {
            return self;
        };
        let kept = self
            .requirements
            .into_iter()
            .filter(|one| !one.names_namespace());
        Self::new(kept.chain([in_namespace(namespace)]))
    }

    /// As a peer: within the policy's namespace unless a namespace, a label of
    /// a namespace or a reserved identity is named; for clusterwide policies,
    /// any pod unless a namespace or a reserved identity is named.
    #[must_use]
    pub fn for_peer(self, namespace: Option<&str>) -> Self {
        let names_reserved =
            |one: &Requirement| one.source == SourceMatch::Is(LabelSource::Reserved);
        let names_namespace_label = |one: &Requirement| {
            one.counts(LabelSource::K8s) && one.key.starts_with(NAMESPACE_LABELS_PREFIX)
        };
        let any = |test: &dyn Fn(&Requirement) -> bool| self.requirements.iter().any(test);
        if any(&names_reserved) || any(&Requirement::names_namespace) {
            return self;
        }
        let scope = match namespace {
            Some(_) if any(&names_namespace_label) => return self,
            Some(namespace) => in_namespace(namespace),
            None => Requirement {
                source: SourceMatch::Is(LabelSource::K8s),
                key: NAMESPACE_LABEL.into(),
                operator: Operator::Exists,
            },
        };
        Self::new(self.requirements.into_iter().chain([scope]))
    }
}

fn in_namespace(namespace: &str) -> Requirement {
    Requirement {
        source: SourceMatch::Is(LabelSource::K8s),
        key: NAMESPACE_LABEL.into(),
        operator: Operator::In(vec![namespace.into()]),
    }
}

#[cfg(test)]
mod tests;
