//! Label selectors (text and object form) and field selectors.

use serde_json::Value;

use super::object;

/// What is asked of one label.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    /// Also true when the label is absent.
    NotIn(Vec<String>),
    Exists,
    Absent,
}

/// A conjunction of tests on labels. The empty one selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    tests: Vec<(String, Test)>,
}

impl LabelSelector {
    /// Reads `a=b,c!=d,e in (f,g),h notin (i),j,!k`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut tests = Vec::new();
        for part in split_outside_parentheses(text) {
            let part = part.trim();
            if !part.is_empty() {
                tests.push(parse_test(part)?);
            }
        }
        Ok(Self { tests })
    }

    /// Reads a `matchLabels`/`matchExpressions` object. Null selects nothing and gives `None`.
    pub fn from_object(selector: &Value) -> Option<Self> {
        selector.as_object()?;
        let mut out = Self::from_map(&selector["matchLabels"]);
        for expression in object::list(selector, "/matchExpressions") {
            let key = expression["key"].as_str().unwrap_or_default().to_owned();
            let values = object::list(expression, "/values");
            let values = values.iter().filter_map(Value::as_str).map(str::to_owned);
            let test = match expression["operator"].as_str()? {
                "In" => Test::In(values.collect()),
                "NotIn" => Test::NotIn(values.collect()),
                "Exists" => Test::Exists,
                "DoesNotExist" => Test::Absent,
                _ => return None,
            };
            out.tests.push((key, test));
        }
        Some(out)
    }

    /// Reads a plain map of labels (a Service's selector).
    pub fn from_map(labels: &Value) -> Self {
        let tests = labels
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| {
                let value = value.as_str().unwrap_or_default().to_owned();
                (key.clone(), Test::In(vec![value]))
            });
        Self {
            tests: tests.collect(),
        }
    }

    /// True when there is nothing to test.
    pub fn is_empty(&self) -> bool {
        self.tests.is_empty()
    }

    /// Judges an object by its `metadata.labels`.
    pub fn matches(&self, object: &Value) -> bool {
        self.matches_labels(&object["metadata"]["labels"])
    }

    /// Judges a map of labels.
    pub fn matches_labels(&self, labels: &Value) -> bool {
        self.tests.iter().all(|(key, test)| {
            let value = labels[key.as_str()].as_str();
            match (test, value) {
                (Test::In(wanted), Some(v)) => wanted.iter().any(|w| w == v),
                (Test::NotIn(refused), Some(v)) => refused.iter().all(|w| w != v),
                (Test::Exists, found) => found.is_some(),
                (Test::Absent, found) => found.is_none(),
                (Test::In(_), None) => false,
                (Test::NotIn(_), None) => true,
            }
        })
    }
}

impl std::fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, (key, test)) in self.tests.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match test {
                Test::In(values) => match values.as_slice() {
                    [one] => write!(f, "{key}={one}")?,
                    many => write!(f, "{key} in ({})", many.join(","))?,
                },
                Test::NotIn(values) => write!(f, "{key} notin ({})", values.join(","))?,
                Test::Exists => f.write_str(key)?,
                Test::Absent => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut depth = 0_u32;
    text.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .collect()
}

fn parse_test(part: &str) -> Result<(String, Test), String> {
    let fail = || format!("unable to parse requirement: {part:?}");
    if let Some(key) = part.strip_prefix('!') {
        return Ok((checked_key(key.trim(), part)?, Test::Absent));
    }
    if let Some(rest) = part.strip_suffix(')') {
        let (head, values) = rest.split_once('(').ok_or_else(fail)?;
        let mut words = head.split_whitespace();
        let (key, operator) = (words.next(), words.next());
        let values = values.split(',').map(|v| v.trim().to_owned()).collect();
        let test = match operator {
            Some("in") => Test::In(values),
            Some("notin") => Test::NotIn(values),
            _ => return Err(fail()),
        };
        if words.next().is_some() {
            return Err(fail());
        }
        return Ok((checked_key(key.unwrap_or_default(), part)?, test));
    }
    let (key, test) = if let Some((key, value)) = part.split_once("!=") {
        (key, Test::NotIn(vec![value.trim().to_owned()]))
    } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        (key, Test::In(vec![value.trim().to_owned()]))
    } else {
        (part, Test::Exists)
    };
    Ok((checked_key(key.trim(), part)?, test))
}

fn checked_key(key: &str, part: &str) -> Result<String, String> {
    let fine = !key.is_empty()
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    if fine {
        Ok(key.to_owned())
    } else {
        Err(format!("unable to parse requirement: {part:?}"))
    }
}

/// A conjunction of tests on fields, given by dotted path: `spec.nodeName=a,status.phase!=Failed`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// Path, wanted value, and whether it must be equal.
    tests: Vec<(String, String, bool)>,
}

impl FieldSelector {
    /// Reads the text form.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut tests = Vec::new();
        for part in text.split(',').filter(|p| !p.trim().is_empty()) {
            let (path, value, equal) = if let Some((path, value)) = part.split_once("!=") {
                (path, value, false)
            } else if let Some((path, value)) =
                part.split_once("==").or_else(|| part.split_once('='))
            {
                (path, value, true)
            } else {
                return Err(format!("invalid field selector: {part:?}"));
            };
            tests.push((path.trim().to_owned(), value.trim().to_owned(), equal));
        }
        Ok(Self { tests })
    }

    /// Judges an object. An absent field counts as "".
    pub fn matches(&self, object: &Value) -> bool {
        self.tests.iter().all(|(path, wanted, equal)| {
            let found = path.split('.').fold(object, |value, key| &value[key]);
            let same = match found {
                Value::String(text) => text == wanted,
                Value::Null => wanted.is_empty(),
                other => {
                    let written = other.to_string();
                    written == *wanted
                }
            };
            same == *equal
        })
    }

    /// The name that the selector asks for, when it is about one object.
    pub fn name(&self) -> Option<&str> {
        let test = self
            .tests
            .iter()
            .find(|(path, _, equal)| path == "metadata.name" && *equal);
        test.map(|(_, name, _)| name.as_str())
    }
}

/// Both kinds of selectors of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    /// On labels.
    pub labels: LabelSelector,
    /// On fields.
    pub fields: FieldSelector,
}

impl Selector {
    /// Judges an object.
    pub fn matches(&self, object: &Value) -> bool {
        self.labels.matches(object) && self.fields.matches(object)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selects(text: &str, labels: Value) -> bool {
        LabelSelector::parse(text)
            .expect(text)
            .matches_labels(&labels)
    }

    #[test]
    fn label_syntax() {
        let ship = json!({"org": "empire", "class": "tiefighter"});
        for yes in [
            "",
            "org=empire",
            "org==empire, class=tiefighter",
            "org!=alliance",
            "crew!=many",
            "org in (alliance, empire),class",
            "class notin (xwing)",
            "crew notin (many)",
            "!crew",
        ] {
            assert!(selects(yes, ship.clone()), "{yes}");
        }
        for no in [
            "org=alliance",
            "org!=empire",
            "org in (alliance)",
            "org notin (empire,x)",
            "crew",
            "!org",
            "crew=",
        ] {
            assert!(!selects(no, ship.clone()), "{no}");
        }
        for bad in ["=a", "a in b", "a within (b)", "a b c (d)", "a b"] {
            assert!(LabelSelector::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn label_objects() {
        let selector = json!({"matchLabels": {"a": "1"}, "matchExpressions": [
            {"key": "b", "operator": "In", "values": ["2", "3"]},
            {"key": "c", "operator": "DoesNotExist"}]});
        let selector = LabelSelector::from_object(&selector).expect("an object");
        assert_eq!(selector.to_string(), "a=1,b in (2,3),!c");
        assert!(selector.matches_labels(&json!({"a": "1", "b": "3"})));
        assert!(!selector.matches_labels(&json!({"a": "1", "b": "3", "c": ""})));
        assert!(LabelSelector::from_object(&Value::Null).is_none());
    }

    #[test]
    fn fields() {
        let pod = json!({"metadata": {"name": "xwing"}, "spec": {"nodeName": "kind-worker"}});
        for (text, expected) in [
            ("metadata.name=xwing", true),
            ("spec.nodeName=kind-worker,status.phase!=Failed", true),
            ("spec.nodeName!=kind-worker", false),
            ("spec.hostNetwork=", true),
            ("metadata.name==tiefighter", false),
        ] {
            let selector = FieldSelector::parse(text).expect(text);
            assert_eq!(selector.matches(&pod), expected, "{text}");
        }
        assert_eq!(
            FieldSelector::parse("metadata.name=xwing")
                .expect("fine")
                .name(),
            Some("xwing")
        );
        assert!(FieldSelector::parse("metadata.name").is_err());
    }
}
