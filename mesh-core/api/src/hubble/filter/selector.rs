//! Kubernetes label selectors over labels with a source, `k8s:app=x`.
//!
//! A key without a source (or with `any:`) looks at every source.

use super::FilterError;

/// A test on the labels of one end of a flow.
pub(super) type LabelTest = Box<dyn Fn(&[String]) -> bool + Send + Sync>;

/// A test that holds when any of the selectors does.
pub(super) fn any_selector(selectors: &[String]) -> Result<LabelTest, FilterError> {
    let parsed: Vec<Vec<Requirement>> = selectors
        .iter()
        .map(|text| parse(text))
        .collect::<Result<_, _>>()?;
    Ok(Box::new(move |labels| {
        let all = |requirements: &Vec<Requirement>| requirements.iter().all(|r| r.holds(labels));
        parsed.iter().any(all)
    }))
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    /// Empty: any source.
    source: String,
    key: String,
    operator: Operator,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operator {
    Exists,
    Missing,
    In(Vec<String>),
    NotIn(Vec<String>),
    Above(i64),
    Below(i64),
}

impl Requirement {
    fn holds(&self, labels: &[String]) -> bool {
        let value = self.value_in(labels);
        match &self.operator {
            Operator::Exists => value.is_some(),
            Operator::Missing => value.is_none(),
            Operator::In(values) => value.is_some_and(|own| values.iter().any(|v| v == own)),
            Operator::NotIn(values) => value.is_none_or(|own| !values.iter().any(|v| v == own)),
            Operator::Above(bound) => number(value).is_some_and(|own| own > *bound),
            Operator::Below(bound) => number(value).is_some_and(|own| own < *bound),
        }
    }

    fn value_in<'a>(&self, labels: &'a [String]) -> Option<&'a str> {
        labels.iter().find_map(|label| {
            let (name, value) = label.split_once('=').unwrap_or((label, ""));
            let (source, key) = name.split_once(':').unwrap_or(("", name));
            let same = key == self.key && (self.source.is_empty() || source == self.source);
            same.then_some(value)
        })
    }
}

fn number(value: Option<&str>) -> Option<i64> {
    value?.parse().ok()
}

fn parse(selector: &str) -> Result<Vec<Requirement>, FilterError> {
    split_outside_parentheses(selector)
        .into_iter()
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(requirement)
        .collect()
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    text.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
    .collect()
}

fn requirement(text: &str) -> Result<Requirement, FilterError> {
    if let Some(rest) = text.strip_prefix('!') {
        return named(rest.trim(), Operator::Missing, text);
    }
    let end = text.find(|c: char| c.is_whitespace() || "=!<>".contains(c));
    let (key, rest) = text.split_at(end.unwrap_or(text.len()));
    let rest = rest.trim();
    let one = |value: &str| vec![value.trim().to_owned()];
    let bound = |value: &str| value.trim().parse::<i64>().map_err(|_| bad(text));
    let operator = if rest.is_empty() {
        Operator::Exists
    } else if let Some(value) = rest.strip_prefix("!=") {
        Operator::NotIn(one(value))
    } else if let Some(value) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
        Operator::In(one(value))
    } else if let Some(value) = rest.strip_prefix('>') {
        Operator::Above(bound(value)?)
    } else if let Some(value) = rest.strip_prefix('<') {
        Operator::Below(bound(value)?)
    } else if let Some(list) = rest.strip_prefix("notin") {
        Operator::NotIn(values(list).ok_or_else(|| bad(text))?)
    } else if let Some(list) = rest.strip_prefix("in") {
        Operator::In(values(list).ok_or_else(|| bad(text))?)
    } else {
        return Err(bad(text));
    };
    named(key, operator, text)
}

fn named(name: &str, operator: Operator, text: &str) -> Result<Requirement, FilterError> {
    let (source, key) = name.split_once(':').unwrap_or(("any", name));
    let legal = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let single = match &operator {
        Operator::In(values) | Operator::NotIn(values) => values.as_slice(),
        _ => &[],
    };
    // A value has the same letters as a key, without the slash of its prefix.
    let values_legal = single
        .iter()
        .all(|v| v.chars().all(|c| legal(c) && c != '/'));
    if key.is_empty() || !key.chars().all(legal) || !source.chars().all(legal) || !values_legal {
        return Err(bad(text));
    }
    let source = if source == "any" { "" } else { source };
    Ok(Requirement {
        source: source.to_owned(),
        key: key.to_owned(),
        operator,
    })
}

/// `(a, b)`.
fn values(list: &str) -> Option<Vec<String>> {
    let inner = list.trim().strip_prefix('(')?.strip_suffix(')')?;
    Some(
        inner
            .split(',')
            .map(|value| value.trim().to_owned())
            .collect(),
    )
}

fn bad(text: &str) -> FilterError {
    FilterError::new(format!("unable to parse requirement {text:?}"))
}
