//! Label selectors.

use weft_core::policy::{EndpointSelector, Operator, Requirement};

use super::super::error::Path;
use super::super::spec::{LabelRequirement, LabelSelector};
use super::super::strict::none_of;
use super::Converter;

impl Converter<'_> {
    /// A selector as it is written, before anything implicit is added.
    pub(super) fn selector(
        &mut self,
        selector: &LabelSelector,
        path: &Path,
    ) -> Option<EndpointSelector> {
        let mut requirements = Vec::new();
        let mut complete = true;
        for (key, value) in selector.match_labels.iter().flatten() {
            let path = path.field("matchLabels").field(key);
            let operator = Operator::In(vec![value.as_str().into()]);
            match self
                .value(value, &path)
                .and(self.requirement(key, operator, &path))
            {
                Some(requirement) => requirements.push(requirement),
                None => complete = false,
            }
        }
        let expressions = selector.match_expressions.iter().flatten().enumerate();
        for (index, expression) in expressions {
            let path = path.field("matchExpressions").index(index);
            match self.expression(expression, &path) {
                Some(requirement) => requirements.push(requirement),
                None => complete = false,
            }
        }
        complete.then(|| EndpointSelector::new(requirements))
    }

    fn expression(&mut self, expression: &LabelRequirement, path: &Path) -> Option<Requirement> {
        let values = expression.values.as_deref().unwrap_or_default();
        let mut sorted: Vec<Box<str>> = values.iter().map(|value| value.as_str().into()).collect();
        sorted.sort();
        let needs_values = matches!(expression.operator.as_str(), "In" | "NotIn");
        let operator = match expression.operator.as_str() {
            "In" => Operator::In(sorted),
            "NotIn" => Operator::NotIn(sorted),
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            unknown => {
                let known = ["In", "NotIn", "Exists", "DoesNotExist"];
                self.errors
                    .add_with(&path.field("operator"), || none_of(unknown, &known));
                return None;
            }
        };
        if needs_values == values.is_empty() {
            let message = if needs_values {
                format!("{} needs at least one value", expression.operator)
            } else {
                format!("{} takes no values", expression.operator)
            };
            self.errors.add(&path.field("values"), message);
            return None;
        }
        for (index, value) in values.iter().enumerate() {
            self.value(value, &path.field("values").index(index))?;
        }
        self.requirement(&expression.key, operator, &path.field("key"))
    }

    fn requirement(&mut self, key: &str, operator: Operator, path: &Path) -> Option<Requirement> {
        let requirement = Requirement::parse(key, operator);
        let Some(requirement) = requirement else {
            let message =
                format!("`{key}` has no known source: write k8s:, any: or reserved:, or none");
            self.errors.add(path, message);
            return None;
        };
        if !is_label_key(&requirement.key) {
            let message = format!("`{}` is no label key", requirement.key);
            self.errors.add(path, message);
            return None;
        }
        Some(requirement)
    }

    fn value(&mut self, value: &str, path: &Path) -> Option<()> {
        if is_label_value(value) {
            return Some(());
        }
        let message = format!("`{value}` is no label value; no label can have it");
        self.errors.add(path, message);
        None
    }
}

/// An optional DNS prefix and a name of at most 63 characters. Names of
/// namespace labels carry a prefix of their own before that.
fn is_label_key(key: &str) -> bool {
    let name = key.rsplit('/').next().unwrap_or(key);
    let characters = |char: char| char.is_ascii_alphanumeric() || "-_./".contains(char);
    !name.is_empty() && key.len() <= 512 && key.chars().all(characters)
}

fn is_label_value(value: &str) -> bool {
    let inner = |char: char| char.is_ascii_alphanumeric() || "-_.".contains(char);
    let ends = |char: char| char.is_ascii_alphanumeric();
    value.is_empty()
        || value.len() <= 63
            && value.chars().all(inner)
            && value.starts_with(ends)
            && value.ends_with(ends)
}
